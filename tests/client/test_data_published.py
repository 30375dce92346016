"""What was published is recognised cell by cell, whoever converted it and however it is written."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedward.client.data.catalogue import HEART, SEPSIS, content_hash, resolve_root, verify
from fedward.client.data.convert import HEART_FILES, first_hours, heart_disease_table
from fedward.client.data.read import read_frame, table_from_frame
from fedward.common.errors import SiteDataError
from fedward.common.tables.schema import load_schema

TABLE = "heart_disease_4sites.csv"
# Saturation as a fraction, oxygen in per cent, degrees Fahrenheit, umol/l, mmol/l.
OTHER_UNITS = {
    "O2Sat": (0.01, 0.0),
    "SaO2": (0.01, 0.0),
    "FiO2": (100.0, 0.0),
    "Temp": (1.8, 32.0),
    "Creatinine": (88.42, 0.0),
    "Glucose": (1 / 18.02, 0.0),
}


@pytest.fixture
def heart(data_dir: Path) -> pd.DataFrame:
    return pd.read_csv(data_dir / HEART.folder / TABLE)


def test_the_four_original_files_become_the_table_column_by_column(
    data_dir: Path, heart: pd.DataFrame
) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for file in HEART_FILES.values():
            archive.write(data_dir / HEART.folder / file, file)
    made = heart_disease_table(zipfile.ZipFile(content))[TABLE]
    pd.testing.assert_frame_equal(made, heart)


def test_the_hourly_series_become_the_tables_of_the_first_hours(
    data_dir: Path, tmp_path: Path
) -> None:
    for hospital in "AB":
        hourly = pd.read_parquet(data_dir / SEPSIS.folder / f"hospital_{hospital}_hourly.parquet")
        names = "p" + hourly["patient_id"].astype(str).str.zfill(6)
        made = first_hours(hourly.assign(patient_id=names))
        made.to_csv(tmp_path / f"hospital_{hospital}_first9h.csv.gz", index=False)
    verify(SEPSIS, tmp_path)


def test_another_order_of_rows_and_columns_is_the_same_content(
    tmp_path: Path, heart: pd.DataFrame
) -> None:
    shuffled = heart.sample(frac=1, random_state=0)[heart.columns[::-1]]
    shuffled.to_csv(tmp_path / TABLE, index=False)
    assert content_hash(tmp_path, HEART) == HEART.sha256


@pytest.mark.parametrize("value", [64.0, np.nan])
def test_one_altered_cell_is_found_though_all_counts_agree(
    tmp_path: Path, heart: pd.DataFrame, value: float
) -> None:
    assert heart.loc[0, "age"] == 63.0
    heart.loc[0, "age"] = value
    heart.to_csv(tmp_path / TABLE, index=False)
    with pytest.raises(SiteDataError, match="other cells differ"):
        verify(HEART, tmp_path)


def test_a_data_set_is_found_by_the_name_of_its_folder(data_dir: Path, tmp_path: Path) -> None:
    assert resolve_root(HEART.folder, tmp_path) == data_dir / HEART.folder


@pytest.mark.parametrize("column", OTHER_UNITS)
def test_a_column_in_another_unit_is_refused(data_dir: Path, column: str) -> None:
    frame = read_frame(data_dir / SEPSIS.folder / "hospital_B_first9h.csv.gz")
    factor, offset = OTHER_UNITS[column]
    frame[column] = frame[column] * factor + offset
    with pytest.raises(SiteDataError, match=f"column '{column}': .* are they in another unit"):
        table_from_frame(frame, load_schema("sepsis"), place="hospital B")
