"""What a federation has decided before its first round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fedward.common.config.monitor import StopConfig
from fedward.common.config.run import SamplingConfig
from fedward.common.parameters import ParameterSet
from fedward.common.study import Study
from fedward.server.anchors import Anchors


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
    stop: StopConfig | None = None
    statistics_size: int | None = None
    """Length of the preprocessing sums to collect before round 1; None: sites use their own."""
    anchors: Anchors | None = None
    """Where the heads of the sites' audit logs are kept; a simulation's sites have none."""

    @cached_property
    def sites(self) -> dict[int, str]:
        """Site of each node id."""
        return {node: site for site, node in self.nodes.items()}

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
    """Return the plan of a study in which every site of `nodes` takes part."""
    config, baseline = study.config, study.kind != "federated"
    sampling = config.sampling
    if baseline:  # nothing is averaged, so there is no quorum to keep
        sampling = sampling.model_copy(update={"min_replies": 1})
    return Plan(
        run_key=study.run_key,
        seed=study.seed,
        num_rounds=num_rounds,
        nodes=nodes,
        cohort_bounds=cohort_bounds,
        manifest_hash=shared.manifest_hash,
        sampling=sampling,
        evaluate_every=0 if baseline else config.evaluate_every,
        stop=None if baseline else config.monitor.stop,
        statistics_size=study.task.statistics_size if study.statistics_are_shared else None,
        anchors=anchors,
    )
