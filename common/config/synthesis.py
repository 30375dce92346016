"""The keys of `run.yaml` under `synthesis`: synthetic rows instead of a trained model."""

from typing import Literal

from pydantic import Field, model_validator

from fedward.common.config.section import OpenSection, Section, Text

Method = Literal["rows", "filtered-rows", "copula", "dp-copula"]
MAX_ROWS = 1_000_000


class SynthesiserConfig(OpenSection):
    """Which synthesiser; its own keys beside `name` (see `fedward.synth.tables.methods`)."""


class SynthesisConfig(Section):
    """What sites release so that synthetic patients can be made, and how much of it."""

    method: Method
    """Rows of each site's own synthesiser, those that the federated model agrees with, or sums."""
    synthesiser: SynthesiserConfig | None = None
    """Of the methods with rows; absent: gaussian-copula, and kde where the model filters."""
    rows_per_site: int = Field(ge=1, le=MAX_ROWS)
    """Rows that each site releases; of a copula: drawn afterwards, for each site that took part."""
    class_counts: dict[Text, int] | None = None
    """How many of them are of each class of the schema; absent: see `class_shares`."""
    class_shares: Literal["balanced", "original"] = "balanced"
    """Equal shares; or, of a copula only, the shares that the patients of all sites have."""
    min_class_size: int = Field(default=10, ge=5)
    """Fewest training patients of a class of which a site gives anything; its min_cohort wins."""
    bins: int | None = Field(default=None, ge=4, le=1024)
    """Of `copula`: bins of each number, over the schema's range; absent: 128."""
    epsilon: float | None = Field(default=None, gt=0)
    """Of dp-copula: what each site's noise keeps for its own patients. There is no default."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """Of dp-copula: as epsilon."""

    @property
    def asks_for_rows(self) -> bool:
        """Whether rows leave the sites; otherwise sums do."""
        return self.method in {"rows", "filtered-rows"}

    @property
    def trains(self) -> bool:
        """Whether the run trains its model first."""
        return self.method == "filtered-rows"

    @property
    def is_private(self) -> bool:
        """Whether what leaves is differentially private."""
        return self.method == "dp-copula"

    @model_validator(mode="after")
    def _keys_belong_to_the_method(self) -> "SynthesisConfig":
        # `str.partition(": ")` of the message names the key.
        if self.synthesiser is not None and not self.asks_for_rows:
            raise ValueError(f"synthesiser: {self.method} is one itself; leave the key out")
        if self.bins is not None and self.method != "copula":
            raise ValueError(f"bins: {self.method} does not need them; they belong to copula")
        for name in ("epsilon", "delta"):
            given = getattr(self, name) is not None
            if given and not self.is_private:
                raise ValueError(
                    f"{name}: {self.method} gives no differential privacy; use dp-copula, or leave "
                    "the key out"
                )
            if self.is_private and not given:
                raise ValueError(f"{name}: dp-copula needs one; there is no default")
        return self

    @model_validator(mode="after")
    def _counts_are_known_before(self) -> "SynthesisConfig":
        counts = self.class_counts
        if self.class_shares == "original" and (self.asks_for_rows or counts is not None):
            raise ValueError(
                "class_shares: only a copula without class_counts can have the original ones; "
                "rows in these shares would tell how large each class of a site is"
            )
        if counts is None:
            return self
        if min(counts.values(), default=0) < 0 or sum(counts.values()) != self.rows_per_site:
            raise ValueError(
                "class_counts: they are numbers of rows from 0 that add up to rows_per_site"
            )
        return self
