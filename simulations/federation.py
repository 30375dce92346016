"""Runs one federation on a grid: the real server loop against the real client app.

Three kinds share all of the code: `federated` is the run itself; the baseline `local` shares no
tensor, so that every site trains alone; the baseline `pooled` has one site that holds all rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from fedward.client.app import make_client_app
from fedward.client.site import Site
from fedward.client.store import SiteStore
from fedward.client.trainer import LocalTrainer
from fedward.common.config.run import RunConfig, SamplingConfig, StrategyConfig
from fedward.common.parameters import ParameterSet, shared_set
from fedward.common.randomness import seed_for, seeded_global_torch
from fedward.common.records import PARAMETERS
from fedward.common.task import SiteData, Split, Statistics, Task
from fedward.common.tasks import build_task
from fedward.common.vectors import Vector
from fedward.server.checkpoint import CheckpointFolder, Progress
from fedward.server.history import History
from fedward.server.rounds import Outcome, Plan, RoundLoop, RoundReport
from fedward.server.strategies import build_strategy
from fedward.simulations.grids.base import SimulationGrid
from fedward.simulations.sites import SimulatedSites, pool, resolve_sites
from fedward.simulations.worker import SiteWorker

Kind = Literal["federated", "local", "pooled"]
POOLED = "pooled"
__all__ = ["Federation", "Kind", "build_worker"]


@dataclass(frozen=True)
class Federation:
    """All that fixes one federation; picklable, so that Ray's actors build the same one.

    Args:
        config: the run.
        kind: the run itself, or a baseline.
        split: which patients are test patients; its seed is the repetition's.
        base_dir: folder of the configuration file; relative paths start there.
        store: the sites' database, or None to keep their state in memory.
    """

    config: RunConfig
    kind: Kind
    split: Split
    base_dir: Path
    store: Path | None = None

    @property
    def seed(self) -> int:
        """The repetition's seed."""
        return self.split.seed

    @property
    def run_key(self) -> str:
        """Names this federation in messages and in the sites' stores."""
        fold = "" if self.split.fold is None else f"-fold{self.split.fold}"
        return f"{self.config.name}-{self.kind}-seed{self.seed}{fold}"

    @cached_property
    def task(self) -> Task:
        """The task, from the configuration."""
        return build_task(self.config, self.base_dir)

    @cached_property
    def sites(self) -> SimulatedSites:
        """Where each site's rows come from."""
        return resolve_sites(self.config.data, seed=self.seed, base_dir=self.base_dir)

    @cached_property
    def nodes(self) -> dict[str, int]:
        """Node id of each site, in the order of their names; the pooled site comes last."""
        names = sorted(self.sites.site_ids)
        if self.kind == POOLED:
            names.append(POOLED)
        return {name: number for number, name in enumerate(names, start=1)}

    @cached_property
    def statistics_are_shared(self) -> bool:
        """Whether preprocessing uses sums over all sites. A site alone has only its own."""
        if self.kind == "local":
            return False
        return self.kind == POOLED or self.config.data.statistics == "federated"
