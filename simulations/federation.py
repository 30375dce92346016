"""Runs one study on a simulation grid: the real server loop against the real client app."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from fedward.client.egress import EgressRules, Gate
from fedward.client.keyed_source import KeyedSource
from fedward.client.networks import by_network
from fedward.client.privacy.account import SeededAccount
from fedward.client.privacy.update_clipping import protected
from fedward.client.releases import ReleaseLedger
from fedward.client.site import Site
from fedward.client.stacked import can_stack
from fedward.client.stacked_trainer import make_trainer
from fedward.client.store import SiteStore
from fedward.client.trainer import LocalTrainer, Trainer, TrainerSettings
from fedward.common.config.run import SamplingConfig
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.monitoring.layers import watched_layers
from fedward.common.parameters import ParameterSet
from fedward.common.randomness import seed_for
from fedward.common.records import PARAMETERS
from fedward.common.study import Study
from fedward.common.tables.table import Table
from fedward.common.task import SiteData, Statistics
from fedward.common.tasks.ehr_classification import EhrClassification
from fedward.server.checkpoint import CheckpointFolder, Progress
from fedward.server.history import History
from fedward.server.plan import Plan, make_plan
from fedward.server.rounds import Outcome, RoundLoop, RoundObserver, RoundReport
from fedward.server.strategies import build_strategy
from fedward.simulations.earlier_runs import carry_over, spent_before
from fedward.simulations.grids.base import SimulationGrid
from fedward.simulations.sites import SimulatedSites, pool, resolve_sites
from fedward.simulations.worker import SiteWorker, app_worker

POOLED = "pooled"
SIMULATED_SITE = EgressRules(min_cohort=5, synthetic_rows=100_000)
"""What each site of a simulation that makes synthetic rows lets out; a hospital says it itself."""


@dataclass(frozen=True)
class Federation(Study):
    """A study whose sites are all on this machine or cluster.

    Args:
        store: the sites' database, or None to keep their state in memory.
        maps: a folder for the covariance maps of watched layers; None: they are not kept.
    """

    store: Path | None = None
    maps: Path | None = None

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


def build_worker(federation: Federation) -> SiteWorker:
    """Return a worker that can stand for any site of the federation."""
    store = SiteStore(federation.store)
    trainer = by_network(federation, partial(_trainer, federation))
    sites = {node: _site(federation, name, store) for name, node in federation.nodes.items()}
    if federation.config.synthesis is None:
        return app_worker(protected(trainer, federation), sites)
    from fedward.client.synthesis import Synthesis  # pandas and scikit-learn, which few runs need

    # A simulation has no secrets: the run's seed stands for the sites' keys.
    source = KeyedSource(seed_for(federation.seed, purpose="synthesis").to_bytes(8, "big"))
    synthesis = Synthesis(federation, source, SIMULATED_SITE.min_cohort)
    gate = Gate(SIMULATED_SITE, releases=ReleaseLedger(federation.store))
    return app_worker(trainer, sites, gate=gate, synthesis=synthesis)


def _trainer(federation: Federation, study: Study) -> Trainer:
    """Return what trains the sites of one network."""
    model = study.new_model()
    settings = TrainerSettings.of(study, maps=federation.maps)
    account = SeededAccount(
        federation.seed,
        spent_before(federation, federation.sites.site_ids),
        stage=len(federation.origin.private_runs),
    )
    make = make_trainer if federation.config.engine.vectorised == "auto" else LocalTrainer
    return make(study.task, model, study.shared_of(model), settings, account=account)


def run_federation(  # noqa: PLR0913 - what, on which engine, and five things around it
    federation: Federation,
    grid: SimulationGrid,
    *,
    history: History,
    checkpoints: CheckpointFolder | None = None,
    on_round: Callable[[RoundReport], None] = lambda report: None,
    num_rounds: int | None = None,
    observers: Sequence[RoundObserver] = (),
) -> Outcome:
    """Run all rounds of a federation on `grid`, resuming from its newest checkpoint if any."""
    config = federation.config
    if config.sampling.deadline_s is not None and not grid.honours_deadline:
        raise ConfigError("sampling.deadline_s: this engine cannot end a round early")
    own = federation.strategy
    strategy = build_strategy(own.name, own.own, num_sites=len(federation.sites.site_ids))
    federation.check_shared(federation.sites.site_ids)
    federation.check_origin()
    if federation.task.modalities:  # else no site need be read here
        sources = map(federation.sites.source, federation.sites.site_ids)
        federation.check_modalities([federation.task.lacking(source) for source in sources])
    own_store = federation.store if federation.kind == "federated" else None
    carry_over(federation, federation.sites.site_ids, own_store)
    shared, vector = federation.initial
    model = federation.new_model()
    if config.monitor.cme is not None:
        watched_layers(model, config.monitor.cme.layers)  # a wrong name is told before all work
    grid.prepare(
        partial(build_worker, federation),
        list(federation.nodes.values()),
        stacked=config.engine.vectorised == "auto" and can_stack(model),
    )
    loop = RoundLoop(
        grid,
        strategy,
        plan_of(federation, shared, num_rounds or config.rounds),
        history=history,
        checkpoints=checkpoints,
        on_round=on_round,
        observers=observers,
    )
    found = checkpoints.load_newest(strategy, vector) if checkpoints is not None else None
    start = found or Progress(0, {PARAMETERS: vector})
    history.forget_after(start.round_number)
    return loop.run(start)


def plan_of(federation: Federation, shared: ParameterSet, num_rounds: int) -> Plan:
    """Return who takes part in a simulation, and under which rules."""
    sites = federation.sites
    bounds = {site: sites.registered_cohort(site) for site in sites.site_ids}
    bounds[POOLED] = sum(bounds.values())
    plan = make_plan(
        federation, shared, nodes=federation.nodes, cohort_bounds=bounds, num_rounds=num_rounds
    )
    plan = replace(plan, training_sites=sites.site_ids, evaluation_sites=sites.site_ids)
    if federation.kind == POOLED:
        plan = replace(plan, training_sites=(POOLED,), sampling=SamplingConfig(min_replies=1))
    return plan


def _site(federation: Federation, name: str, store: SiteStore) -> Site:
    """Return one site, or the pooled one, whose rows are everybody's."""
    task = federation.task

    def read(site: str, statistics: Statistics | None) -> SiteData:
        return task.datasets(federation.sites.source(site), federation.split, statistics)

    def has_some(site: str) -> bool:
        """Return whether a site has anything that the network looks at."""
        looks_at = task.modalities
        return not looks_at or task.lacking(federation.sites.source(site)) != looks_at

    def read_pooled(statistics: Statistics | None) -> SiteData:
        parts = [read(site, statistics) for site in federation.sites.site_ids if has_some(site)]
        steering = [p.validation for p in parts if p.validation is not None]
        return SiteData(
            pool([p.train for p in parts]),
            pool([p.test for p in parts]),
            pool(steering) if steering else None,
        )

    if name == POOLED:
        return Site(name, read_pooled, lambda: _no_sums(name), store)
    return Site(
        name,
        partial(read, name),
        lambda: task.local_statistics(federation.sites.source(name), federation.split),
        store,
        partial(_training_rows, federation, name),
    )


def _training_rows(federation: Federation, name: str) -> Table:
    task = federation.task
    assert isinstance(task, EhrClassification), "no other task makes rows"
    return task.training_rows(federation.sites.source(name), federation.split)


def _no_sums(name: str) -> Statistics:
    raise SiteDataError(f"{name} has no statistics of its own")
