"""The keys of a study of synthetic tables: whose rows, which methods, how many seeds."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.common.config.read import read_config
from fedward.common.config.section import OpenSection, Section, Seed, SiteName, Text
from fedward.common.errors import ConfigError
from fedward.common.registry import did_you_mean

Names = Annotated[tuple[str, ...], Field(strict=False)]


class TableConfig(Section):
    """Patients of one hospital."""

    file: Text
    """Of the data set."""
    where: dict[str, str | int | float] = Field(default_factory=dict)
    """Columns with the value that its rows have, such as `site: cleveland`."""
    rows: dict[Text, int] | None = None
    """Patients of each class (of the schema) that a seed draws; absent: all."""


class TrainConfig(TableConfig):
    """The hospital whose patients are learned."""

    share: float | None = Field(default=None, gt=0, lt=1)
    """Of its patients that each seed draws for training, instead of `rows`."""
    holdout_rows: int = Field(default=4000, ge=50)
    """Most other patients of it that models are tested on, and attacks told apart from members."""

    @model_validator(mode="after")
    def _says_how_many(self) -> "TrainConfig":
        if (self.rows is None) == (self.share is None):
            raise ValueError("give either rows or share: some patients must be left for the test")
        return self


class StudyData(Section):
    """Whose patients."""

    root: Text
    """A data set's name (`fedward data list`) or a folder."""
    schema_name: Text = Field(alias="schema")
    """A shipped schema, or a file."""
    features: Names | None = None
    """Columns that are used; absent: all of the schema."""
    train: TrainConfig
    """The hospital whose patients are learned."""
    external: dict[SiteName, TableConfig] = Field(min_length=1)
    """Hospitals that models are tested at."""


class ArmConfig(OpenSection):
    """A synthesiser: its method under `name`, beside it the method's parameters."""


class MixingConfig(Section):
    """Training on real and synthetic rows together (the paper's table 5)."""

    arm: Text
    """Whose rows are mixed in."""


class AttackConfig(Section):
    """Attacks on the rows (the paper's experiment 4 measures a distance only)."""

    released: Annotated[tuple[int, ...], Field(strict=False, min_length=1)]
    """How many rows are given away: the leak grows with them."""
    seeds: int = Field(default=1, ge=1)
    """On how many of the seeds."""


class StudyConfig(Section):
    """The whole file."""

    version: Literal[1]
    """Of this format."""
    name: Text
    """Of the study."""
    seed: Seed
    """The first of the seeds."""
    num_seeds: int = Field(default=5, ge=1)
    """Each draws patients, rows and learners anew."""
    data: StudyData
    """Whose patients."""
    rows: dict[Text, int]
    """Synthetic rows of each class (of the schema)."""
    arms: dict[str, ArmConfig] = Field(min_length=1)
    """Synthesisers, by a name for the table. Real rows, plain and weighted, are always there."""
    learners: Names = ("random-forest", "svm-linear", "svm-rbf")
    """What is trained on the rows."""
    mixing: MixingConfig | None = None
    """Real and synthetic rows together; absent: not."""
    attacks: AttackConfig | None = None
    """Attacks on the rows; absent: none."""

    @model_validator(mode="after")
    def _names_are_known(self) -> "StudyConfig":
        if self.mixing is not None and self.mixing.arm not in self.arms:
            hint = did_you_mean(self.mixing.arm, self.arms)
            raise ValueError(f"mixing.arm: there is no arm {self.mixing.arm!r}{hint}")
        return self


def shipped_studies() -> dict[str, Path]:
    """Return the studies that come with fedward, by name."""
    folder = Path(str(resources.files("fedward.simulations"))) / "papers"
    return {path.stem: path for path in sorted(folder.glob("kde_knn*.yaml"))}


def load_study(name: str, overrides: list[str] | None = None) -> tuple[StudyConfig, Path]:
    """Return a study given as a path or a shipped name, and the folder of its file.

    Raises:
        ConfigError: there is none, or it cannot be used; one line for each thing wrong.
    """
    shipped = shipped_studies()
    path = Path(name) if Path(name).is_file() else shipped.get(name.removesuffix(".yaml"))
    if path is None:
        raise ConfigError(
            f"no file {name!r}, and no shipped study of that name{did_you_mean(name, shipped)}; "
            f"shipped: {', '.join(shipped)}"
        )
    config, _ = read_config(path, StudyConfig, overrides or [])
    return config, path.resolve().parent
