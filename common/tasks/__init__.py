"""The kinds of problem that a run can name as `task`."""

from collections.abc import Callable
from pathlib import Path

from fedward.common.config.run import RunConfig
from fedward.common.errors import ConfigError
from fedward.common.registry import Registry
from fedward.common.tables.schema import load_schema
from fedward.common.task import Task
from fedward.common.tasks.ehr_classification import EhrClassification

tasks: Registry[Callable[[RunConfig, Path], Task]] = Registry("task")


@tasks.register("ehr-classification")
def _ehr_classification(config: RunConfig, base_dir: Path) -> Task:
    schema = load_schema(config.data.schema_name, base_dir)
    return EhrClassification(schema, config.data, config.model)


def build_task(config: RunConfig, base_dir: Path) -> Task:
    """Return the task that `config` names.

    Raises:
        ConfigError: unknown task, schema, feature or model key.
    """
    try:
        make = tasks[config.task]
    except ConfigError as error:
        raise ConfigError(f"task: {error}") from None
    return make(config, base_dir)
