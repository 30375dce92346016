"""The keys of `run.yaml` under `model.lora`: train small matrices beside frozen layers."""

from typing import Literal

from pydantic import Field

from fedward.common.config.section import Section, Sha256, Text


class LowRankConfig(Section):
    """Low-rank adapters (`fedward.common.models.low_rank`)."""

    rank: int = Field(default=4, ge=1)
    """Columns of each adapter: the payload grows with it."""
    scale: float = Field(default=1.0, gt=0)
    """What an adapter's answer is multiplied by."""
    layers: tuple[Text, ...] = Field(default=("*",), strict=False, min_length=1)
    """Name patterns of linear layers and convolutions that get one; `!` takes names out again."""
    also: tuple[Text, ...] = Field(default=(), strict=False)
    """Name patterns of weights that are trained and sent in full beside them, such as norms."""
    aggregation: Literal["ab", "ffa", "svd"] = "ffa"
    """`ffa`: one half is frozen, and averaging exact; `ab`: both halves are averaged; `svd`: their
    products are."""
    base: Sha256 | None = None
    """Of the weights below the adapters; `fedward submit` writes it where `model.init` is given."""
