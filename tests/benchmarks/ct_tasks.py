"""Does learning masks and classes together pay? One federation, with a network of both or of one.

    python -m tests.benchmarks.ct_tasks resformer|dsmt-net [--seeds 3] [--set KEY=VALUE]

Arms are the shipped configuration with keys of its network changed, as `--set` changes them, all
federated. A seed draws the split into training and test patients, the first weights and the
batches. So arms are paired by seed, and a difference is the mean over seeds with Student's t
interval: of other splits of the same patients, which overlap, so that for new patients it is too
narrow. Figures are those of each site's test patients, and the mean over sites.
"""

import argparse
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np

from fedward.common.config.loader import load_run_config
from fedward.common.intervals import mean_interval, paired_interval
from fedward.common.quiet import quiet_third_parties
from fedward.simulations.cli import find_config
from fedward.simulations.image_sites import make_phantoms
from tests.benchmarks.ct_arms import shown
from tests.benchmarks.ct_hospitals import METRICS, Found, Job, Study, trained

WHOLE = "as shipped"
ARMS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "resformer": (
        "resformer_nodules",
        {
            WHOLE: (),
            "class alone": ("model.tasks=[label]",),
            "mask alone": ("model.tasks=[mask]",),
            "without DFE": ("model.dfe=false",),
            "parallel": ("model.order=parallel",),
        },
    ),
    "dsmt-net": (
        "dsmt_phantom",
        {
            WHOLE: (),
            "class alone": ("model.tasks=[label]",),
            "without mask": ("model.tasks=[label, signs]",),
            "middle alone": ("model.scales=middle",),
        },
    ),
}


def main() -> None:
    """Print the arms of one network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3, help="1 to this number (at least 3)")
    parser.add_argument("--only", nargs="*", metavar="ARM", help="beside the whole network")
    parser.add_argument("--set", action="append", default=[], dest="common", metavar="KEY=VALUE")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, a core each")
    args = parser.parse_args()
    quiet_third_parties()
    name, arms = ARMS[args.network]
    arms = {
        arm: (*args.common, *own)
        for arm, own in arms.items()
        if not args.only or arm in (WHOLE, *args.only)
    }
    phantom = load_run_config(find_config(name)).config.data.phantom
    if phantom is not None:
        make_phantoms(phantom, say=partial(print, flush=True))
    found: dict[str, list[Found]] = {arm: [] for arm in arms}
    places = [(arm, seed) for seed in range(1, args.seeds + 1) for arm in arms]
    jobs = [Job(Study(name, arms[arm]), seed, "federated") for arm, seed in places]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as processes:
        for (arm, seed), one in zip(places, processes.map(trained, jobs), strict=True):
            found[arm].append(one)
            print(f"seed {seed} {arm}: {one.seconds:.0f} CPU s", flush=True)
    for line in table(found):
        print(line)


def table(found: Mapping[str, list[Found]]) -> Iterator[str]:
    """Yield each arm's figures, and how much better the whole network is."""
    columns = [cell for metric in METRICS for cell in (metric, f"{metric}, {WHOLE} minus this")]
    yield f"\n| arm | {' | '.join(columns)} |"
    yield "|" + "---|" * (1 + len(columns))
    whole = {metric: _means(found[WHOLE], metric) for metric in METRICS}
    for arm, runs in found.items():
        cells = []
        for metric in METRICS:
            own = _means(runs, metric)
            if not all(map(math.isfinite, own)):
                cells += ["-", "-"]
                continue
            better = (
                "-" if arm == WHOLE else shown(paired_interval(whole[metric], own), signed=True)
            )
            cells += [shown(mean_interval(own)), better]
        yield f"| {arm} | {' | '.join(cells)} |"


def _means(runs: list[Found], metric: str) -> list[float]:
    """Return the mean over sites of each run; not a number where the arm has no such figure."""
    scores = [np.array(list(run.scores[metric].values())) for run in runs]
    return [math.nan if np.isnan(values).all() else float(np.nanmean(values)) for values in scores]


if __name__ == "__main__":
    main()
