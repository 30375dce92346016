"""Columns that name a patient: refused, since a synthetic copy of an identifier is still one.

Rules of thumb, ours: they catch what hospitals' exports commonly hold, not every identifier.
"""

import re
from typing import Any

import numpy as np
import pandas as pd

_WORDS = """
id ids mrn ssn pid uid uuid guid name names firstname lastname forename surname fullname
zip zipcode postcode postal plz address street phone telephone mobile fax email mail dob
birthdate birthday passport iban accession hospitalnumber casenumber nhs nhsnumber
"""
WORDS = frozenset(_WORDS.split())
PHRASES = (("date", "of", "birth"), ("birth", "date"), ("first", "name"), ("nhs", "number"))
MIN_ROWS = 20
"""With fewer rows, all-distinct values say nothing."""
LONG_NUMBER = 10_000
"""All-distinct integers from this up look like numbers of patients or cases."""


def why_identifier(name: str, cells: "pd.Series[Any]") -> str | None:
    """Return why a column looks like an identifier, or None.

    Args:
        name: of the column.
        cells: (N,) its values; numbers, or text.
    """
    words = _words(name)
    if WORDS & set(words) or any(_contains(words, phrase) for phrase in PHRASES):
        return "its name is that of an identifier"
    known = cells.dropna()
    if pd.api.types.is_datetime64_any_dtype(known.dtype):
        return "it holds dates, which tell a patient; turn them into an age or a number of days"
    if len(known) < MIN_ROWS or known.nunique() < len(known):
        return None
    if pd.api.types.is_bool_dtype(known.dtype):
        return None
    numbers = pd.to_numeric(known, errors="coerce")
    if numbers.isna().any():
        return "every row has a text of its own"
    values = np.sort(numbers.to_numpy(dtype=np.float64))
    if not np.all(np.isfinite(values)) or np.any(values != np.round(values)):
        return None
    if values[-1] - values[0] == len(values) - 1:
        return "its values number the rows"
    if values[0] >= LONG_NUMBER:
        return "every row has a long whole number of its own"
    return None


def _words(name: str) -> list[str]:
    """Return the words of a name: `patientID`, `patient_id` and `Patient-ID` have the same."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word]


def _contains(words: list[str], phrase: tuple[str, ...]) -> bool:
    size = len(phrase)
    return any(tuple(words[i : i + size]) == phrase for i in range(len(words) - size + 1))
