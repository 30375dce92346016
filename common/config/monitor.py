"""The keys of `run.yaml` under `monitor`: what is watched while a run goes on, and what ends it."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fedward.common.config.section import Section, Text

STOP_RULES = ("none", "plateau", "saturation")


class CmeConfig(Section):
    """Conversational memory elements: how the weights of a layer move within a round."""

    form: Literal["rms", "sym", "paper"] = "rms"
    """A change of weights relative to their root mean square, to both weights, or to each."""
    layers: Literal["penultimate", "all"] | tuple[Text, ...] = Field(
        default="penultimate", union_mode="left_to_right"
    )
    """Between the antepenultimate and penultimate layer; all of them; or name patterns."""
    snapshots: int = Field(default=4, ge=2, le=64)
    """Fewest a round: at the ends of epochs where there are as many, else evenly over its steps."""
    every_steps: int | None = Field(default=None, ge=1)
    """A snapshot every so many steps instead."""
    maps: bool = False
    """Keep every covariance map in the folder of a simulation; a hospital keeps its own."""

    @field_validator("layers", mode="before")
    @classmethod
    def _a_list_is_patterns(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class StopConfig(Section):
    """What ends a run before its last round, or lets a site rest."""

    rule: Literal["plateau", "saturation"] = "plateau"
    """A figure of the evaluation stops getting better; or the weights stop going anywhere (CME)."""
    metric: str = "eval_loss"
    """Of `plateau`: `eval_loss`, `validation_loss` (lower is better), or one such as `auroc`."""
    patience: int = Field(default=5, ge=1)
    """Of `plateau`: evaluations without improvement before the run ends."""
    min_delta: float = Field(default=0.0, ge=0)
    """Of `plateau`: a change smaller than this is no improvement."""
    action: Literal["end", "skip"] = "end"
    """Of `saturation`: end the run when enough sites are saturated, or let each of them rest."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Of `saturation`: share of the sites that must be saturated before the run ends."""
    rest_rounds: int = Field(default=2, ge=1)
    """Of `saturation` with `skip`: rounds that a saturated site rests before it is asked again."""


class MonitorConfig(Section):
    """What is watched while the run goes on."""

    cme: CmeConfig | None = None
    """Watch layers within each round; absent or `false`: not, `true`: with the defaults."""
    influence: bool = True
    """Say how much each site moves the model, as the server sees it from the updates."""
    stop: StopConfig | None = None
    """`none`, `plateau`, `saturation`, or a section; absent: all rounds are run."""

    @field_validator("cme", mode="before")
    @classmethod
    def _true_means_the_defaults(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @field_validator("stop", mode="before")
    @classmethod
    def _a_word_means_a_rule(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in STOP_RULES:
            raise ValueError(f"given {value!r}, expected one of {', '.join(STOP_RULES)}")
        return None if value == "none" else {"rule": value}

    @model_validator(mode="before")
    @classmethod
    def _saturation_needs_cme(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("cme") not in (None, False):
            return value
        stop = value.get("stop")
        rule = stop.get("rule") if isinstance(stop, dict) else getattr(stop, "rule", stop)
        return {**value, "cme": {}} if rule == "saturation" else value
