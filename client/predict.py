"""Predictions for patients of the hospital: a trained model, a table, and a probability per row.

The table needs the columns of the model's features and no label. Values outside the schema's ranges
are refused, as they are in training: a wrong unit is worse than no prediction.
"""

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from fedward.client.bundle import is_bundle, read_bundle
from fedward.client.data.read import read_frame, table_from_frame
from fedward.client.model_file import (
    TrainedModel,
    read_model,
    study_of_model,
    unsigned_header,
)
from fedward.common.config.loader import load_run_config
from fedward.common.errors import ConfigError, StorageError
from fedward.common.keys import write_private
from fedward.common.origin import Origin
from fedward.common.tables.encode import encode, statistics_size
from fedward.common.tables.schema import FieldSchema, TableSchema, load_schema
from fedward.common.tables.table import Table
from fedward.common.task import Statistics

CHUNK_ROWS = 4096
FILE_NAME = "predictions.csv"


@dataclass(frozen=True)
class Prediction:
    """What was written, and for how many rows."""

    path: Path
    num_rows: int
    num_without: int
    """Rows without a prediction: the model was trained on complete rows, and these are not."""


def open_model(path: Path) -> TrainedModel:
    """Return the model in a `.safetensors` file, a bundle's folder or a run's folder.

    Raises:
        ConfigError: there is no model, or it lacks what only a site has.
        StorageError: it cannot be read.
    """
    if not path.is_dir():
        return read_model(path)
    if is_bundle(path):
        return read_bundle(path)
    if (path / "config.yaml").is_file():
        return _open_run(path)
    raise ConfigError(
        f"--model: {path} holds neither a bundle (configs/metadata.json) nor a run (config.yaml)"
    )


def predict(model: TrainedModel, table: Path, out: Path, *, own_models: bool = False) -> Prediction:
    """Write `predictions.csv` under `out` and return what it holds.

    Its columns are the row's number in the table (from 1, without the header), the patient's id
    where the table has the schema's column for it, and the probability of each class. The file is
    about patients: it is written with mode 0600.

    Args:
        model: from `open_model` or `Models.load`.
        table: CSV or Parquet with the model's features.
        out: a folder, made if needed.
        own_models: whether a network of the user's own may be imported.

    Raises:
        ConfigError: the model lacks the sums that scale its features.
        SiteDataError: the table does not hold what the schema promises.
        StorageError: the file cannot be written.
    """
    fields = model.schema.select(model.config.data.features)
    statistics = statistics_of(model, fields)
    network = model.network(own_models=own_models)
    frame = read_frame(table)
    rows = feature_rows(frame, fields, model.schema, place=str(table))
    usable = _usable(rows, fields, complete_cases=model.config.data.complete_cases)
    probability_NC = np.full((len(rows), model.schema.num_classes), np.nan)
    probability_NC[usable] = _probabilities(network, rows.take(usable), fields, statistics)
    found = _as_frame(frame, model.schema, probability_NC)
    path = out / FILE_NAME
    text = io.StringIO()
    found.to_csv(text, index=False)
    write_private(path, text.getvalue().encode())
    return Prediction(path, len(rows), int((~usable).sum()))


def feature_rows(
    frame: pd.DataFrame, fields: tuple[FieldSchema, ...], schema: TableSchema, *, place: str
) -> Table:
    """Return the rows in the table's order, checked as in training but for label and cohort.

    Raises:
        SiteDataError: the table does not hold what the schema promises.
    """
    names = {field.name for field in fields}
    label = schema.label_column
    # The label is what is asked for: whatever the table says of it is not looked at.
    frame = frame if label is None else frame.assign(**{label: 0})
    known = schema.model_copy(
        update={
            "fields": fields,
            "patient_id": None,
            "exclude": tuple(str(name) for name in frame.columns if str(name) not in names),
            "drop": (),
            "subgroups": (),
            "min_cohort": 1,
        }
    )
    return table_from_frame(frame, known, place=place)


def _usable(
    rows: Table, fields: tuple[FieldSchema, ...], *, complete_cases: bool
) -> npt.NDArray[np.bool_]:
    if not complete_cases:
        return np.ones(len(rows), dtype=bool)
    missing = [np.isnan(rows.columns[field.name]) for field in fields]
    return np.asarray(~np.logical_or.reduce(missing))


def _probabilities(
    network: nn.Module, rows: Table, fields: tuple[FieldSchema, ...], statistics: Statistics
) -> npt.NDArray[np.float64]:
    """Return (N, C)."""
    features = torch.from_numpy(encode(rows, fields, statistics))
    with torch.inference_mode():
        parts = [torch.softmax(network(batch).double(), dim=1) for batch in _batches(features)]
    probability_NC: npt.NDArray[np.float64] = torch.cat(parts).numpy()
    return probability_NC


def _batches(features: Tensor) -> Iterator[dict[str, Tensor]]:
    """Yield what models see; at least one batch, as an empty one still says how many classes."""
    for start in range(0, max(len(features), 1), CHUNK_ROWS):
        chunk = features[start : start + CHUNK_ROWS]
        yield {"features": chunk, "mask.table": torch.ones(len(chunk), dtype=torch.bool)}


def _as_frame(
    frame: pd.DataFrame, schema: TableSchema, probability_NC: npt.NDArray[np.float64]
) -> pd.DataFrame:
    found = pd.DataFrame({"row": np.arange(1, len(frame) + 1)})
    if schema.patient_id is not None and schema.patient_id in frame.columns:
        found[schema.patient_id] = frame[schema.patient_id].to_numpy()
    for number, name in enumerate(schema.class_names):
        found[f"probability_{name}"] = probability_NC[:, number]
    return found


def statistics_of(model: TrainedModel, fields: tuple[FieldSchema, ...]) -> Statistics:
    """Return the sums that scale the model's features.

    Raises:
        ConfigError: the model lacks them, or they are of other features.
    """
    if model.statistics is None:
        raise ConfigError(
            f"model {model.name}: the sums that scale its features are each site's own "
            "(data.statistics: local); take a file from `fedward model pull` at a site"
        )
    if len(model.statistics) != statistics_size(fields):
        raise ConfigError(f"model {model.name}: its preprocessing sums are of other features")
    return model.statistics


def _open_run(folder: Path) -> TrainedModel:
    """Return the global model of a run folder.

    Raises:
        ConfigError: parts of the model are at the sites, or the run is not finished.
    """
    config = load_run_config(folder / "config.yaml").config
    schema = load_schema(config.data.schema_name, _schema_folder(folder, config.data.schema_name))
    file = folder / "model.safetensors"
    if not file.is_file():
        raise ConfigError(f"--model: {folder} has no model.safetensors; is the run finished?")
    study = study_of_model(config, schema, own_models=True)
    network = study.new_model()
    local = set(network.state_dict()) - set(study.shared_of(network).names)
    # Counters of batch normalisation are integers: they never travel, nor matter to a prediction.
    local = {name for name in local if network.state_dict()[name].is_floating_point()}
    if local:
        raise ConfigError(
            f"--model: {folder}: {', '.join(sorted(local)[:3])} were trained at each site and "
            "stayed there; take a file from `fedward model pull` at a site"
        )
    try:
        state = load_file(file)
        statistics = run_statistics(folder)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{folder}: cannot be read ({error})") from error
    header = unsigned_header(
        config, schema, round_number=_rounds_of(folder), origin=Origin.of_file(file)
    )
    return TrainedModel(header, state, statistics, "global")


def _rounds_of(folder: Path) -> int:
    """Return how many rounds the run had; 0 where its summary does not say."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return int(summary["rounds_run"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _schema_folder(folder: Path, name: str) -> Path:
    """Return where the run's schema lies: beside it, as the coordinator writes it, or as it was."""
    written = folder / "base_dir.txt"
    if (folder / name).is_file() or not written.is_file():
        return folder
    return Path(os.fsdecode(written.read_bytes()).strip())


def run_statistics(folder: Path) -> Statistics | None:
    """Return the sums that the run's newest checkpoint holds, if the sites shared any."""
    places = [folder / "checkpoints", *sorted(folder.glob("repeats/*/checkpoints"))]
    for place in places:
        for file in sorted(place.glob("round-*.safetensors"), reverse=True):
            with safe_open(file, framework="numpy") as opened:
                if "progress/statistics" in opened.keys():  # noqa: SIM118
                    return np.asarray(opened.get_tensor("progress/statistics"), dtype=np.float64)
    return None
