"""The rows that an evaluation is made of."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from fedward.synth.tables.checks import class_codes
from fedward.synth.tables.columns import Columns

TestName = Literal["internal", "external"]


@dataclass(frozen=True, repr=False)
class Tables:
    """Real and synthetic rows, one per patient, in the form of `Columns`.

    It has no repr: patients are never printed.
    """

    train: pd.DataFrame
    """The rows that the synthesiser has seen: the members."""
    synthetic: tuple[pd.DataFrame, ...]
    """The table that would be released, and further draws of other seeds, which would not."""
    holdout: pd.DataFrame | None = None
    """Other patients of the same site."""
    external: pd.DataFrame | None = None
    """Patients of another site."""
    reference: pd.DataFrame | None = None
    """Patients of the same site that an attacker has."""

    @property
    def tests(self) -> dict[TestName, pd.DataFrame]:
        """The tables of patients that nothing was trained on."""
        found: dict[TestName, pd.DataFrame | None] = {
            "internal": self.holdout,
            "external": self.external,
        }
        return {name: table for name, table in found.items() if table is not None and len(table)}


def missing_class(columns: Columns, table: pd.DataFrame) -> str | None:
    """Return the name of a class that no row has; None where each has one."""
    sizes = np.bincount(class_codes(columns, table), minlength=len(columns.classes))
    return None if sizes.all() else columns.class_names[int(sizes.argmin())]
