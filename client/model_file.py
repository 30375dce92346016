"""A trained model as a file that says all about itself: `.safetensors` with its own metadata.

The tensors are the `state_dict`. The metadata hold the release's header (configuration, schema,
run, round), the coordinator's signature, the preprocessing sums, and whose parts were merged in,
so that the file alone is enough to predict. Files are written with mode 0600: parts that a site
trained alone, and sums of its own, are about its patients.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fedward.common.config.loader import plain_values, run_config_from_dict
from fedward.common.config.run import RunConfig
from fedward.common.errors import ConfigError, StorageError, TrustError
from fedward.common.keys import write_private
from fedward.common.origin import Origin
from fedward.common.parameters import ParameterSet
from fedward.common.release import Release, verify_release
from fedward.common.study import Study
from fedward.common.tables.schema import TableSchema
from fedward.common.task import Split, Statistics

Parts = Literal["global", "site", "personal"]
"""`global`: every tensor came from the coordinator; `site`: those that are not shared are the
site's; `personal`: all are the site's own (Ditto)."""
FORMAT = "fedward-model-1"
_PARTS = ("global", "site", "personal")


@dataclass(frozen=True)
class TrainedModel:
    """A model with all that predicting needs. Its repr holds no weight and no sum."""

    header: str = field(repr=False)
    """JSON as in `Release.header`; of an unsigned model only name, round, config and schema."""
    state: Mapping[str, Tensor] = field(repr=False)
    statistics: Statistics | None = field(repr=False)
    """Sums that scale the features; None where nobody has given them yet."""
    parts: Parts
    site: str | None = None
    signature: str | None = field(default=None, repr=False)
    """The coordinator's, over the header; None for a run folder of one's own."""

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The header, parsed.

        Raises:
            ConfigError: it is damaged.
        """
        try:
            facts = json.loads(self.header)
        except ValueError:
            facts = None
        if not isinstance(facts, dict) or not {"name", "config", "schema"} <= set(facts):
            raise ConfigError("the model's metadata are damaged; pull or export it again")
        return facts

    @property
    def name(self) -> str:
        """Of the run."""
        return str(self.facts["name"])

    @property
    def origin(self) -> Origin:
        """Which runs trained it, as far as the header says."""
        if "run_key" in self.facts:
            return Origin.of_release(self.facts["run_key"], self.facts["config"])
        return Origin.of_pairs(self.facts.get("origin", []))

    @property
    def round(self) -> int:
        """After which round."""
        return int(self.facts.get("round", 0))

    @cached_property
    def config(self) -> RunConfig:
        """The run.

        Raises:
            ConfigError: another version of fedward wrote it, and this one does not know its keys.
        """
        return run_config_from_dict(self.facts["config"])

    @cached_property
    def schema(self) -> TableSchema:
        """What the columns mean.

        Raises:
            ConfigError: it cannot be used.
        """
        try:
            return TableSchema.model_validate(self.facts["schema"])
        except ValidationError:
            raise ConfigError("the model's schema cannot be used by this fedward") from None

    def study(self, *, own_models: bool = False) -> Study:
        """Return what builds the model's network and task."""
        study = study_of_model(self.config, self.schema, own_models=own_models)
        return study if self.site is None else study.at(self.site)

    def network(self, *, own_models: bool = False) -> nn.Module:
        """Return the network with the trained tensors, ready to predict.

        Raises:
            ConfigError: the tensors belong to another network.
        """
        network = self.study(own_models=own_models).new_model()
        try:
            network.load_state_dict(dict(self.state))
        except RuntimeError as error:
            raise ConfigError(f"the tensors do not fit model.name: {error}") from None
        return network.eval()

    def check_signature(self, model_key: str) -> None:
        """Check that the shared tensors are those that the coordinator signed.

        Args:
            model_key: of the roster.

        Raises:
            TrustError: they are not, or there is nothing that was signed: a personal model is the
                site's own work.
        """
        if self.signature is None:
            raise TrustError(f"model {self.name} has no signature")
        if self.parts == "personal":
            raise TrustError(f"model {self.name} is the site's own; nobody else has signed it")
        if self.config.model.lora is not None:
            raise TrustError(
                f"model {self.name}: its adapters are folded into their network; what was signed "
                "is the adapters alone, in the site's own database"
            )
        study = self.study()
        shared: ParameterSet = study.shared_of(study.new_model())
        statistics = self.statistics if self.facts.get("statistics_sha256") else None
        release = Release.from_parts(self.header, shared.flatten(self.state), statistics)
        verify_release(release, self.signature, model_key)

    def with_statistics(self, statistics: Statistics) -> Self:
        """Return the model with sums of the site's own, where the run has none in common."""
        return replace(self, statistics=statistics)


def study_of_model(config: RunConfig, schema: TableSchema, *, own_models: bool) -> Study:
    """Return the study of a finished run, for its task and its empty network."""
    # Weights to start from are overwritten anyway, and adapters are folded into their layers.
    model = config.model.model_copy(update={"init": None, "lora": None})
    return Study(
        config.model_copy(update={"model": model}),
        "federated",
        Split(config.seed, config.data.test_fraction),
        schema=schema,
        own_models=own_models,
    )


def unsigned_header(
    config: RunConfig, schema: TableSchema, *, round_number: int = 0, origin: Origin | None = None
) -> str:
    """Return the header of a model that no coordinator has signed."""
    return json.dumps(
        {
            "name": config.name,
            "round": round_number,
            "origin": [] if origin is None else origin.pairs,
            "config": plain_values(config),
            "schema": plain_values(schema),
        },
        sort_keys=True,
    )


def write_model(model: TrainedModel, path: Path) -> Path:
    """Write the model to a `.safetensors` file and return its path.

    Raises:
        ConfigError: the name ends otherwise.
        StorageError: it cannot be written.
    """
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: expected a name that ends in .safetensors")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state.items()}
    write_private(path, save(state, metadata=metadata_of(model)))
    return path


def read_model(path: Path) -> TrainedModel:
    """Return the model in a file that `write_model` wrote.

    Raises:
        ConfigError: there is no such file, or it is none of ours.
        StorageError: it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ConfigError(f"--model: there is no file {path}") from None
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path}: cannot be read as safetensors ({error})") from error
    return model_from_metadata(metadata, state, place=str(path))


def metadata_of(model: TrainedModel) -> dict[str, str]:
    """Return all but the tensors, as texts."""
    found = {"format": FORMAT, "header": model.header, "parts": model.parts}
    found |= model.origin.header()
    if model.statistics is not None:
        sums = np.ascontiguousarray(model.statistics, dtype="<f8").tobytes()
        found["statistics"] = base64.b64encode(sums).decode()
    if model.signature is not None:
        found["signature"] = model.signature
    if model.site is not None:
        found["site"] = model.site
    return found


def model_from_metadata(
    metadata: Mapping[str, str], state: Mapping[str, Tensor], *, place: str
) -> TrainedModel:
    """Return the model that `metadata_of` described.

    Raises:
        ConfigError: the metadata are none of ours, or damaged.
    """
    if metadata.get("format") != FORMAT or metadata.get("parts") not in _PARTS:
        raise ConfigError(
            f"{place}: holds tensors, but not what they mean; expected a file that "
            "`fedward model pull` or `fedward model export` wrote, or a run folder"
        )
    sums = metadata.get("statistics")
    try:
        content = None if sums is None else base64.b64decode(sums, validate=True)
        statistics = None if content is None else np.frombuffer(content, dtype="<f8").copy()
    except (binascii.Error, ValueError):
        raise ConfigError(f"{place}: its preprocessing sums are damaged; pull it again") from None
    return TrainedModel(
        metadata.get("header", ""),
        state,
        statistics,
        cast("Parts", metadata["parts"]),
        metadata.get("site"),
        metadata.get("signature"),
    )
