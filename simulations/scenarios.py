"""The CME paper's four scenarios: different or the same data, different or the same networks.

A run in which one table is cut into sites with networks of their own is scenario 1. In 2 and 4 all
sites have its `model`, and average all of it; in 3 and 4 all sites have all patients, and one split
of them. Each scenario is trained together, and each site alone with as many steps; seeds pair them.

Source: Kumar et al. 2025, "Visualizing Dynamics of Federated Medical Models via Conversational
Memory Elements", ICPR 2024, LNCS 15312, section 4.3 and table 1. Ours: training alone.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from fedward.common.config.loader import Repetition, config_hash, load_run_config
from fedward.common.config.run import RunConfig
from fedward.common.errors import ConfigError
from fedward.common.quiet import quiet_third_parties
from fedward.common.task import Metric
from fedward.common.tasks import build_task
from fedward.simulations.cli import find_config
from fedward.simulations.console import NullDisplay
from fedward.simulations.engine import open_grid
from fedward.simulations.over_seeds import over_seeds, paired_over_seeds
from fedward.simulations.repetition import run_repetition
from fedward.simulations.simulate import simulate
from fedward.simulations.sites import resolve_sites

METRICS = ("accuracy", "auroc")
Figures = Mapping[str, Mapping[str, float | None]]
"""By site, then by metric."""


@dataclass(frozen=True)
class Scenario:
    """What the hospitals have in common."""

    number: int
    """As in the paper's table 1."""
    same_data: bool
    same_network: bool

    @property
    def title(self) -> str:
        """Return it in words."""
        data = "the same data" if self.same_data else "different data"
        return f"{data}, {'the same network' if self.same_network else 'different networks'}"

    @property
    def overrides(self) -> list[str]:
        """Return the keys, as `--set` takes them, that make it of scenario 1."""
        network = ["models=null", "shared=['*']"] if self.same_network else []
        return network + (["data.partition.by=copies"] if self.same_data else [])


SCENARIOS = (
    Scenario(1, same_data=False, same_network=False),
    Scenario(2, same_data=False, same_network=True),
    Scenario(3, same_data=True, same_network=False),
    Scenario(4, same_data=True, same_network=True),
)


@dataclass(frozen=True)
class Trained:
    """One scenario with one seed: the figures of every site, trained together and alone."""

    study: str
    """Hash of all that the runs of a study have in common."""
    scenario: int
    seed: int
    federated: Figures
    alone: Figures
    num_tested: Mapping[str, int]
    """Test patients of each site."""
    majority: Mapping[str, float]
    """Share of the most frequent class among each site's patients."""


@dataclass(frozen=True)
class Compared:
    """A figure over the seeds, with Student's t intervals; the difference is paired by seed."""

    federated: Metric
    alone: Metric
    gain: Metric
    """Federated minus alone."""


@dataclass(frozen=True)
class Client:
    """One site in one scenario."""

    scenario: Scenario
    site: str
    network: str
    num_tested: tuple[int, ...]
    """Of each seed."""
    majority: float
    """Accuracy of always saying the most frequent class; mean over the seeds."""
    figures: Mapping[str, Compared]
    """By metric."""


def load_scenarios(name: str, overrides: Sequence[str] = ()) -> tuple[dict[int, RunConfig], Path]:
    """Return the run of each scenario by its number, and the folder of the file.

    Args:
        name: of a shipped file (`cme`), or the path of one; it is scenario 1.
        overrides: `key.path=value` each, of scenario 1.

    Raises:
        ConfigError: the file cannot be used, or four scenarios cannot come of it.
    """
    shipped = Path(str(resources.files("fedward.simulations"))) / "papers" / "cme.yaml"
    path = find_config(name, {shipped.stem: shipped})
    common = [*overrides, "baselines=[local]", "repeat=null"]
    first = load_run_config(path, common).config
    partition = first.data.partition
    if first.models is None or partition is None or partition.by in ("column", "copies"):
        raise ConfigError(
            "scenarios: the file is of different data and different networks; it needs models, and "
            "data.partition that deals one table (by: iid, or one of the skews)"
        )
    if build_task(first, path.parent).primary_metric != "auroc":
        raise ConfigError(f"task: scenarios compare how well classes are told; {first.task} is not")
    configs = {}
    for one in SCENARIOS:
        own = [*common, *one.overrides, f"name={first.name}-{one.number}"]
        configs[one.number] = load_run_config(path, own).config
    return configs, path.parent


def train_scenarios(  # noqa: PLR0913 - what, where it is kept, and what is known of it
    configs: Mapping[int, RunConfig],
    base_dir: Path,
    folder: Path,
    *,
    num_seeds: int,
    known: Sequence[Trained] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Trained]:
    """Yield every run of the four scenarios, seeds outermost, those of `known` as they are.

    Args:
        configs: as `load_scenarios` returned them.
        base_dir: folder that their paths start from.
        folder: keeps the run of each scenario with the first seed, with report and plots.
        num_seeds: from the configuration's own seed upwards.
        known: of an interrupted study.
        say: shows what is going on.

    Raises:
        ConfigError: there is no seed, or `known` is of another study.
    """
    if num_seeds < 1:
        raise ConfigError("--seeds: a study needs one or more")
    study = _study(configs[1])
    if any(one.study != study for one in known):
        raise ConfigError(
            "the results that are there are of another configuration; give another --out"
        )
    done = {(one.scenario, one.seed): one for one in known}
    first = configs[1].seed
    for seed in range(first, first + num_seeds):
        for number, config in configs.items():
            if (number, seed) not in done:
                say(f"seed {seed}, scenario {number}: {SCENARIOS[number - 1].title}")
                own = config.model_copy(update={"seed": seed})
                kept = folder / f"scenario-{number}" if seed == first else None
                done[number, seed] = _trained(own, base_dir, kept, number, study)
            yield done[number, seed]


def clients_of(configs: Mapping[int, RunConfig], runs: Sequence[Trained]) -> list[Client]:
    """Return every site of every scenario, in the order of the paper's table 2."""
    return [
        _client(configs[one.number], one, site, [run for run in runs if run.scenario == one.number])
        for one in SCENARIOS
        for site in sorted({s for run in runs if run.scenario == one.number for s in run.federated})
    ]


def weakest(clients: Sequence[Client]) -> Client:
    """Return the site of one scenario that is least accurate when it trains alone."""
    return min(clients, key=lambda one: one.figures["accuracy"].alone.value or 0.0)


def mean_gain(runs: Sequence[Trained], scenario: Scenario, metric: str) -> Metric:
    """Return federated minus alone as the mean over a scenario's sites, paired by seed."""

    def mean(figures: Figures) -> float | None:
        values = [found[metric] for found in figures.values()]
        known = [value for value in values if value is not None]
        return math.fsum(known) / len(known) if known else None

    own = [run for run in runs if run.scenario == scenario.number]
    return paired_over_seeds([mean(r.federated) for r in own], [mean(r.alone) for r in own])


def _study(config: RunConfig) -> str:
    return config_hash(config.model_copy(update={"seed": 0})) + f"-{config.rounds}"


def _trained(
    config: RunConfig, base_dir: Path, kept: Path | None, number: int, study: str
) -> Trained:
    summary = _summary(config, base_dir, kept)
    tested = {
        site: int(found["metrics"]["accuracy"]["n"]) for site, found in summary["sites"].items()
    }
    return Trained(
        study=study,
        scenario=number,
        seed=config.seed,
        federated=_figures(summary["sites"]),
        alone=_figures(summary["baselines"]["local"]["sites"]),
        num_tested=tested,
        majority=_majority(config, base_dir),
    )


def _summary(config: RunConfig, base_dir: Path, kept: Path | None) -> dict[str, Any]:
    """Run a scenario once and return what came of it; a run that is kept gets a report too."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        # A run that was interrupted is gone on with.
        return simulate(config, base_dir=base_dir, out=kept.parent, resume=kept).summary
    quiet_third_parties()
    with (
        closing(open_grid(config.engine)) as grid,
        tempfile.TemporaryDirectory(prefix="fedward-scenario-") as scratch,
    ):
        once = Repetition(config.seed, None, None, f"seed{config.seed}")
        shown = NullDisplay()
        return run_repetition(config, once, Path(scratch), base_dir, grid=grid, display=shown)


def _figures(sites: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    return {
        site: {metric: found["metrics"].get(metric, {}).get("value") for metric in METRICS}
        for site, found in sites.items()
    }


def _majority(config: RunConfig, base_dir: Path) -> dict[str, float]:
    sites = resolve_sites(config.data, seed=config.seed, base_dir=base_dir)
    shares = {}
    for site in sites.site_ids:
        table = sites.source(site).read()
        patients, owner = np.unique(table.patient_id, return_inverse=True)
        label = np.zeros(len(patients), dtype=np.int64)
        np.maximum.at(label, owner, table.label)
        shares[site] = float(np.bincount(label).max() / len(label))
    return shares


def _client(config: RunConfig, scenario: Scenario, site: str, runs: Sequence[Trained]) -> Client:
    def compared(metric: str) -> Compared:
        together = [run.federated[site][metric] for run in runs]
        alone = [run.alone[site][metric] for run in runs]
        return Compared(
            over_seeds(together, metric),
            over_seeds(alone, metric),
            paired_over_seeds(together, alone),
        )

    return Client(
        scenario=scenario,
        site=site,
        network=(config.models or {}).get(site, config.model).name,
        num_tested=tuple(run.num_tested[site] for run in runs),
        majority=float(np.mean([run.majority[site] for run in runs])),
        figures={metric: compared(metric) for metric in METRICS},
    )
