"""From the archives as they are published to one row per patient."""

import io
import re
import zipfile
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

HEART_COLUMNS = [
    "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg",
    "thalach", "exang", "oldpeak", "slope", "ca", "thal", "num",
]  # fmt: skip
HEART_FILES = {
    "cleveland": "processed.cleveland.data",
    "hungarian": "processed.hungarian.data",
    "switzerland": "processed.switzerland.data",
    "va": "processed.va.data",
}
FIRST_HOURS = 9
NOT_MEASURED = ["Age", "Gender", "Unit1", "Unit2", "HospAdmTime", "ICULOS", "SepsisLabel"]


def heart_disease_table(archive: zipfile.ZipFile) -> dict[str, pd.DataFrame]:
    """Return the four hospitals' files as one table with a `site` column."""
    parts = [
        heart_disease_site(archive.read(file).decode("latin-1"), site)
        for site, file in HEART_FILES.items()
    ]
    return {"heart_disease_4sites.csv": pd.concat(parts, ignore_index=True)}


def heart_disease_site(text: str, site: str) -> pd.DataFrame:
    """Return one hospital's `processed` file; `?` is missing."""
    frame = pd.read_csv(io.StringIO(text), header=None, names=HEART_COLUMNS, na_values=["?"])
    return frame.assign(site=site)[["site", *HEART_COLUMNS]]


def sepsis_first_hours(archive: zipfile.ZipFile) -> dict[str, pd.DataFrame]:
    """Return each hospital's patients, one row each, from the `.psv` file of every patient."""
    tables = {}
    for hospital in ("A", "B"):
        names = [
            n for n in archive.namelist() if re.search(rf"training_set{hospital}/p\d+\.psv$", n)
        ]
        patients = []
        for name in sorted(names):
            hours = pd.read_csv(io.BytesIO(archive.read(name)), sep="|")
            patients.append(hours.assign(patient_id=PurePosixPath(name).stem))
        hourly = pd.concat(patients, ignore_index=True)
        tables[f"hospital_{hospital}_first9h.csv.gz"] = first_hours(hourly)
    return tables


def first_hours(hourly: pd.DataFrame) -> pd.DataFrame:
    """Return one row per patient: the last value of each variable measured in the first 9 hours.

    Args:
        hourly: all hours of all patients, in order; `ICULOS` counts the hours in intensive care.
    """
    measured = [c for c in hourly.columns if c not in {*NOT_MEASURED, "patient_id"}]
    by_patient = hourly.groupby("patient_id", sort=True)
    early = hourly[hourly["ICULOS"] <= FIRST_HOURS]
    # groupby.last takes the last value that is not missing.
    values = early.groupby("patient_id", sort=True)[measured].last()
    fixed = by_patient[["Age", "Gender", "Unit1", "Unit2", "HospAdmTime"]].first()
    stay = by_patient["ICULOS"].agg(first_hour="min", last_hour="max")
    onset = hourly[hourly["SepsisLabel"] == 1].groupby("patient_id")["ICULOS"].min()
    frame = values.reindex(stay.index).join(fixed).join(stay)
    frame["sepsis"] = by_patient["SepsisLabel"].max().astype(np.int64)
    frame["label_onset_hour"] = onset.reindex(frame.index)
    return frame.reset_index()
