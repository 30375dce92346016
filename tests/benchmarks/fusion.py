"""Does fusion help, and only where it can? CT phantoms whose labels depend on what we say.

    python -m tests.benchmarks.fusion [--labels both ct ehr none] [--seeds 3] [--patients 1000]

For each kind of label a cohort of phantoms is made and its hash printed before anything is
trained. Every arm is the small network (preset `smoke`, or other networks of its size) trained on
the pooled training patients of four sites, and tested on the pooled test patients. A seed draws
the split, the first weights and the batches, so arms are paired by seed: a difference is the mean
over seeds with Student's t interval. DeLong's test compares two arms on the same test patients.

What it does not say: regions are centred on the true stone; the intervals over seeds are of other
splits of the same phantoms, which overlap, so for new ones they are too narrow.
"""

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from fedward.common.delong import delong_test
from fedward.common.intervals import mean_interval, paired_interval
from fedward.common.quiet import quiet_third_parties
from tests.benchmarks.ct_arms import (
    SMOKE,
    Labels,
    Result,
    configured,
    make_cohort,
    shown,
    trained,
)

ARMS: dict[str, tuple[str, ...]] = {
    "tokens": (SMOKE,),
    "ct-only": (SMOKE, "data.modalities=[image]"),
    "ehr-only": (SMOKE, "data.modalities=[table]"),
    "published": (SMOKE, "model.fusion=published"),
    "concat-fusion": ("model={name: concat-fusion, mask: false, width: 8, hidden: 64}",),
    "tmss": (
        "model={name: tmss, hidden: 96, layers: 4, heads: 4, mlp_dim: 192, patch: 8, "
        "feature_size: 4}",
    ),
}
WANTED: dict[Labels, tuple[str, ...]] = {
    "both": ("tokens", "ct-only", "ehr-only", "published"),
    "ct": ("tokens", "ct-only"),
    "ehr": ("tokens", "ehr-only"),
    "none": ("tokens",),
}


def main() -> None:
    """Print the table of each kind of label."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", nargs="+", choices=list(WANTED), default=list(WANTED))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), help="default: what is compared")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--patients", type=int, default=1000, help="at four sites together")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, a core each")
    args = parser.parse_args()
    quiet_third_parties()
    for labels in args.labels:
        arms = tuple(args.arms or WANTED[labels])
        print(f"\nlabels depend on {labels}", flush=True)
        make_cohort(labels, args.patients)
        found: dict[str, list[Result]] = {arm: [] for arm in arms}
        jobs = [(seed, arm) for seed in range(1, args.seeds + 1) for arm in arms]
        run = partial(_run, labels, args.patients, args.epochs)
        with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as processes:
            for (seed, arm), (result, seconds) in zip(jobs, processes.map(run, jobs), strict=True):
                found[arm].append(result)
                dice = "" if result.dice is None else f"  Dice {result.dice:.3f}"
                print(
                    f"  seed {seed}  {arm:14} AUROC {result.auroc:.3f}{dice}  {seconds:.0f} CPU s",
                    flush=True,
                )
        for line in table(found):
            print(line, flush=True)


def _run(labels: Labels, patients: int, epochs: int, job: tuple[int, str]) -> tuple[Result, float]:
    """Return what came of one arm with one seed, and its CPU seconds."""
    quiet_third_parties()
    seed, arm = job
    begun = time.process_time()
    result = trained(configured(labels, patients, ARMS[arm]), seed, epochs)
    return result, time.process_time() - begun


def table(found: dict[str, list[Result]]) -> Iterator[str]:
    """Yield the means of each arm, and the first arm against each other one."""
    for arm, results in found.items():
        auroc = mean_interval([r.auroc for r in results])
        dice = [r.dice for r in results if r.dice is not None]
        of_masks = f"  Dice {shown(mean_interval(dice))}" if dice else ""
        yield f"  {arm:14} AUROC {shown(auroc)}{of_masks}"
    first, *others = found
    for other in others:
        pairs = list(zip(found[first], found[other], strict=True))
        gain = paired_interval([a.auroc for a, _ in pairs], [b.auroc for _, b in pairs])
        p_values = [
            delong_test(a.label == 1, a.probability, b.probability).p_value for a, b in pairs
        ]
        each = ", ".join(f"{p:.2g}" for p in p_values)
        yield f"  {first} - {other}: {shown(gain, signed=True)}; DeLong p per seed {each}"


if __name__ == "__main__":
    main()
