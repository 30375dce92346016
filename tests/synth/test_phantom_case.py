"""Patients: truth and image agree, and the label depends on what it should."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import label
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedward.common.randomness import numpy_generator
from fedward.synth.phantom import case as case_module
from fedward.synth.phantom.case import (
    CaseSpec,
    Kind,
    LabelsFrom,
    Phantom,
    clinical_columns,
    generator_hash,
    label_column,
    make_case,
    scanner_of,
)
from fedward.synth.phantom.clinical import LOCATIONS, stone_row
from fedward.synth.phantom.states import draw_states
from fedward.synth.phantom.stones import COMPOSITIONS, draw_composition

INFECTIOUS = {item.name for item in COMPOSITIONS if item.infectious}


def patient(number: int, kind: Kind = "stones", labels_from: LabelsFrom = "both") -> Phantom:
    spec = CaseSpec(kind, scanner_of(number % 6), size_mm=32, labels_from=labels_from)
    return make_case(spec, numpy_generator(3, purpose="test", site=str(number)))


def centre_of_mask_mm(phantom: Phantom) -> np.ndarray:
    d, h, w = np.argwhere(phantom.mask_DHW == len(phantom.structures)).mean(axis=0)
    along = np.asarray([w, h, d]) * np.asarray(phantom.spacing_mm)[::-1]
    return np.asarray(np.asarray(phantom.origin_mm) + along)


@pytest.mark.parametrize("kind", ["stones", "nodules"])
def test_the_same_random_state_gives_the_same_patient(kind: Kind) -> None:
    one, again, other = patient(0, kind), patient(0, kind), patient(6, kind)
    assert np.array_equal(one.voxels_DHW, again.voxels_DHW)
    assert np.array_equal(one.mask_DHW, again.mask_DHW)
    assert one.clinical == again.clinical
    assert one.lesions == again.lesions
    assert not np.array_equal(one.voxels_DHW, other.voxels_DHW)


@pytest.mark.parametrize("kind", ["stones", "nodules"])
@pytest.mark.parametrize("number", range(6))
def test_the_mask_has_the_lesions_true_volume_and_place(kind: Kind, number: int) -> None:
    phantom = patient(number, kind)
    truth = phantom.lesions[0]
    voxel_mm3 = float(np.prod(phantom.spacing_mm))
    volume = float((phantom.mask_DHW == 1).sum()) * voxel_mm3
    # Voxels of the surface are in or out as a whole: allow half of them either way, 15 % at least.
    surface = 4.84 * truth.volume_mm3 ** (2 / 3) * max(phantom.spacing_mm) / 6
    assert abs(volume - truth.volume_mm3) < max(0.15 * truth.volume_mm3, surface)
    away = centre_of_mask_mm(phantom) - np.asarray(truth.centre_mm)
    assert np.abs(away).max() < max(phantom.spacing_mm) / 2


def test_a_patient_has_the_columns_of_the_table_and_a_region_of_the_size() -> None:
    for kind in ("stones", "nodules"):
        phantom = patient(1, kind)
        scanner = scanner_of(1)
        assert tuple(phantom.clinical) == clinical_columns(kind)
        assert label_column(kind) not in phantom.clinical
        assert phantom.label in (0, 1)
        assert phantom.voxels_DHW.dtype == np.int16
        assert phantom.mask_DHW.dtype == np.uint8
        extent = np.asarray(phantom.voxels_DHW.shape) * np.asarray(phantom.spacing_mm)
        assert np.abs(extent - 32).max() <= scanner.slice_mm / 2 + 1e-6


def test_a_stone_thinner_than_a_slice_is_still_in_the_mask() -> None:
    thick = replace(scanner_of(5), slice_mm=10.0, pixel_mm=2.0)
    for number in range(6):
        spec = CaseSpec("stones", thick, size_mm=32)
        phantom = make_case(spec, numpy_generator(number, purpose="test"))
        assert (phantom.mask_DHW == 1).any()


def test_an_abdomen_has_two_kidneys_at_its_sides_and_all_its_stones() -> None:
    coarse = replace(scanner_of(0), slice_mm=5.0, pixel_mm=3.0)
    phantom = make_case(CaseSpec("abdomen", coarse), numpy_generator(5, purpose="test"))
    kidneys, count = label(phantom.mask_DHW == 1)
    sizes = np.bincount(kidneys.ravel())[1:] * np.prod(phantom.spacing_mm) / 1000
    assert count >= 2
    left_ml, right_ml = sorted(sizes)[-2:]
    assert 70 < left_ml < 260
    assert 70 < right_ml < 260
    _, num_stones = label(phantom.mask_DHW == 2, structure=np.ones((3, 3, 3)))
    assert num_stones == len(phantom.lesions)
    # Bone lies behind the middle, the liver on the right, air round the body.
    d, h, w = phantom.voxels_DHW.shape
    bone = np.argwhere(phantom.voxels_DHW[d // 2 :] > 350)
    assert bone[:, 1].mean() > h / 2
    upper = phantom.voxels_DHW[-12:, h // 4 : h // 2]
    assert upper[:, :, w // 4 : w // 2].mean() > upper[:, :, w // 2 : 3 * w // 4].mean()
    assert phantom.voxels_DHW[0, 0, 0] < -900


def test_infection_is_in_the_stone_where_the_label_comes_from_the_image() -> None:
    for number in range(2, 5):
        for labels_from in ("both", "ct"):
            phantom = patient(number, labels_from=labels_from)
            infectious = phantom.lesions[0].composition in INFECTIOUS
            assert infectious == bool(phantom.label)


def test_a_label_depends_on_image_and_table_as_asked() -> None:
    rng = numpy_generator(1, purpose="test")
    for labels_from, from_image, from_table in (
        ("both", True, True), ("ct", True, False), ("ehr", False, True), ("none", False, False),
    ):  # fmt: skip
        states = [draw_states(rng, labels_from, 0.4) for _ in range(2500)]
        labels = np.asarray([state.label for state in states])
        for shown, carries in (("image", from_image), ("table", from_table)):
            values = np.asarray([getattr(state, shown) for state in states])
            agreement = np.corrcoef(labels, values)[0, 1]
            # Unrelated: 4 standard errors of a correlation of 2,500 pairs.
            assert agreement == pytest.approx(1.0) if carries else abs(agreement) < 0.08


def test_the_table_alone_tells_the_infection_about_as_well_as_it_should() -> None:
    rng = numpy_generator(2, purpose="test")
    rows, labels = [], []
    for _ in range(3000):
        infectious = bool(rng.random() < 0.41)
        made_of = draw_composition(rng, infectious=infectious).name
        row = stone_row(
            rng, infectious=infectious, composition=made_of, location="kidney", missing=0.1
        )
        values = [row[name] for name in ("urine_ph", "urine_wbc", "blood_wbc", "creatinine", "age")]
        numbers = [np.nan if value is None else float(value) for value in values]
        rows.append([*numbers, float(row["sex"] == "F")])
        labels.append(infectious)
    x_NF, y = np.asarray(rows), np.asarray(labels)
    assert 0.08 < np.isnan(x_NF[:, :5]).mean() < 0.12
    x_NF[:, 1] = np.log(x_NF[:, 1] + 1)
    x_NF = np.where(np.isnan(x_NF), np.nanmedian(x_NF, axis=0), x_NF)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    scores = cross_val_predict(model, x_NF, y, cv=5, method="predict_proba")[:, 1]
    assert 0.79 < roc_auc_score(y, scores) < 0.88


def test_nothing_is_missing_where_nothing_shall_be_and_all_where_all() -> None:
    rng = numpy_generator(4, purpose="test")
    for missing, none in ((0.0, 0), (1.0, 7)):
        row = stone_row(
            rng, infectious=True, composition="struvite", location="bladder", missing=missing
        )
        assert sum(value is None for value in row.values()) == none
    assert sum(LOCATIONS.values()) == 267


def test_a_nodule_with_lucency_holds_air_and_one_with_retraction_says_so() -> None:
    seen = set()
    for number in range(0, 60, 6):
        phantom = patient(number, "nodules")
        lucent = bool(phantom.clinical["lucency"])
        seen.add(lucent)
        truth = phantom.lesions[0]
        if truth.composition == "solid":
            assert (truth.sd_hu > 120) == lucent
    assert seen == {True, False}


def test_the_hash_covers_every_source_that_a_patient_depends_on() -> None:
    folder = Path(case_module.__file__).parent
    found, open_names = set(), ["case"]
    while open_names:
        name = open_names.pop()
        if name in found:
            continue
        found.add(name)
        text = (folder / f"{name}.py").read_text(encoding="utf-8")
        start = "from fedward.synth.phantom."
        open_names += [
            line.removeprefix(start).split()[0]
            for line in text.splitlines()
            if line.startswith(start)
        ]
    assert found == set(case_module._SOURCES)
    assert len(generator_hash()) == 16


@pytest.mark.slow
def test_image_and_table_tell_more_together_than_either_alone() -> None:
    x_ct, x_ehr, labels = [], [], []
    for number in range(500):
        phantom = patient(number * 6)
        inside = phantom.voxels_DHW[phantom.mask_DHW == 1].astype(float)
        x_ct.append([inside.mean(), inside.std(), np.log(len(inside))])
        row = phantom.clinical
        numbers = [row[name] for name in ("urine_ph", "urine_wbc", "blood_wbc")]
        x_ehr.append([np.nan if v is None else np.log(float(v) + 1) for v in numbers])
        x_ehr[-1].append(float(row["sex"] == "F"))
        labels.append(phantom.label)
    ct, ehr, y = np.asarray(x_ct), np.asarray(x_ehr), np.asarray(labels)
    ehr = np.where(np.isnan(ehr), np.nanmedian(ehr, axis=0), ehr)
    figures = {}
    for name, x_NF in (("ct", ct), ("ehr", ehr), ("both", np.concatenate([ct, ehr], axis=1))):
        model = make_pipeline(StandardScaler(), LogisticRegression())
        scores = cross_val_predict(model, x_NF, y, cv=5, method="predict_proba")[:, 1]
        figures[name] = roc_auc_score(y, scores)
    # Three standard errors of an AUROC of .83 with 500 patients are .055.
    assert 0.76 < figures["ct"] < 0.9
    assert 0.76 < figures["ehr"] < 0.9
    assert figures["both"] > max(figures["ct"], figures["ehr"]) + 0.03
