"""What the columns of a clinical table mean: unit, range, type, missing codes, what to leave out.

A schema is a YAML file; those in `schemas/` ship with fedward. The ranges are there to catch wrong
units: they are wide enough for any living patient.
"""

from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from fedward.common.config.plain_errors import explain, spell
from fedward.common.config.section import Section, Text
from fedward.common.config.yaml_lines import MAX_BYTES, Document, Problem, parse_yaml
from fedward.common.errors import ConfigError, NoPatientsError, SiteDataError
from fedward.common.registry import did_you_mean

Scalar = str | int | float
Names = Annotated[tuple[str, ...], Field(strict=False)]
Sign = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class FieldSchema(Section):
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
    decimals: int | None = Field(default=None, ge=0, le=9)
    """Digits after the point in synthetic rows (continuous); absent: as the rows have."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "FieldSchema":
        if self.kind == "categorical":
            if len(self.categories) < 2:
                raise ValueError("categories: a categorical field needs at least two")
            if len(set(self.categories)) < len(self.categories):
                raise ValueError("categories: one is given twice")
            if set(self.categories) & set(self.missing):
                raise ValueError("missing: a category cannot stand for missing as well")
        elif self.range is None:
            raise ValueError("range: a continuous field needs one, to catch wrong units")
        elif self.range[0] >= self.range[1]:
            raise ValueError("range: expected [lowest, highest]")
        return self

    @property
    def width(self) -> int:
        """Number of encoded columns: value and missing flag, or one per category and missing."""
        return 2 if self.kind == "continuous" else len(self.categories) + 1


class LabelSchema(Section):
    """What is predicted."""

    column: str
    classes: tuple[str, ...] = Field(default=("negative", "positive"), strict=False, min_length=2)
    positive_above: float | None = None
    """The class is 1 where the column is larger than this; absent: the column is the class."""

    @model_validator(mode="after")
    def _a_threshold_makes_two_classes(self) -> "LabelSchema":
        if self.positive_above is not None and len(self.classes) != 2:
            raise ValueError("positive_above: it makes two classes, and `classes` names others")
        return self


class DropRule(Section):
    """Rows that may not be used: where `column` is so small, or this. Missing values stay."""

    column: str
    at_most: float | None = None
    equals: float | None = None

    @model_validator(mode="after")
    def _has_one_rule(self) -> "DropRule":
        if (self.at_most is None) == (self.equals is None):
            raise ValueError("give exactly one of at_most and equals")
        return self


class SubgroupSchema(Section):
    """A subgroup for the model card."""

    name: str
    column: str
    equals: Scalar | None = None
    at_least: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _has_one_rule(self) -> "SubgroupSchema":
        is_band = self.at_least is not None or self.below is not None
        if is_band == (self.equals is not None):
            raise ValueError("give either equals, or at_least and below, one of them or both")
        if self.at_least is not None and self.below is not None and self.at_least >= self.below:
            raise ValueError("at_least: expected less than below")
        return self


class ImageSchema(Section):
    """The images beside the table."""

    unit: Literal["HU", "grey"] = "HU"
    """Of the voxels; for HU, a site whose air is not near -1000 is refused."""
    structures: tuple[str, ...] = Field(default=(), strict=False)
    """What masks hold: value k is the k-th of them; also names of RTSTRUCT and SEG objects."""
    aliases: dict[str, Names] = Field(default_factory=dict)
    """Other names of a structure, such as `stone: [calculus, GTV-1]`; case does not matter."""
    lesion: str | None = None
    """The structure whose connected parts are the lesions."""
    label_of: Literal["patient", "row"] = "patient"
    """Whose the label is: figures count patients, or rows (lesions, slices)."""
    table: Text = "patients.csv"
    """The clinical table in a site's folder of images."""
    image_array: Text = "images"
    """In an `.npz` file: images (N, ...)."""
    mask_array: Text = "masks"
    """In an `.npz` file: masks (N, ...), packed bits where there is a `mask_shape`."""
    shown: bool = False
    """Whether pictures of cases may stand in reports: phantoms and public data only."""

    @model_validator(mode="after")
    def _names_are_known(self) -> "ImageSchema":
        for name in (*self.aliases, *([self.lesion] if self.lesion else [])):
            if name not in self.structures:
                raise ValueError(f"structures: {name!r} is none of them")
        return self


class TableSchema(Section):
    """The whole table. Columns that are neither named nor excluded are refused."""

    version: Literal[1]
    name: str
    title: str = ""
    source: str = ""
    """Whom to cite."""
    patient_id: str | None = None
    """The column that names the patient; absent: each row is a patient."""
    label: LabelSchema | None = None
    """Absent: nothing is predicted but masks."""
    fields: tuple[FieldSchema, ...] = Field(default=(), strict=False)
    exclude: tuple[str, ...] = Field(default=(), strict=False)
    """Columns that may be there but are never features: they leak the outcome, or name a site."""
    drop: tuple[DropRule, ...] = Field(default=(), strict=False)
    constraints: tuple[str, ...] = Field(default=(), strict=False)
    """What holds within a row, such as `SBP >= MAP >= DBP`; synthetic rows keep it."""
    subgroups: tuple[SubgroupSchema, ...] = Field(default=(), strict=False)
    min_cohort: int = Field(default=10, ge=1)
    """A site with fewer patients is refused."""
    image: ImageSchema | None = None
    """The images beside the table; absent: there are none."""
    signs: tuple[Sign, ...] = Field(default=(), strict=False)
    """Columns of what is (1) or is not (0) to be seen in the image; empty: nobody looked.

    They are learnt beside the label, never told to a model. A site need not have them.
    """

    @model_validator(mode="after")
    def _there_is_something_to_learn(self) -> "TableSchema":
        if self.image is None and (self.label is None or not self.fields):
            raise ValueError("label and fields: a table without images needs both")
        if self.image is not None and self.label is None and not self.image.structures:
            raise ValueError("label: images need one, or image.structures to find")
        return self

    @model_validator(mode="after")
    def _no_feature_tells_the_label(self) -> "TableSchema":
        names = [field.name for field in self.fields]
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise ValueError(f"fields: given twice: {', '.join(twice)}")
        reserved = {self.label_column, self.patient_id, *self.exclude, *self.signs}
        if told := [name for name in names if name in reserved]:
            raise ValueError(
                f"fields: {', '.join(told)} cannot be a feature as well as label, sign, "
                "patient_id or excluded"
            )
        return self

    @model_validator(mode="after")
    def _signs_are_seen_in_images(self) -> "TableSchema":
        if self.signs and self.image is None:
            raise ValueError("signs: they are seen in images, and the schema has none")
        taken = {self.label_column, self.patient_id, *self.exclude}
        if len(set(self.signs)) < len(self.signs) or taken & set(self.signs):
            raise ValueError("signs: one is given twice, or is label, patient_id or excluded")
        return self

    @model_validator(mode="after")
    def _subgroups_are_of_its_fields(self) -> "TableSchema":
        fields = {field.name: field for field in self.fields}
        for group in self.subgroups:
            field = fields.get(group.column)
            if field is None:
                hint = did_you_mean(group.column, fields)
                raise ValueError(f"subgroups: {group.name!r}: no field {group.column!r}{hint}")
            if (field.kind == "categorical") != (group.equals is not None):
                raise ValueError(
                    f"subgroups: {group.name!r}: use equals for a categorical field, at_least or "
                    "below for a continuous one"
                )
            if group.equals is not None and group.equals not in field.categories:
                raise ValueError(f"subgroups: {group.name!r}: equals is none of the categories")
        return self

    @property
    def num_classes(self) -> int:
        """C; 0 where there is no label."""
        return len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in order; none where there is no label."""
        return () if self.label is None else self.label.classes

    @property
    def label_column(self) -> str | None:
        """The column that is predicted."""
        return None if self.label is None else self.label.column

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

    def check_cohort(self, num_patients: int, *, place: str) -> None:
        """Refuse a site that is too small. The message leaves out how small it is.

        Args:
            num_patients: usable patients.
            place: file or site, for messages.

        Raises:
            NoPatientsError: there is none.
            SiteDataError: there are fewer than `min_cohort`.
        """
        if num_patients == 0:
            raise NoPatientsError(f"{place}: no patient is left; the table has no usable row")
        if num_patients < self.min_cohort:
            raise SiteDataError(
                f"{place}: fewer patients than the minimum cohort of {self.min_cohort} "
                f"(schema {self.name}: min_cohort)"
            )


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
    document = parse_yaml(_read_text(path), str(path))
    problems = document.problems
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}:1: expected a schema: version, name, label, fields ...")
    if not problems:
        try:
            return TableSchema.model_validate(document.value)
        except ValidationError as error:
            problems = explain(error, TableSchema)
    raise ConfigError("\n".join(_sentence(path, document, problem) for problem in problems))


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes; is this a schema?")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; save it as UTF-8") from None


def _sentence(path: Path, document: Document, problem: Problem) -> str:
    above = [problem.path[:end] for end in range(len(problem.path), -1, -1)]
    line = problem.line or next((document.lines[p] for p in above if p in document.lines), 1)
    return f"{path}:{line}: {spell(problem.path)}: {problem.text}"
