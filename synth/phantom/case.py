"""One patient's phantom of any kind, and what a cohort's files must say about the generator."""

import hashlib
from pathlib import Path

import numpy as np

from fedward.synth.phantom.clinical import NODULE_COLUMNS, STONE_COLUMNS
from fedward.synth.phantom.nodules import nodule_case
from fedward.synth.phantom.scanner import Scanner, scanner_of
from fedward.synth.phantom.truth import CaseSpec, Kind, LabelsFrom, Lesion, Phantom
from fedward.synth.phantom.urinary import abdomen_case, stone_case

__all__ = [
    "VERSION", "CaseSpec", "Kind", "LabelsFrom", "Lesion", "Phantom", "Scanner",
    "clinical_columns", "generator_hash", "label_column", "make_case", "scanner_of",
]  # fmt: skip

VERSION = 1
"""Grows whenever the same seed gives other patients."""
_SOURCES = (
    "anatomy", "case", "clinical", "fields", "imaging", "lesions", "nodules", "organs", "scanner",
    "skeleton", "states", "stones", "truth", "urinary",
)  # fmt: skip


def make_case(spec: CaseSpec, rng: np.random.Generator) -> Phantom:
    """Return a patient of `spec`, the same one for the same state of `rng`."""
    if spec.kind == "nodules":
        return nodule_case(spec, rng)
    if spec.kind == "abdomen":
        return abdomen_case(spec, rng)
    return stone_case(spec, rng)


def clinical_columns(kind: Kind) -> tuple[str, ...]:
    """Return the names of a kind's clinical columns, in the order of the table.

    stones and abdomen: age, sex ("F"/"M"), blood_wbc, creatinine, urine_wbc, urine_ph, location
    ("left-ureter" ...). nodules: age, sex, pack_years, lucency, retraction (the last two 0 or 1:
    seen in the image by construction, so no features).
    """
    return NODULE_COLUMNS if kind == "nodules" else STONE_COLUMNS


def label_column(kind: Kind) -> str:
    """Return the name of the label's column: `infection`, or `invasive` for nodules."""
    return "invasive" if kind == "nodules" else "infection"


def generator_hash() -> str:
    """Return the first 16 hex digits of SHA-256 over the generator's source files."""
    total = hashlib.sha256()
    for name in _SOURCES:
        total.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return total.hexdigest()[:16]
