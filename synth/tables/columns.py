"""What the columns of a synthetic table may hold: the one description that all synthesisers share.

It comes from a schema (`Columns.of_schema`) or from the rows themselves (`detect.py`), and says of
each column its kind, its bounds, how it is rounded, and who vouches for the bounds.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from fedward.common.errors import ConfigError
from fedward.common.tables.schema import FieldSchema, Scalar, TableSchema
from fedward.synth.tables.constraints import Constraint

Kind = Literal["continuous", "categorical"]
Bounds = Literal["public", "observed"]


@dataclass(frozen=True)
class Column:
    """One column of the table, the label's left out."""

    name: str
    kind: Kind
    low: float | None = None
    """Smallest possible value (continuous); None: without a bound."""
    high: float | None = None
    """Largest possible value (continuous); None: without a bound."""
    decimals: int | None = None
    """Digits after the point (continuous); 0: integers; None: as many as the rows have."""
    categories: tuple[Scalar, ...] = ()
    """All values, in the order of their codes (categorical)."""
    bounds: Bounds = "public"
    """`public`: of a schema, known without the patients; `observed`: read off the rows, so that
    bounds or categories tell of single patients, and no differential privacy can rest on them."""
    unit: str | None = None
    missing: tuple[Scalar, ...] = ()
    """Values that stand for "not measured"; they are read as missing and never written."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"column {self.name!r}: kind: expected {' or '.join(get_args(Kind))}")
        if self.kind == "categorical" and len(set(self.categories)) < max(len(self.categories), 1):
            raise ConfigError(f"column {self.name!r}: categories: expected distinct ones")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ConfigError(f"column {self.name!r}: its lowest value is above its highest")

    @property
    def is_continuous(self) -> bool:
        """Whether values are numbers on a scale."""
        return self.kind == "continuous"


@dataclass(frozen=True)
class Columns:
    """The table: its columns, its label and what must hold within a row.

    A table in the form of these columns is a `pandas.DataFrame` with one column per `Column`
    (float64 with NaN where missing for continuous ones; values of `categories`, or None/NaN
    where missing, for categorical ones) and, where there is a label, the column `label` with
    values of `classes`, never missing.
    """

    columns: tuple[Column, ...]
    label: str | None = None
    classes: tuple[Scalar, ...] = ()
    """Values of the label's column, in the order of their codes; none without a label."""
    class_names: tuple[str, ...] = ()
    """How the classes are called, for people; as they are where nothing is given."""
    constraints: tuple[Constraint, ...] = ()
    positive_above: float | None = None
    """The class is 1 where the label's column is larger than this; None: the column is the class.
    Rows that were read (`checks.columns_for`) hold the class, and their columns None."""

    def __post_init__(self) -> None:
        if twice := [name for name, times in Counter(self.names).items() if times > 1]:
            raise ConfigError(f"columns given twice: {', '.join(twice)}")
        if self.label in self.names:
            raise ConfigError(f"column {self.label!r}: is the label and a column; drop one")
        numbers = {column.name for column in self.continuous}
        for rule in self.constraints:
            if unknown := [name for name in rule.names if name not in numbers]:
                raise ConfigError(f"constraints: {rule.text!r}: no numbers: {', '.join(unknown)}")
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(map(str, self.classes)))

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, name: str) -> Column:
        return self._by_name[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, the label's left out."""
        return tuple(column.name for column in self.columns)

    @property
    def continuous(self) -> tuple[Column, ...]:
        """The columns of numbers."""
        return tuple(column for column in self.columns if column.is_continuous)

    @property
    def categorical(self) -> tuple[Column, ...]:
        """The columns of categories."""
        return tuple(column for column in self.columns if not column.is_continuous)

    @property
    def is_public(self) -> bool:
        """Whether every bound and category is known without the patients."""
        return all(column.bounds == "public" for column in self.columns)

    @cached_property
    def _by_name(self) -> dict[str, Column]:
        return {column.name: column for column in self.columns}

    def with_column(self, column: Column) -> "Columns":
        """Return the same table with `column` in place of the one of its name."""
        return replace(
            self, columns=tuple(column if c.name == column.name else c for c in self.columns)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it; `from_dict` reads it back."""
        return {
            "columns": [_column_dict(column) for column in self.columns],
            "label": self.label,
            "classes": list(self.classes),
            "class_names": list(self.class_names),
            "constraints": [one.text for one in self.constraints],
            "positive_above": self.positive_above,
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> "Columns":
        """Return what `to_dict` wrote.

        Raises:
            ConfigError: it is not such a description.
        """
        try:
            return cls(
                tuple(
                    Column(
                        **{
                            **column,
                            "categories": tuple(column["categories"]),
                            "missing": tuple(column["missing"]),
                        }
                    )
                    for column in found["columns"]
                ),
                found["label"],
                tuple(found["classes"]),
                tuple(found["class_names"]),
                tuple(Constraint.parse(text) for text in found["constraints"]),
                found["positive_above"],
            )
        except (KeyError, TypeError) as error:
            raise ConfigError(f"columns: not a description of a table ({error})") from None

    @classmethod
    def of_schema(cls, schema: TableSchema, features: tuple[str, ...] | None = None) -> "Columns":
        """Return the columns of a schema: ranges and categories are public knowledge.

        Args:
            schema: of a table; its label, where it has one, becomes classes 0, 1, ...
            features: names of the fields that are kept; None: all.
        """
        fields = schema.select(features)
        names = {field.name for field in fields}
        return cls(
            tuple(_of_field(field) for field in fields),
            schema.label_column,
            tuple(range(schema.num_classes)),
            schema.class_names,
            tuple(
                one for one in map(Constraint.parse, schema.constraints) if set(one.names) <= names
            ),
            None if schema.label is None else schema.label.positive_above,
        )


def _of_field(field: FieldSchema) -> Column:
    low, high = field.range or (None, None)
    return Column(
        field.name,
        field.kind,
        low,
        high,
        field.decimals,
        field.categories,
        unit=field.unit,
        missing=field.missing,
    )


def _column_dict(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "kind": column.kind,
        "low": column.low,
        "high": column.high,
        "decimals": column.decimals,
        "categories": list(column.categories),
        "bounds": column.bounds,
        "unit": column.unit,
        "missing": list(column.missing),
    }
