"""The keys of `run.yaml` under `privacy`: what a run promises to those whose records it uses."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from fedward.common.config.section import Section

if TYPE_CHECKING:
    from fedward.common.config.run import RunConfig

_OF_DP_SGD = ("epsilon", "noise_multiplier", "delta", "max_grad_norm", "max_records")


class PrivacyConfig(Section):
    """Differential privacy. None of its figures has a default: each is a promise or its price."""

    mode: Literal["none", "dp-sgd"] = "none"
    """`dp-sgd`: each site clips every patient's gradient and adds noise before anything leaves."""
    epsilon: float | None = Field(default=None, gt=0)
    """Of all planned rounds, at each site; the noise follows from it."""
    noise_multiplier: float | None = Field(default=None, gt=0)
    """Or the noise itself, over `max_grad_norm`; epsilon follows from it."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """Probability that the promise fails; below one over the patients of the smallest site."""
    max_grad_norm: float | None = Field(default=None, gt=0)
    """Length to which a patient's gradient is clipped."""
    unit: Literal["patient"] = "patient"
    """Who is protected: a patient with all records at a site."""
    max_records: int | None = Field(default=None, ge=1)
    """Most records of a patient that a round uses, drawn anew each time; absent: all."""

    @property
    def is_on(self) -> bool:
        """Whether training is private."""
        return self.mode != "none"

    @model_validator(mode="after")
    def _has_what_its_mode_needs(self) -> "PrivacyConfig":
        if not self.is_on:
            given = [key for key in _OF_DP_SGD if getattr(self, key) is not None]
            if given:
                raise ValueError(f"{given[0]}: without effect; set mode: dp-sgd, or leave it out")
            return self
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("epsilon: give exactly one of `epsilon` and `noise_multiplier`")
        for key in ("delta", "max_grad_norm"):
            if getattr(self, key) is None:
                raise ValueError(f"{key}: dp-sgd needs it; there is no default")
        return self


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
