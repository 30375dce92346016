"""What the columns of a clinical table mean: unit, range, type, missing codes, and what to leave out.

A schema is a YAML file; those in `schemas/` ship with fedward. The ranges are there to catch wrong
units: they are wide enough for any living patient.
"""

from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedward.common.config.plain_errors import explain, spell
from fedward.common.config.yaml_lines import Document, Problem, parse_yaml
from fedward.common.errors import ConfigError
from fedward.common.registry import did_you_mean

Scalar = str | int | float


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FieldSchema(_Section):
    """One feature."""

    name: str
    kind: Literal["continuous", "categorical"]
    unit: str | None = None
    """As the values are written; shown in errors."""
    range: tuple[float, float] | None = Field(default=None, strict=False)
    """Lowest and highest value that is not a wrong unit (continuous)."""
    categories: tuple[Scalar, ...] = Field(default=(), strict=False)
    """All values (categorical), in the order of their columns."""
    missing: tuple[Scalar, ...] = Field(default=(), strict=False)
    """Values that stand for "not measured", such as 0 for cholesterol."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "FieldSchema":
        if self.kind == "categorical" and len(self.categories) < 2:
            raise ValueError("a categorical field needs at least two categories")
        if self.kind == "continuous" and self.range is None:
            raise ValueError("a continuous field needs a range, to catch wrong units")
        return self

    @property
    def width(self) -> int:
        """Number of encoded columns: value and missing flag, or one per category and missing."""
        return 2 if self.kind == "continuous" else len(self.categories) + 1


class LabelSchema(_Section):
    """What is predicted."""

    column: str
    classes: tuple[str, ...] = Field(default=("negative", "positive"), strict=False, min_length=2)
    positive_above: float | None = None
    """The class is 1 where the column is larger than this; absent: the column is the class."""


class DropRule(_Section):
    """Rows that may not be used: where `column` is at most `at_most`. Missing values stay."""

    column: str
    at_most: float


class SubgroupSchema(_Section):
    """A subgroup for the model card."""

    name: str
    column: str
    equals: Scalar | None = None
    at_least: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _has_one_rule(self) -> "SubgroupSchema":
        if sum(rule is not None for rule in (self.equals, self.at_least, self.below)) != 1:
            raise ValueError("give exactly one of equals, at_least and below")
        return self


class TableSchema(_Section):
    """The whole table. Columns that are neither named nor excluded are refused."""

    version: Literal[1]
    name: str
    title: str = ""
    source: str = ""
    """Whom to cite."""
    patient_id: str | None = None
    """The column that names the patient; absent: each row is a patient."""
    label: LabelSchema
    fields: tuple[FieldSchema, ...] = Field(strict=False, min_length=1)
    exclude: tuple[str, ...] = Field(default=(), strict=False)
    """Columns that may be there but are never features: they leak the outcome, or name a site."""
    drop: tuple[DropRule, ...] = Field(default=(), strict=False)
    subgroups: tuple[SubgroupSchema, ...] = Field(default=(), strict=False)
    min_cohort: int = Field(default=10, ge=1)
    """A site with fewer patients is refused."""

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.label.classes)

    def select(self, names: tuple[str, ...] | None) -> tuple[FieldSchema, ...]:
        """Return the named fields in the schema's order; all of them for None.

        Raises:
            ConfigError: a name is not a feature of the schema.
        """
        if names is None:
            return self.fields
        known = [field.name for field in self.fields]
        for name in names:
            if name not in known:
                leaks = "; the schema excludes it" if name in self.exclude else ""
                raise ConfigError(
                    f"data.features: {self.name} has no feature {name!r}{leaks}"
                    f"{did_you_mean(name, known)}"
                )
        return tuple(field for field in self.fields if field.name in names)


def shipped_schemas() -> dict[str, Path]:
    """Return the schemas that come with fedward, by name."""
    folder = Path(str(resources.files("fedward.common.tables"))) / "schemas"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_schema(name: str, base_dir: Path | None = None) -> TableSchema:
    """Return a shipped schema by name, or the one in a file.

    Args:
        name: a shipped name, or a path that ends in `.yaml`, relative to `base_dir`.
        base_dir: folder of the configuration.

    Raises:
        ConfigError: there is none of that name, or it cannot be used; with file and key.
    """
    shipped = shipped_schemas()
    path = shipped.get(name)
    if path is None:
        path = (base_dir or Path()) / name
        if not path.is_file():
            raise ConfigError(
                f"data.schema: no shipped schema and no file {name!r}"
                f"{did_you_mean(name, shipped)}; shipped: {', '.join(shipped)}"
            )
    document = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    problems = document.problems
    if not problems:
        try:
            return TableSchema.model_validate(document.value)
        except ValidationError as error:
            problems = explain(error, TableSchema)
    raise ConfigError("\n".join(_sentence(path, document, problem) for problem in problems))


def _sentence(path: Path, document: Document, problem: Problem) -> str:
    above = [problem.path[:end] for end in range(len(problem.path), -1, -1)]
    line = problem.line or next((document.lines[p] for p in above if p in document.lines), 1)
    return f"{path}:{line}: {spell(problem.path)}: {problem.text}"
