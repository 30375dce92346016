"""What a federation has decided before its first round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fedward.common.config.run import SamplingConfig, StopConfig


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
