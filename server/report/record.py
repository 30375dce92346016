"""What a run left in its folder, parsed once: `summary.json` and `config.yaml` as dataclasses.

Every key beyond INTERFACE's core is optional, so that reports of old runs can be rebuilt.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedward.common.config.image import ImageConfig
from fedward.common.config.yaml_lines import parse_yaml
from fedward.common.errors import ConfigError, FedwardError
from fedward.common.images.mask_metrics import is_mask_figure
from fedward.common.metrics import BINARY_METRICS, CalibrationCurve
from fedward.common.task import Metric

DEFAULT_ROWS = ImageConfig.model_fields["rows"].default
Metrics = Mapping[str, Metric]


@dataclass(frozen=True)
class SiteResult:
    """What one site reported about the final model."""

    metrics: Metrics = field(default_factory=dict)
    num_train: int | None = None
    num_test: int | None = None
    subgroups: Mapping[str, Metrics] = field(default_factory=dict)
    calibration: CalibrationCurve | None = None
    epsilon: float | None = None
    delta: float | None = None


@dataclass(frozen=True)
class Arm:
    """One way of training: federated, or a baseline."""

    sites: Mapping[str, SiteResult] = field(default_factory=dict)
    overall: Metrics = field(default_factory=dict)


@dataclass(frozen=True)
class Repetition:
    """One of several runs of the same configuration."""

    seed: int | None
    federated: Arm
    baselines: Mapping[str, Arm]


@dataclass(frozen=True)
class Refused:
    """A reply that was not used; `round_number` 0 is the preparation before round 1."""

    round_number: int
    site: str
    status: str
    reason: str


@dataclass(frozen=True)
class RunRecord:
    """One finished run."""

    facts: Mapping[str, Any]
    """The plain entries of the summary, such as `name` and `engine`."""
    federated: Arm
    baselines: Mapping[str, Arm]
    """`local`, `pooled`; only those that have figures."""
    repeats: list[Repetition]
    refused: list[Refused]
    skipped_rounds: list[int]
    config_text: str

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.facts.get("name", "unnamed run"))

    @property
    def metric_names(self) -> list[str]:
        """Every figure that any site or the whole has: those of `BINARY_METRICS` first."""
        found = dict.fromkeys(self.federated.overall)
        for site in self.federated.sites.values():
            found |= dict.fromkeys(site.metrics)
        usual = [name for name in BINARY_METRICS if name in found]
        return usual + [name for name in found if name not in BINARY_METRICS]

    @property
    def primary_metric(self) -> str | None:
        """The figure that the headline compares; None where the run has no figures."""
        named = self.facts.get("primary_metric")
        if isinstance(named, str) and named in self.metric_names:
            return named
        return next(iter(self.metric_names), None)

    @property
    def secondary_metric(self) -> str | None:
        """The figure that is compared as well, such as Dice beside AUROC; None for most tasks."""
        named = self.facts.get("secondary_metric")
        known = isinstance(named, str) and named in self.metric_names
        return str(named) if known and named != self.primary_metric else None

    @property
    def headline_metrics(self) -> list[str]:
        """The figures that are compared, the first one first; none where the run has none."""
        return [name for name in (self.primary_metric, self.secondary_metric) if name is not None]

    @property
    def has_masks(self) -> bool:
        """Whether the run is about structures in images."""
        return any(is_mask_figure(name) for name in self.metric_names)

    @property
    def image_rows(self) -> str | None:
        """What a row of images is (`data.image.rows`); None without images, or if it is unknown."""
        found = self._configured("data", "image")
        return str(found.get("rows", DEFAULT_ROWS)) if isinstance(found, Mapping) else None

    @property
    def asked_for_cme(self) -> bool:
        """Whether the configuration watches layers (`monitor.cme`)."""
        return self._configured("monitor", "cme") not in (None, False)

    def _configured(self, *keys: str) -> Any:
        """Return what the configuration holds under `keys`; None where it is not there."""
        try:
            value = parse_yaml(self.config_text, "config.yaml").value
        except ConfigError:  # one that was edited is shown, and tells nothing
            return None
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    @property
    def ended_early(self) -> bool:
        """Whether something other than the configuration ended the run."""
        return str(self.facts.get("stopped_by", "rounds")) not in {
            "rounds",
            "plateau",
            "saturation",
        }


def read_run(run_dir: Path) -> RunRecord:
    """Return the record of the run in `run_dir`.

    Raises:
        FedwardError: `summary.json` is missing or is not an object of JSON.
    """
    config = run_dir / "config.yaml"
    return parse_run(
        _read_summary(run_dir / "summary.json"),
        config.read_text(encoding="utf-8") if config.exists() else "",
    )


def parse_run(summary: Mapping[str, Any], config_text: str = "") -> RunRecord:
    """Return the record that a summary describes."""
    plain = {k: v for k, v in summary.items() if not isinstance(v, (dict, list))}
    kept = ("versions", "seconds", "bytes", "monitor", "privacy")
    nested = {k: summary[k] for k in kept if _is_dict(summary.get(k))}
    earlier = summary.get("goes_on_from")
    if isinstance(earlier, list):
        plain["goes_on_from"] = ", ".join(map(str, earlier))
    return RunRecord(
        facts={**plain, **nested},
        federated=_arm(summary),
        baselines=_baselines(summary),
        repeats=[
            Repetition(repeat.get("seed"), _arm(repeat), _baselines(repeat))
            for repeat in summary.get("repeats") or []
        ],
        refused=[_refused(line) for line in summary.get("rejected") or []],
        skipped_rounds=[int(number) for number in summary.get("skipped_rounds") or []],
        config_text=config_text,
    )


def _read_summary(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FedwardError(
            f"{path}: no such file; a report needs the summary that a run writes when it ends"
        )
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FedwardError(f"{path}: not JSON ({error}); was it edited or cut off?") from error
    if not _is_dict(summary):
        raise FedwardError(f"{path}: expected a JSON object, found {type(summary).__name__}")
    return dict(summary)


def _arm(source: Mapping[str, Any]) -> Arm:
    overall = source.get("global") or {}
    return Arm(
        sites={str(site): _site(entry) for site, entry in (source.get("sites") or {}).items()},
        overall=_metrics(overall.get("metrics")),
    )


def _baselines(source: Mapping[str, Any]) -> dict[str, Arm]:
    arms = {name: _arm(entry) for name, entry in (source.get("baselines") or {}).items()}
    return {name: arm for name, arm in arms.items() if arm.sites or arm.overall}


def _site(entry: Mapping[str, Any]) -> SiteResult:
    counts = entry.get("num_examples") or {}
    curve = entry.get("calibration")
    return SiteResult(
        metrics=_metrics(entry.get("metrics")),
        num_train=counts.get("train"),
        num_test=counts.get("test"),
        subgroups={
            str(name): _metrics(group.get("metrics"))
            for name, group in (entry.get("subgroups") or {}).items()
        },
        calibration=(
            CalibrationCurve(list(curve["predicted"]), list(curve["observed"]), list(curve["n"]))
            if curve
            else None
        ),
        epsilon=entry.get("epsilon"),
        delta=entry.get("delta"),
    )


def _metrics(entry: Mapping[str, Any] | None) -> dict[str, Metric]:
    return {str(name): _metric(value) for name, value in (entry or {}).items()}


def _metric(entry: Any) -> Metric:
    """Return the figure, from an object or from a bare number."""
    fields = entry if _is_dict(entry) else {"value": entry}
    value, low, high = (_finite(fields.get(key)) for key in ("value", "low", "high"))
    reason = fields.get("reason")
    if value is None:
        return Metric(None, n=fields.get("n"), reason=str(reason or "not reported"))
    return Metric(value, low, high, n=fields.get("n"))


def _finite(number: Any) -> float | None:
    """Return the number, or None where it is absent, NaN or infinite."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return None
    return float(number) if math.isfinite(number) else None


def _refused(line: Mapping[str, Any]) -> Refused:
    return Refused(
        int(line.get("round", 0)),
        str(line.get("site", "unknown")),
        str(line.get("status", "rejected")),
        str(line.get("reason", "no reason recorded")),
    )


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)
