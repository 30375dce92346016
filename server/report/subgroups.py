"""Figures of each subgroup of patients and of each site, as in table 6 of USCNet.

Each site counts once in a mean, whatever its size; n is the sum over the sites that have the
figure. Its interval is that of `intervals.site_mean`. Of several repetitions the first one is
shown: subgroups have no figures over repetitions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedward.common.intervals import site_mean
from fedward.common.task import Metric
from fedward.server.report.record import Metrics, RunRecord

COLUMNS = ("accuracy", "f1", "sensitivity", "precision", "auroc", "dice")
WITHHELD = "withheld"
"""How a site's reason begins where a cell tells of too few patients (`client.suppression`)."""
MAX_SITES = 30


@dataclass(frozen=True)
class Cell:
    """One figure of one group."""

    metric: Metric
    num_sites: int
    """That were asked for it."""
    num_withheld: int
    num_undefined: int

    @property
    def gaps(self) -> str:
        """Return at how many sites it is missing, in words; nothing at none, or at all of them."""
        if self.metric.value is None:
            return ""
        counts = [(self.num_withheld, "withheld"), (self.num_undefined, "undefined")]
        said = [f"{what} at {count} of {self.num_sites} sites" for count, what in counts if count]
        return "; ".join(said)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    cells: list[Cell]


@dataclass(frozen=True)
class SubgroupTable:
    """The table: means over the sites by subgroup, then all patients of each site."""

    metrics: list[str]
    groups: list[Row]
    sites: list[Row]
    """The first `MAX_SITES`."""
    num_sites: int


def subgroup_table(run: RunRecord) -> SubgroupTable | None:
    """Return the table, or None where no site reported a subgroup."""
    sites = (run.repeats[0].federated if run.repeats else run.federated).sites
    names = dict.fromkeys(name for site in sites.values() for name in site.subgroups)
    if not names:
        return None
    metrics = _columns(run)
    groups = [
        _row(name, metrics, [s.subgroups[name] for s in sites.values() if name in s.subgroups])
        for name in names
    ]
    single = [_row(name, metrics, [site.metrics]) for name, site in list(sites.items())[:MAX_SITES]]
    return SubgroupTable(metrics, groups, single, len(sites))


def _columns(run: RunRecord) -> list[str]:
    """Return the figures of the table that the run has; masks of several structures have each."""
    found = [
        name for kind in COLUMNS for name in run.metric_names if name.partition(".")[0] == kind
    ]
    return found or list(run.headline_metrics)


def _row(name: str, metrics: Sequence[str], sites: Sequence[Metrics]) -> Row:
    return Row(name, [_cell(metric, sites) for metric in metrics])


def _cell(metric: str, sites: Sequence[Mapping[str, Metric]]) -> Cell:
    figures = [site.get(metric, Metric(None, reason="not reported")) for site in sites]
    missing = [figure for figure in figures if figure.value is None]
    withheld = [figure for figure in missing if _is_withheld(figure)]
    mean = figures[0] if len(figures) == 1 else site_mean(figures)
    if len(figures) > 1 and len(missing) == len(figures):
        mean = Metric(None, n=mean.n or None, reason=_in_common(missing))
    return Cell(mean, len(figures), len(withheld), len(missing) - len(withheld))


def _is_withheld(figure: Metric) -> bool:
    return (figure.reason or "").startswith(WITHHELD)


def _in_common(missing: Iterable[Metric]) -> str:
    reasons = dict.fromkeys(figure.reason or "not reported" for figure in missing)
    return "; ".join(reasons)
