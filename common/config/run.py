"""The keys of `run.yaml`, as frozen pydantic models. Unknown keys are refused.

Under each field one line says what it does (messages quote it); `fedward.common.config.loader`
reads the file. A rule between keys starts its message with the key that it is about.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.common.config.image import (
    ImageConfig,
    LossConfig,
    PhantomConfig,
    PicturesConfig,
)
from fedward.common.config.low_rank import LowRankConfig
from fedward.common.config.monitor import MonitorConfig
from fedward.common.config.privacy import PrivacyConfig, unaccounted, uncovered
from fedward.common.config.section import OpenSection, Section, Seed, SiteName, Text
from fedward.common.config.synthesis import SynthesisConfig

SYNTHESIS_TASK = "ehr-classification"


class RepeatConfig(Section):
    """Run the configuration several times and report the mean with intervals."""

    seeds: tuple[Seed, ...] = Field(default=(), strict=False)
    """One repetition per seed; empty: only `seed`."""
    folds: int | None = Field(default=None, ge=2)
    """Patients of each site are cut into this many folds; one repetition per test fold."""

    @model_validator(mode="after")
    def _seeds_differ(self) -> "RepeatConfig":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed is given twice; equal runs are no repetitions")
        return self


class SiteFileConfig(Section):
    """One site's table."""

    file: Text
    """CSV or Parquet, relative to `data.root`."""


class PartitionConfig(Section):
    """How one table becomes many sites."""

    table: Text
    """A file under `data.root`, or a table's name where `data.root` is `builtin`."""
    by: Literal["column", "iid", "label-skew", "size-skew", "feature-shift", "copies"]
    """`column` names the site; `copies`: each site has all; the others are usual partitioners."""
    column: str | None = None
    """The column that names the site (`by: column`) or is sorted by (`by: feature-shift`)."""
    num_sites: int | None = Field(default=None, ge=1)
    """How many sites to make (all but `by: column`)."""
    alpha: float | None = Field(default=None, gt=0)
    """Dirichlet concentration of label and size skew: small is more skewed."""
    min_patients: int = Field(default=8, ge=1)
    """Fewest patients of a site; a draw with fewer is repeated."""
    num_patients: int | None = Field(default=None, ge=1)
    """Patients that the seed draws from the table first (not with `by: column`); absent: all."""
    options: dict[str, float | int] = Field(default_factory=dict)
    """Further figures of a generated `builtin` table (such as `rows_per_site`)."""

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> "PartitionConfig":
        needs = {
            "column": ("column",),
            "iid": ("num_sites",),
            "label-skew": ("num_sites", "alpha"),
            "size-skew": ("num_sites", "alpha"),
            "feature-shift": ("num_sites", "column"),
            "copies": ("num_sites",),
        }[self.by]
        missing = [key for key in needs if getattr(self, key) is None]
        if missing:
            raise ValueError(f"by: {self.by} needs {' and '.join(missing)}")
        if self.by == "column" and self.num_patients is not None:
            raise ValueError("num_patients: by: column takes the sites as they are; leave it out")
        return self


class DataConfig(Section):
    """Where the rows come from and how they are prepared."""

    root: Text | None = None
    """A folder, the name of a data set that `fedward data list` knows, or `builtin`."""
    schema_name: Text = Field(alias="schema")
    """A schema that ships with fedward, or the path of a schema file."""
    sites: dict[SiteName, SiteFileConfig] | None = Field(default=None, min_length=1)
    """One table per site."""
    partition: PartitionConfig | None = None
    """Or one table that is cut into sites."""
    features: tuple[Text, ...] | None = Field(default=None, strict=False, min_length=1)
    """Columns to use; all features of the schema when absent."""
    complete_cases: bool = False
    """Drop rows with any missing feature instead of imputing (FLamby's protocol)."""
    statistics: Literal["federated", "local", "schema"] = "federated"
    """Scaling by means of all sites, of each site, or by the schema's ranges, which ask nobody."""
    test_fraction: float = Field(default=0.3, gt=0, lt=1)
    """Share of each site's patients that are held out."""
    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of training patients kept apart to steer: validation loss, dynamic loss weights."""
    image: ImageConfig | None = None
    """How images are prepared; absent: there are none."""
    modalities: tuple[Literal["image", "table"], ...] = Field(
        default=("image", "table"), strict=False, min_length=1
    )
    """What a model may look at; the others are masked, as if they were missing."""
    phantom: PhantomConfig | None = None
    """With `root: phantom`: the cohort to make."""
    pictures: PicturesConfig | None = None
    """With `root: phantom`: a cohort of pictures instead of CT."""
    shuffle_labels_except: tuple[str, ...] | None = Field(default=None, strict=False)
    """A control: permute the training labels of every site not named here."""

    @model_validator(mode="after")
    def _sites_or_partition(self) -> "DataConfig":
        if (self.to_make is not None) != (self.root == "phantom"):
            key = "phantom" if self.pictures is None else "pictures"
            raise ValueError(f"{key}: it goes with `root: phantom`, and the other way round")
        given = (self.sites, self.partition, self.phantom, self.pictures)
        named = sum(one is not None for one in given)
        if named > 1 or (named == 0 and self.root is not None):
            raise ValueError("give exactly one of `sites`, `partition`, `phantom`, `pictures`")
        if named and self.root is None:
            raise ValueError("root: `sites` and `partition` need one")
        return self

    @property
    def to_make(self) -> PhantomConfig | PicturesConfig | None:
        """The phantoms that the run asks for, if any."""
        return self.phantom or self.pictures

    @property
    def is_simulated(self) -> bool:
        """Whether it says where a simulation finds its sites; hospitals bring their own data."""
        return self.root is not None


class ModelConfig(OpenSection):
    """Which network; its own keys beside `name` (see `fedward.common.models`)."""

    init: Text | None = None
    """A `.safetensors` file, or the folder of a MONAI bundle, to start from."""
    trained_in: tuple[Annotated[tuple[Text, Text], Field(strict=False)], ...] = Field(
        default=(), strict=False
    )
    """Key and privacy mode of each run that trained `init`, the last one last; absent: those that
    its header names. `fedward submit` writes them out."""
    lora: LowRankConfig | None = None
    """Train low-rank adapters, and leave the network as it is; absent: train the network."""


class StrategyConfig(OpenSection):
    """Which aggregation rule; its own keys beside `name` (see `fedward.server.strategies`)."""


class LocalConfig(Section):
    """What a site does in one round."""

    epochs: int | None = Field(default=None, ge=1)
    """Passes over the training patients."""
    steps: int | None = Field(default=None, ge=1)
    """Or a fixed number of optimiser steps."""
    batch_size: int = Field(ge=1)
    """Patients per step."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Fresh at the start of each round."""
    learning_rate: float = Field(gt=0)
    """Step size."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Of `sgd`."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty (`adamw`: decoupled)."""
    betas: tuple[float, float] = Field(default=(0.9, 0.999), strict=False)
    """Of `adam` and `adamw`."""
    rows_at_once: int | None = Field(default=None, ge=1)
    """Most rows in memory at once: gradients of a larger batch are accumulated; absent: all."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: autocast on a GPU; on a CPU, where it is slower, float32 all the same."""
    channels_last: bool = False
    """Memory format of images and convolutions: often quicker, never another result."""
    compile: bool = False
    """Compile the network with torch.compile before training."""

    @model_validator(mode="after")
    def _epochs_or_steps(self) -> "LocalConfig":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of `epochs` and `steps`")
        return self


class SamplingConfig(Section):
    """Who takes part in a round, and how long it may take."""

    fraction: float | None = Field(default=None, gt=0, le=1)
    """Share of the sites per round; all of them when neither key is given."""
    num_sites: int | None = Field(default=None, ge=1)
    """Or their number."""
    min_replies: int = Field(default=2, ge=1)
    """Never aggregate fewer accepted replies than this; the round is skipped instead."""
    max_skipped_rounds: int = Field(default=3, ge=0)
    """Skipped rounds in a row after which the run ends with exit code 5."""
    deadline_s: float | None = Field(default=None, gt=0)
    """Seconds until a round closes; later replies are ignored. Not with `inprocess`."""

    wait_for_sites_s: float = Field(default=300.0, ge=0)
    """At hospitals: how long the start waits, once `min_replies` sites agreed, for the others."""

    @model_validator(mode="after")
    def _fraction_or_number(self) -> "SamplingConfig":
        if self.fraction is not None and self.num_sites is not None:
            raise ValueError("give at most one of `fraction` and `num_sites`")
        return self


class EngineConfig(Section):
    """Where the sites of a simulation run."""

    name: Literal["ray", "inprocess"] = "ray"
    """`ray`: actors on this machine or a cluster. `inprocess`: one after the other, no Ray."""
    num_actors: int | None = Field(default=None, ge=1)
    """Ray actors; one per core (or per GPU share) when absent."""
    gpus_per_actor: float = Field(default=0.0, ge=0)
    """Share of a GPU for each actor."""
    threads_per_actor: int = Field(default=1, ge=1)
    """Torch threads in each actor."""
    address: Text | None = None
    """Of an existing Ray cluster; absent: a private one is started and ended with the run."""
    vectorised: Literal["auto", "off"] = "auto"
    """Train all sites of an actor as one stacked model where the model allows it."""


class RunConfig(Section):
    """One run: the whole of `run.yaml`."""

    version: Literal[1]
    """Of this format."""
    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=80, examples=["heart-disease (lower-case)"]
    )
    """Lower-case kebab; names the folder of the results."""
    seed: Seed
    """Everything random derives from it. There is no default."""
    repeat: RepeatConfig | None = None
    """Seeds and folds; absent: one run."""
    task: Text
    """What is learned, such as `ehr-classification`."""
    data: DataConfig
    """Which tables, and how they are prepared."""
    model: ModelConfig
    """What is trained."""
    models: dict[SiteName, ModelConfig] | None = None
    """By site: networks other than `model`, where sites have only what `shared` names in common."""
    shared: tuple[Text, ...] = Field(default=("*",), strict=False, min_length=1)
    """Name patterns of the tensors that are averaged; the others stay at the site."""
    loss: LossConfig = LossConfig()
    """What training minimises (tasks with images)."""
    strategy: StrategyConfig
    """How updates become the next global model."""
    rounds: int = Field(ge=1)
    """How often the sites train and the server aggregates."""
    local: LocalConfig
    """What a site does in one round."""
    sampling: SamplingConfig = SamplingConfig()
    """Who takes part in a round."""
    evaluate_every: int = Field(default=1, ge=1)
    """Rounds between evaluations at the sites; the last round is always evaluated."""
    baselines: tuple[Literal["local", "pooled"], ...] = Field(default=(), strict=False)
    """Also train each site alone, and all rows together, with the same budget."""
    monitor: MonitorConfig = MonitorConfig()
    """What is watched, and early stopping."""
    privacy: PrivacyConfig | None = None
    """What patients are promised; absent: nothing."""
    synthesis: SynthesisConfig | None = None
    """Make synthetic rows: the model is trained only where it filters them, baselines never."""
    engine: EngineConfig = EngineConfig()
    """Where a simulation runs; results do not depend on it."""

    @property
    def is_private(self) -> bool:
        """Whether sites train with differential privacy for each of their patients."""
        return self.privacy is not None and self.privacy.mode == "dp-sgd"

    @property
    def protects_sites(self) -> bool:
        """Whether the updates of sites are clipped and noised."""
        return self.privacy is not None and self.privacy.protects_sites

    @model_validator(mode="after")
    def _nothing_private_passes_by_the_account(self) -> "RunConfig":
        why = None
        if self.is_private:
            why = unaccounted(self)
        elif self.protects_sites:
            why = uncovered(self)
        if why is not None:
            raise ValueError(why)
        return self

    @model_validator(mode="after")
    def _networks_that_differ_share_a_part(self) -> "RunConfig":
        if self.models is None:
            return self
        for site, model in self.models.items():
            if model.lora is not None or model.init is not None or self.model.lora is not None:
                raise ValueError(
                    f"models.{site}: networks that differ start from random values and without "
                    "adapters; leave out init and lora"
                )
        if self.shared == ("*",):
            raise ValueError(
                "models: sites with networks of their own cannot average all of them; name in "
                "shared what they have in common, such as shared: [head.*]"
            )
        if "pooled" in self.baselines:
            raise ValueError(
                "baselines: with models there is no one network that could learn from all rows; "
                "use [local]"
            )
        return self

    @model_validator(mode="after")
    def _copies_are_one_cohort(self) -> "RunConfig":
        partition = self.data.partition
        if partition is None or partition.by != "copies":
            return self
        promises = self.privacy is not None or self.synthesis is not None
        if promises or "pooled" in self.baselines or self.data.shuffle_labels_except is not None:
            raise ValueError(
                "data.partition.by: with copies a patient is at every site, where promises of "
                "privacy, synthesis, the baseline pooled and shuffled labels count each patient "
                "once; leave them out, or use iid"
            )
        return self

    @model_validator(mode="after")
    def _adapters_are_all_that_is_shared(self) -> "RunConfig":
        lora = self.model.lora
        if lora is None:
            return self
        if self.shared != ("*",) or self.strategy.name == "fedbn":
            raise ValueError(
                "shared: with model.lora the adapters and what model.lora.also names are shared; "
                "leave shared out, and use another strategy than fedbn"
            )
        single = ("fedmedian", "fedtrimmedavg", "krum", "multikrum", "scaffold", "qfedavg")
        is_central = self.privacy is not None and self.privacy.mode == "central"
        if lora.aggregation == "svd" and (self.strategy.name in single or is_central):
            raise ValueError(
                "model.lora.aggregation: svd averages products at the server before the strategy; "
                f"{'privacy.mode central' if is_central else self.strategy.name} needs the "
                "updates of single sites: use ffa"
            )
        return self

    @model_validator(mode="after")
    def _scaffold_takes_plain_steps(self) -> "RunConfig":
        plain = self.local.optimizer == "sgd" and self.local.momentum == 0
        if self.strategy.name == "scaffold" and not plain:
            key = "momentum" if self.local.momentum else "optimizer"
            raise ValueError(
                f"local.{key}: scaffold's control variates stand for steps of learning_rate "
                "times the gradient; use sgd without momentum, or another strategy"
            )
        return self

    @model_validator(mode="after")
    def _synthesis_is_one_run_of_a_table(self) -> "RunConfig":
        if self.synthesis is None:
            return self
        if self.task != SYNTHESIS_TASK:
            raise ValueError(
                f"synthesis: rows of tables are made, and the task {self.task} is no table; use "
                f"{SYNTHESIS_TASK}"
            )
        if self.repeat is not None:
            raise ValueError("repeat: each repetition would release rows of its own; run it once")
        if self.data.shuffle_labels_except is not None:
            raise ValueError("data.shuffle_labels_except: a control for training, not for rows")
        if self.synthesis.trains and (self.shared != ("*",) or self.strategy.name == "fedbn"):
            raise ValueError(
                "shared: the model that filters candidates is the one that is shared; share every "
                "tensor, with a strategy that does"
            )
        return self

    @model_validator(mode="after")
    def _engine_can_do_it(self) -> "RunConfig":
        if self.engine.name == "inprocess" and self.sampling.deadline_s is not None:
            raise ValueError(
                "sampling.deadline_s: the inprocess engine trains one site after the other and "
                "cannot end a round early; use engine.name: ray, or leave the key out"
            )
        return self
