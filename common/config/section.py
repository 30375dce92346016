"""The parts that every configuration is made of: frozen sections, and sections with open keys."""

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
SiteName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$",
        examples=["site-a (letters, digits, - and _)"],
    ),
]
"""Names folders and database rows, and is one part of a `--set` key: no dots, no slashes."""
Text = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[
    str, Field(pattern=r"^[0-9a-f]{64}$", examples=["64 hexadecimal digits, a SHA-256"])
]


class Section(BaseModel):
    """A part of a configuration: frozen, strict about types, and without unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class OpenSection(Section):
    """A section whose `name` decides which further keys exist; they are checked by its owner."""

    model_config = ConfigDict(extra="allow")

    name: Text
    """Which one."""

    @property
    def own(self) -> dict[str, Any]:
        """The keys beside `name`, for the constructor of what `name` stands for."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _own_values_are_sound(self) -> "OpenSection":
        for key, value in self.own.items():
            values = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(one, float) and not math.isfinite(one) for one in values):
                raise ValueError(f"{key}: given infinity or not-a-number, expected a number")
        return self
