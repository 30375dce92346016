"""The clinical table beside a folder of scans, encoded for a model, and whose row is whose.

Legend: N rows, F columns.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from torch import Tensor

from fedward.client.data.ct_source import first_folder
from fedward.client.data.read import read_frame, spelled
from fedward.client.data.volumes import Series
from fedward.client.model_file import TrainedModel
from fedward.client.predict import feature_rows, statistics_of
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.tables.encode import encode
from fedward.common.tables.schema import TableSchema


@dataclass(frozen=True, repr=False)
class Owner:
    """Whose a series is."""

    key: str
    """The same for all series of a patient."""
    patient: Any
    """As the table spells it, or the scan."""
    row: int | None
    """In the table, from 0; None where the patient is not in it."""


@dataclass(frozen=True, repr=False)
class ClinicalRows:
    """The rows of a table that may not be there.

    Args:
        ids: (N,) patients, as the table spells them.
        features_NF: encoded as in training; None where the model takes no clinical fields.
    """

    ids: tuple[Any, ...]
    features_NF: Tensor | None

    @classmethod
    def read(cls, folder: Path, model: TrainedModel) -> Self:
        """Return the rows of the table that the model's schema names; none where it is not there.

        Raises:
            ConfigError: the schema names no patient_id, or the model lacks the sums that scale its
                features.
            SiteDataError: the table does not hold what the schema promises, or a patient has two
                rows.
        """
        schema = model.schema
        assert schema.image is not None
        path = folder / schema.image.table
        if not path.is_file():
            return cls((), None)
        frame = read_frame(path)
        ids = _ids(frame, schema, path)
        fields = schema.select(model.config.data.features)
        if not len(frame) or not fields or "table" not in model.config.data.modalities:
            return cls(ids, None)
        rows = feature_rows(frame, fields, schema, place=str(path))
        features_NF = torch.from_numpy(encode(rows, fields, statistics_of(model, fields)))
        return cls(ids, features_NF)

    def owner(self, series: Series, root: Path) -> Owner:
        """Return whose a series is: its own patient's, or its folder's where only that is known."""
        row_of = {spelled(one): row for row, one in enumerate(self.ids)}
        own, folder = spelled(series.patient), first_folder(series.files[0], root)
        by_folder = own not in row_of and bool(folder) and spelled(folder) in row_of
        key = spelled(folder) if by_folder else own
        row = row_of.get(key)
        return Owner(key, series.patient if row is None else self.ids[row], row)

    def features_of(self, owner: Owner) -> Tensor | None:
        """Return a patient's (F,) encoded fields; None where they are missing."""
        if self.features_NF is None or owner.row is None:
            return None
        return self.features_NF[owner.row]


def _ids(frame: pd.DataFrame, schema: TableSchema, path: Path) -> tuple[Any, ...]:
    column = schema.patient_id
    if column is None:
        if not schema.fields:
            return ()
        raise ConfigError(
            f"the model's schema {schema.name} names no patient_id; scans and {path.name} are "
            "joined by it"
        )
    if column not in frame.columns:
        raise SiteDataError(f"{path}: has no column {column!r}, which names the patient")
    nameless = int(frame[column].isna().sum())
    if nameless:
        raise SiteDataError(f"{path}: column {column!r}: {nameless} rows have none")
    twice = int(pd.Series([spelled(one) for one in frame[column]]).duplicated().sum())
    if twice:
        raise SiteDataError(
            f"{path}: column {column!r}: {twice} rows are of a patient who has one already"
        )
    return tuple(frame[column].tolist())
