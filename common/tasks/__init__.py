"""The kinds of problem that a run can name as `task`."""

from collections.abc import Callable
from pathlib import Path

from fedward.common.config.run import RunConfig
from fedward.common.errors import ConfigError
from fedward.common.private_statistics import (
    Accounted,
    FromSchema,
    PrivateStatistic,
    Unprotected,
)
from fedward.common.registry import Registry
from fedward.common.tables.schema import TableSchema, load_schema
from fedward.common.task import Task
from fedward.common.tasks.ct_fingerprint import CtFingerprint
from fedward.common.tasks.ehr_classification import EhrClassification

MakeTask = Callable[[RunConfig, TableSchema, bool], Task]
tasks: Registry[MakeTask] = Registry("task")


@tasks.register("ehr-classification")
def _ehr_classification(config: RunConfig, schema: TableSchema, own_models: bool) -> Task:  # noqa: FBT001 - a registry's call
    return EhrClassification(
        schema, config.data, config.model, private=_gate(config), own_models=own_models
    )


@tasks.register("ct-lesions")
def _ct_lesions(config: RunConfig, schema: TableSchema, own_models: bool) -> Task:  # noqa: FBT001 - a registry's call
    return _ct("ct-lesions", config, schema, own_models=own_models)


@tasks.register("ct-kidney")
def _ct_kidney(config: RunConfig, schema: TableSchema, own_models: bool) -> Task:  # noqa: FBT001 - a registry's call
    return _ct("ct-kidney", config, schema, own_models=own_models)


@tasks.register("image-classification")
def _image_classification(config: RunConfig, schema: TableSchema, own_models: bool) -> Task:  # noqa: FBT001 - a registry's call
    if schema.label is None:
        raise ConfigError(
            f"task: image-classification needs a label, and schema {schema.name} has none; "
            "to find structures, use ct-lesions"
        )
    return _ct("image-classification", config, schema, own_models=own_models)


@tasks.register("ct-fingerprint")
def _ct_fingerprint(config: RunConfig, schema: TableSchema, own_models: bool) -> Task:  # noqa: FBT001 - a registry's call
    del config, schema, own_models
    return CtFingerprint()


def _ct(name: str, config: RunConfig, schema: TableSchema, *, own_models: bool) -> Task:
    try:
        # It imports MONAI, which takes seconds and belongs to an extra.
        from fedward.common.tasks.ct import CtTask
    except ImportError as error:
        raise ConfigError(
            f"task: {name} needs packages that are not installed ({error}); "
            "they come with: pip install 'fedward[ct]'"
        ) from error
    return CtTask(
        name,
        schema,
        config.data,
        model=config.model,
        loss=config.loss,
        private=_gate(config),
        own_models=own_models,
    )


def _gate(config: RunConfig) -> PrivateStatistic:
    """Return what decides over statistics of patients."""
    if config.is_private:
        return Accounted()
    return FromSchema() if config.data.statistics == "schema" else Unprotected()


def build_task(
    config: RunConfig,
    base_dir: Path,
    *,
    schema: TableSchema | None = None,
    own_models: bool = True,
) -> Task:
    """Return the task that `config` names.

    Args:
        config: the run.
        base_dir: folder that a schema's path starts from.
        schema: what the columns mean; None: the schema that `config` names.
        own_models: whether `model.name` may be an importable class of the user's.

    Raises:
        ConfigError: unknown task, schema, feature or model key.
    """
    try:
        make = tasks[config.task]
    except ConfigError as error:
        raise ConfigError(f"task: {error}") from None
    return make(config, schema or load_schema(config.data.schema_name, base_dir), own_models)
