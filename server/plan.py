"""What a federation has decided before its first round."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedward.common.config.monitor import MonitorConfig, StopConfig
from fedward.common.config.run import RunConfig, SamplingConfig
from fedward.common.errors import ConfigError
from fedward.common.metrics import VALIDATION_LOSS
from fedward.common.monitoring.thresholds import optimizer_key
from fedward.common.parameters import ParameterSet
from fedward.common.privacy.updates import UpdateNoise
from fedward.common.study import Study
from fedward.server.anchors import Anchors
from fedward.server.central_noise import CentralNoise
from fedward.server.low_rank import ProductAverage
from fedward.server.sampling import num_sampled

_log = logging.getLogger("fedward.privacy")


@dataclass(frozen=True)
class Plan:
    """Who takes part, for how long, and under which rules."""

    run_key: str
    seed: int
    num_rounds: int
    nodes: Mapping[str, int]
    """Node id of each site."""
    cohort_bounds: Mapping[str, int]
    """Registered number of patients of each site: no reply may claim more."""
    manifest_hash: str
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluate_every: int = 1
    """Rounds between evaluations; 0: only after the last."""
    training_sites: Sequence[str] | None = None
    """Who may be asked to train; None: every site."""
    evaluation_sites: Sequence[str] | None = None
    """Who evaluates and sends statistics; None: every site."""
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    optimizer: str = "sgd"
    """Of the sites; `sgd+momentum` is one of its own, as its steps are."""
    is_masked: bool = False
    """Whether replies are masked: then nothing may be computed from one of them."""
    statistics_size: int | None = None
    """Length of the preprocessing sums to collect before round 1; None: sites use their own."""
    anchors: Anchors | None = None
    """Where the heads of the sites' audit logs are kept; a simulation's sites have none."""
    central: CentralNoise | None = None
    """What is added to the mean of each round; None: the run does not ask the server for noise."""
    products: ProductAverage | None = None
    """Averages adapters by their products; None: updates are averaged as they are."""
    frozen: NDArray[np.bool_] | None = None
    """Which values of the model no round may change, (D,); None: all are trained."""

    @cached_property
    def sites(self) -> dict[int, str]:
        """Site of each node id."""
        return {node: site for site, node in self.nodes.items()}

    @property
    def stop(self) -> StopConfig | None:
        """What may end the run before its last round, or let a site rest."""
        return self.monitor.stop

    @property
    def form(self) -> str | None:
        """How the sites take the elements of CME; None: they do not."""
        return None if self.monitor.cme is None else self.monitor.cme.form

    @property
    def trainers(self) -> list[str]:
        """The sites that may be asked to train, sorted."""
        return sorted(self.nodes if self.training_sites is None else self.training_sites)

    @property
    def evaluators(self) -> list[str]:
        """The sites that evaluate, sorted."""
        return sorted(self.nodes if self.evaluation_sites is None else self.evaluation_sites)


def make_plan(  # noqa: PLR0913 - the study, and what only the caller knows
    study: Study,
    shared: ParameterSet,
    *,
    nodes: Mapping[str, int],
    cohort_bounds: Mapping[str, int],
    num_rounds: int,
    anchors: Anchors | None = None,
) -> Plan:
    """Return the plan of a study in which every site of `nodes` takes part.

    Raises:
        ConfigError: the run stops by a figure that no site will have.
    """
    config, baseline = study.config, study.kind != "federated"
    sampling = config.sampling
    if baseline:  # nothing is averaged, so there is no quorum to keep
        sampling = sampling.model_copy(update={"min_replies": 1})
    central = None
    if not baseline and config.protects_sites:
        central = CentralNoise.of(config, num_sites=len(nodes), seed=study.seed)
        _warn(config, shared, num_sites=num_sampled(len(nodes), sampling))
    return Plan(
        run_key=study.run_key,
        seed=study.seed,
        num_rounds=num_rounds,
        nodes=nodes,
        cohort_bounds=cohort_bounds,
        manifest_hash=shared.manifest_hash,
        sampling=sampling,
        evaluate_every=0 if baseline else config.evaluate_every,
        # A baseline has the budget of the run, whatever its own figures say.
        monitor=MonitorConfig(influence=False) if baseline else _monitor(config),
        optimizer=optimizer_key(config.local.optimizer, config.local.momentum),
        statistics_size=study.task.statistics_size if study.statistics_are_shared else None,
        anchors=anchors,
        central=central,
        products=None if baseline else _products(config, shared),
        frozen=shared.frozen_values,
    )


def _products(config: RunConfig, shared: ParameterSet) -> ProductAverage | None:
    lora = config.model.lora
    return ProductAverage(shared) if lora is not None and lora.aggregation == "svd" else None


def _warn(config: RunConfig, shared: ParameterSet, *, num_sites: int) -> None:
    assert config.privacy is not None
    noise = UpdateNoise.of(config.privacy, config.rounds)
    said = noise.drowning(num_sites=num_sites, num_parameters=shared.num_trained)
    if said is not None:
        _log.warning("%s", said)


def _monitor(config: RunConfig) -> MonitorConfig:
    stop = config.monitor.stop
    by_validation = stop is not None and (stop.rule, stop.metric) == ("plateau", VALIDATION_LOSS)
    if by_validation and config.data.validation_fraction == 0:
        raise ConfigError(
            f"monitor.stop.metric: {VALIDATION_LOSS} needs patients that are neither trained on "
            "nor tested on; set data.validation_fraction, such as 0.2"
        )
    return config.monitor
