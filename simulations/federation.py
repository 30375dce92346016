"""Runs one federation on a grid: the real server loop against the real client app.

Three kinds share all of the code: `federated` is the run itself; the baseline `local` shares no
tensor, so that every site trains alone; the baseline `pooled` has one site that holds all rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from fedward.client.site import Site
from fedward.client.stacked import can_stack
from fedward.client.stacked_trainer import make_trainer
from fedward.client.store import SiteStore
from fedward.client.trainer import LocalTrainer, TrainerSettings
from fedward.common.config.run import RunConfig, SamplingConfig, StrategyConfig
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.parameters import ParameterSet, shared_set
from fedward.common.randomness import seed_for, seeded_global_torch
from fedward.common.records import PARAMETERS
from fedward.common.task import SiteData, Split, Statistics, Task
from fedward.common.tasks import build_task
from fedward.common.vectors import Vector
from fedward.server.checkpoint import CheckpointFolder, Progress
from fedward.server.history import History
from fedward.server.plan import Plan
from fedward.server.rounds import Outcome, RoundLoop, RoundReport
from fedward.server.strategies import build_strategy
from fedward.simulations.grids.base import SimulationGrid
from fedward.simulations.sites import SimulatedSites, pool, resolve_sites
from fedward.simulations.worker import SiteWorker, app_worker

Kind = Literal["federated", "local", "pooled"]
POOLED = "pooled"


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

    @cached_property
    def initial(self) -> tuple[ParameterSet, Vector]:
        """What travels, and its values before round 1."""
        model = self.new_model()
        shared = self.shared_of(model)
        return shared, shared.flatten(model.state_dict())

    def new_model(self) -> nn.Module:
        """Return the model as every party initialises it: the same seed, the same bits."""
        with seeded_global_torch(seed_for(self.seed, purpose="model")):
            model = self.task.build_model()
        if self.config.model.init is not None:
            load_weights(model, self.base_dir / self.config.model.init)
        return model

    def shared_of(self, model: nn.Module) -> ParameterSet:
        """Return the tensors that travel; none in the `local` baseline."""
        if self.kind == "local":
            return ParameterSet.of(model, ())
        strategy = self.config.strategy.name if self.kind == "federated" else "fedavg"
        patterns = self.config.shared if self.kind == "federated" else ("*",)
        return shared_set(model, patterns, strategy=strategy)


def build_worker(federation: Federation) -> SiteWorker:
    """Return a worker that can stand for any site of the federation."""
    store = SiteStore(federation.store)
    model = federation.new_model()
    settings = TrainerSettings(federation.config.local, federation.seed, federation.run_key)
    make = make_trainer if federation.config.engine.vectorised == "auto" else LocalTrainer
    trainer = make(federation.task, model, federation.shared_of(model), settings)
    sites = {node: _site(federation, name, store) for name, node in federation.nodes.items()}
    return app_worker(trainer, sites)


def run_federation(  # noqa: PLR0913 - what, on which engine, and four things around it
    federation: Federation,
    grid: SimulationGrid,
    *,
    history: History,
    checkpoints: CheckpointFolder | None = None,
    on_round: Callable[[RoundReport], None] = lambda report: None,
    num_rounds: int | None = None,
) -> Outcome:
    """Run all rounds of a federation on `grid`, resuming from its newest checkpoint if any."""
    config = federation.config
    if config.sampling.deadline_s is not None and not grid.honours_deadline:
        raise ConfigError("sampling.deadline_s: this engine cannot end a round early")
    own = config.strategy if federation.kind == "federated" else StrategyConfig(name="fedavg")
    strategy = build_strategy(own.name, own.own, num_sites=len(federation.sites.site_ids))
    shared, vector = federation.initial
    grid.prepare(
        partial(build_worker, federation),
        list(federation.nodes.values()),
        stacked=config.engine.vectorised == "auto" and can_stack(federation.new_model()),
    )
    loop = RoundLoop(
        grid,
        strategy,
        _plan(federation, shared, num_rounds or config.rounds),
        history=history,
        checkpoints=checkpoints,
        on_round=on_round,
    )
    found = checkpoints.load_newest(strategy) if checkpoints is not None else None
    start = found or Progress(0, {PARAMETERS: vector})
    history.forget_after(start.round_number)
    return loop.run(start)


def _plan(federation: Federation, shared: ParameterSet, num_rounds: int) -> Plan:
    config, sites = federation.config, federation.sites
    bounds = {site: sites.registered_cohort(site) for site in sites.site_ids}
    bounds[POOLED] = sum(bounds.values())
    baseline = federation.kind != "federated"
    sampling = config.sampling
    if baseline:  # nothing is averaged, so there is no quorum to keep
        sampling = sampling.model_copy(update={"min_replies": 1})
    if federation.kind == POOLED:
        sampling = SamplingConfig(min_replies=1)
    return Plan(
        run_key=federation.run_key,
        seed=federation.seed,
        num_rounds=num_rounds,
        nodes=federation.nodes,
        cohort_bounds=bounds,
        manifest_hash=shared.manifest_hash,
        training_sites=(POOLED,) if federation.kind == POOLED else tuple(sites.site_ids),
        evaluation_sites=tuple(sites.site_ids),
        sampling=sampling,
        evaluate_every=0 if baseline else config.evaluate_every,
        stop=None if baseline else config.monitor.stop,
        statistics_size=(
            federation.task.statistics_size if federation.statistics_are_shared else None
        ),
    )


def _site(federation: Federation, name: str, store: SiteStore) -> Site:
    """Return one site, or the pooled one, whose rows are everybody's."""
    task = federation.task

    def read(site: str, statistics: Statistics | None) -> SiteData:
        return task.datasets(federation.sites.source(site), federation.split, statistics)

    def read_pooled(statistics: Statistics | None) -> SiteData:
        parts = [read(site, statistics) for site in federation.sites.site_ids]
        return SiteData(pool([p.train for p in parts]), pool([p.test for p in parts]))

    if name == POOLED:
        return Site(name, read_pooled, lambda: _no_sums(name), store)
    return Site(
        name,
        partial(read, name),
        lambda: task.local_statistics(federation.sites.source(name), federation.split),
        store,
    )


def _no_sums(name: str) -> Statistics:
    raise SiteDataError(f"{name} has no statistics of its own")


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all tensors of `model` to a `.safetensors` file."""
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Overwrite the tensors of `model` with those of a `.safetensors` file.

    Raises:
        ConfigError: there is no such file, or it belongs to another model.
    """
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise ConfigError(f"model.init: there is no file {path}") from error
    except (RuntimeError, SafetensorError) as error:
        raise ConfigError(f"model.init: {path} does not fit the model: {error}") from error
