"""The keys of `run.yaml` under `privacy`: what a run promises to those whose records it uses."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from fedward.common.config.section import Section

if TYPE_CHECKING:
    from fedward.common.config.run import RunConfig

_OF_ALL = ("epsilon", "noise_multiplier", "delta")
_OF_DP_SGD = ("max_grad_norm", "max_records", "figures_noise")
_OF_SITES = ("max_update_norm",)


class PrivacyConfig(Section):
    """Differential privacy. None of its figures has a default: each is a promise or its price."""

    mode: Literal["none", "dp-sgd", "central", "local"] = "none"
    """`dp-sgd` hides patients: each site clips every patient's gradient and adds noise to it.
    `central` and `local` hide whole sites: their updates are clipped; the server adds noise to the
    mean, or each site to its own."""
    epsilon: float | None = Field(default=None, gt=0)
    """Of all planned rounds, and of those that trained `model.init`; the noise follows from it."""
    noise_multiplier: float | None = Field(default=None, gt=0)
    """Or the noise itself, over what one unit can change; epsilon follows from it."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """Probability that the promise fails; below one over the patients of the smallest site."""
    max_grad_norm: float | None = Field(default=None, gt=0)
    """Of `dp-sgd`: length to which a patient's gradient is clipped."""
    max_update_norm: float | None = Field(default=None, gt=0)
    """Of `central` and `local`: length to which a site's update is clipped."""
    unit: Literal["patient", "site"] = "patient"
    """Who is protected: a patient with all records at a site, or (`central`, `local`) a site."""
    max_records: int | None = Field(default=None, ge=1)
    """Most records of a patient that a round uses, drawn anew each time; absent: all."""
    figures: Literal["exact", "noised", "none"] = "exact"
    """Of `dp-sgd`: what leaves of test patients. `exact` is outside of the promise; `noised` is
    paid for out of the same budget (two classes of rows only); `none`: nothing but how many."""
    figures_noise: float | None = Field(default=None, gt=0)
    """Of `noised`: deviation of the noise on each count of patients, at every evaluation."""

    @property
    def is_on(self) -> bool:
        """Whether anybody is promised anything."""
        return self.mode != "none"

    @property
    def protects_sites(self) -> bool:
        """Whether updates of sites are clipped and noised, rather than gradients of patients."""
        return self.mode in ("central", "local")

    @model_validator(mode="after")
    def _has_what_its_mode_needs(self) -> "PrivacyConfig":
        own = {"dp-sgd": _OF_DP_SGD, "central": _OF_SITES, "local": _OF_SITES}.get(self.mode, ())
        others = [key for key in (*_OF_DP_SGD, *_OF_SITES) if key not in own and getattr(self, key)]
        if not self.is_on:
            given = [key for key in _OF_ALL if getattr(self, key) is not None] + others
            if given:
                raise ValueError(f"{given[0]}: without effect; set mode: dp-sgd, or leave it out")
            return self
        if others:
            raise ValueError(
                f"{others[0]}: {self.mode} does not know it; it clips {_CLIPS[own[0]]}: use "
                f"{own[0]}, or another mode"
            )
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("epsilon: give exactly one of `epsilon` and `noise_multiplier`")
        for key in ("delta", own[0]):
            if getattr(self, key) is None:
                raise ValueError(f"{key}: {self.mode} needs it; there is no default")
        if self.figures != "exact" and self.mode != "dp-sgd":
            raise ValueError("figures: goes with mode: dp-sgd only; leave it out")
        if (self.figures == "noised") != (self.figures_noise is not None):
            raise ValueError("figures_noise: goes with figures: noised, and is needed there")
        unit = "site" if self.protects_sites else "patient"
        if self.unit != unit:
            raise ValueError(
                f"unit: {self.mode} protects {_PROTECTS[unit]}; write unit: {unit}, or use "
                f"{'dp-sgd' if self.protects_sites else 'central or local'}"
            )
        return self


_CLIPS = {"max_grad_norm": "the gradients of patients", "max_update_norm": "the updates of sites"}
_PROTECTS = {
    "site": "a hospital as a whole, not a patient among its patients",
    "patient": "each patient, not the hospital as a whole",
}


def unaccounted(config: "RunConfig") -> str | None:
    """Return what would use patients beside the accounted gradients; None: nothing does."""
    local, stop = config.local, config.monitor.stop
    plain = (local.precision, local.channels_last, local.compile) == ("float32", False, False)
    rules = {
        "data.statistics: means of patients are not accounted; use schema, the ranges of the "
        "schema": config.data.statistics != "schema",
        f"strategy.name: {config.strategy.name} uses the patients a second time, which is not "
        "accounted; use fedavg, fedprox, scaffold or another": config.strategy.name
        in ("ditto", "qfedavg"),
        "monitor.stop: a plateau is seen in exact figures of patients; use saturation, or none": (
            stop is not None and stop.rule == "plateau"
        ),
        "data.validation_fraction: the loss of validation patients is not accounted; leave it "
        "out": config.data.validation_fraction > 0,
        "synthesis: it has a budget of its own; train and make rows in two runs": (
            config.synthesis is not None
        ),
        "local.precision: private gradients are computed in float32; leave out precision, "
        "channels_last and compile": not plain,
    }
    return next((why for why, is_broken in rules.items() if is_broken), None)


def uncovered(config: "RunConfig") -> str | None:
    """Return what would pass by the noise of `central` or `local`; None: nothing does."""
    assert config.privacy is not None
    name, mode = config.strategy.name, config.privacy.mode
    rules = {
        "data.statistics: sums of a site's patients would leave it without noise; use schema, the "
        "ranges of the schema": config.data.statistics != "schema",
        "strategy.name: scaffold's control variates leave a site beside its update, neither "
        "clipped nor noised; use fedavg, fedprox or another": name == "scaffold",
        "strategy.name: ditto's figures are those of personal models, to which no noise is added; "
        "use fedavg, fedprox or another": name == "ditto",
        "strategy.name: qfedavg weighs sites by the exact losses of their patients; use fedavg, "
        "fedprox or another": name == "qfedavg",
        f"strategy.name: {name} chooses among the updates of single sites, which the noise of "
        "their mean does not hide; use fedavg, or mode: local": mode == "central"
        and name in ("fedmedian", "fedtrimmedavg", "krum", "multikrum"),
        "monitor.cme: how weights move within a round is seen before clipping and noise; leave it "
        "out, and monitor.stop: saturation too": config.monitor.cme is not None,
        "monitor.stop: a plateau is seen in exact figures of patients; leave it out": (
            config.monitor.stop is not None
        ),
        "monitor.influence: what each update does to the mean is told without noise; set it to "
        "false": mode == "central" and config.monitor.influence,
        "data.validation_fraction: the loss of validation patients has no noise; leave it out": (
            config.data.validation_fraction > 0
        ),
        "synthesis: rows come from patients, and not from clipped updates; make them in a run of "
        "their own": config.synthesis is not None,
    }
    return next((why for why, is_broken in rules.items() if is_broken), None)
