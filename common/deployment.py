"""From `run.yaml` to a request that operators sign, and from the request to the same study.

Coordinator and sites build the study from the signed text alone, so that they cannot disagree.
"""

import dataclasses
import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from fedward.common.config.loader import run_config_dict, run_config_from_dict
from fedward.common.config.run import EngineConfig, ModelConfig, RunConfig
from fedward.common.errors import ConfigError, TrustError
from fedward.common.models.low_rank import state_hash
from fedward.common.monitoring.layers import watched_layers
from fedward.common.request import RunRequest
from fedward.common.study import Kind, Study
from fedward.common.tables.schema import TableSchema, load_schema
from fedward.common.tables.synthetic_rows import counts_of
from fedward.common.task import Split

LONGEST_ROUND_S = 3600.0
"""A round of a deployed run closes after an hour where `sampling.deadline_s` says nothing."""


def make_request(
    config: RunConfig, operator: str, *, base_dir: Path, consortium: str = ""
) -> RunRequest:
    """Return the request for `config`, with its schema written out.

    Args:
        config: of `run.yaml`; where a simulation would find data is left out.
        operator: a name in the roster.
        base_dir: folder that a schema's path starts from.
        consortium: whose sites are asked, as in the roster.

    Raises:
        ConfigError: the run cannot be asked of hospitals.
    """
    check_deployable(config)
    schema = load_schema(config.data.schema_name, base_dir)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    simulated = (
        "root", "sites", "partition", "phantom", "pictures", "shuffle_labels_except",
    )  # fmt: skip
    data = config.data.model_copy(update=dict.fromkeys(simulated))
    model = _with_base(config, base_dir, schema)
    asked = config.model_copy(update={"data": data, "model": model, "engine": EngineConfig()})
    study = Study(asked, "federated", Split(config.seed), base_dir, schema)
    study.check_origin()
    if study.origin.runs:  # the sites do not see the file
        model = model.model_copy(update={"trained_in": tuple(study.origin.pairs)})
        asked = asked.model_copy(update={"model": model})
        study = dataclasses.replace(study, config=asked)
    _ = study.task.modalities  # names what the network would be shown nothing of
    _, _ = study.initial  # names what cannot be built
    study.check_shared(asked.models or ())
    if asked.monitor.cme is not None:
        watched_layers(study.new_model(), asked.monitor.cme.layers)  # or cannot be watched
    if asked.synthesis is not None:
        counts_of(asked.synthesis, schema.class_names)  # names a class that does not exist
    return RunRequest(operator, run_config_dict(asked), schema_values(schema), now, consortium)


def _with_base(config: RunConfig, base_dir: Path, schema: TableSchema) -> ModelConfig:
    """Return the model's keys, with the hash of what lies below adapters: it is not sent."""
    model = config.model
    if model.lora is None or model.init is None:
        return model
    plain = config.model_copy(update={"model": model.model_copy(update={"lora": None})})
    network = Study(plain, "federated", Split(config.seed), base_dir, schema).new_model()
    lora = model.lora.model_copy(update={"base": state_hash(network.state_dict())})
    return model.model_copy(update={"lora": lora})


def check_deployable(config: RunConfig) -> None:
    """Return if hospitals can be asked for `config`.

    Raises:
        ConfigError: a key makes sense in a simulation only.
    """
    if config.repeat is not None:
        raise ConfigError("repeat: one submission is one run; submit once per seed: --set seed=2")
    if config.data.shuffle_labels_except is not None:
        raise ConfigError("data.shuffle_labels_except: a control for simulations")


def config_of(request: RunRequest) -> RunConfig:
    """Return the run that was asked for.

    Raises:
        TrustError: it is not a configuration that `make_request` lets through.
    """
    try:
        config = run_config_from_dict(request.config)
        check_deployable(config)
    except ConfigError as error:
        raise TrustError(f"run request: its configuration cannot be used: {error}") from None
    if config.data.is_simulated:
        raise TrustError("run request: it names data of its own; data belong to the sites")
    if config.sampling.deadline_s is None:
        sampling = config.sampling.model_copy(update={"deadline_s": LONGEST_ROUND_S})
        config = config.model_copy(update={"sampling": sampling})
    return config


def schema_of(request: RunRequest) -> TableSchema:
    """Return the schema that the operator meant.

    Raises:
        TrustError: it is none.
    """
    try:
        return TableSchema.model_validate(request.schema)
    except ValidationError:
        raise TrustError("run request: its schema cannot be used") from None


def schema_values(schema: TableSchema) -> dict[str, Any]:
    """Return the schema as plain values; equal schemas have equal ones."""
    values: dict[str, Any] = schema.model_dump(mode="json", by_alias=True)
    return values


def study_of(
    request: RunRequest,
    kind: Kind,
    *,
    schema: TableSchema,
    base_dir: Path = Path(),
    own_models: bool = False,
) -> Study:
    """Return the study that the request asks for.

    Args:
        request: signed and read.
        kind: `federated`, or the baseline `local`.
        schema: the reader's own; it must mean the same as the request's.
        base_dir: where `model.init` starts from.
        own_models: whether a model may be an importable class.
    """
    config = config_of(request)
    split = Split(seed=config.seed, test_fraction=config.data.test_fraction)
    return Study(config, kind, split, base_dir, schema, own_models, label=request.hash[:8])


def at_site(
    study: Study, kept: Callable[[str], Mapping[str, Tensor] | None] = lambda base: None
) -> Study:
    """Return the study as a site builds it: the values of `model.init` come with the messages.

    Below adapters they do not: the site must have that network.

    Args:
        study: as it was signed.
        kept: returns the weights with a hash, of the models that the site has; None: it has not.

    Raises:
        ConfigError: tensors that stay at the sites would start from values that they do not have.
    """
    config = study.config
    if config.model.init is None:
        return study
    model = config.model.model_copy(update={"init": None})
    site = dataclasses.replace(study, config=config.model_copy(update={"model": model}))
    if model.lora is not None:
        weights = None if model.lora.base is None else kept(model.lora.base)
        if weights is None:
            raise ConfigError(
                f"model.lora: the adapters belong to a network (SHA-256 "
                f"{str(model.lora.base)[:12]}...) that this site has not; it takes part once it "
                "has that model: fedward model receive"
            )
        return dataclasses.replace(site, weights=weights)
    if len(site.initial[0].names) < len(site.new_model().state_dict()):
        raise ConfigError(
            "model.init: with `shared` the sites would start their own part from other values; "
            "share every tensor, or start from random ones"
        )
    return site
