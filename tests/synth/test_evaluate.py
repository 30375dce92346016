"""The whole evaluation on real patients and on tables whose faults are known: it finds them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import overload

import pandas as pd
import pytest

from fedward.common.errors import SiteDataError
from fedward.common.tables.schema import load_schema
from fedward.synth.evaluation.evaluate import Evaluation, evaluate
from fedward.synth.evaluation.verdict import Claim
from fedward.synth.tables.columns import Columns
from tests.synth.evaluation_cohort import bootstrap, constant, gaussian_per_class, halves

COLUMNS, TRAIN, HOLDOUT = halves()
TRAIN, HOLDOUT = TRAIN[:160], HOLDOUT[:160]


@overload
def without_label(table: Columns) -> Columns: ...
@overload
def without_label(table: pd.DataFrame) -> pd.DataFrame: ...
def without_label(table: Columns | pd.DataFrame) -> Columns | pd.DataFrame:
    if isinstance(table, pd.DataFrame):
        return table.drop(columns="malignant")
    return replace(table, label=None, classes=(), class_names=())


@pytest.fixture(scope="module")
def harmless() -> tuple[Evaluation, list[tuple[str, float]]]:
    """Return the evaluation of one normal distribution per class, and what was told meanwhile."""
    told: list[tuple[str, float]] = []
    found = evaluate(
        COLUMNS,
        train=TRAIN,
        synthetic=[gaussian_per_class(COLUMNS, TRAIN, 160, seed) for seed in (1, 2)],
        holdout=HOLDOUT,
        external=HOLDOUT[:60].assign(mean_radius=HOLDOUT["mean_radius"] * 1.1),
        seed=1,
        facts={"Synthesiser": "normal"},
        claim=Claim(1.0, 1e-5),
        progress=lambda what, share: told.append((what, share)),
    )
    return found, told


def test_a_parametric_synthesiser_is_shareable_and_useful(
    harmless: tuple[Evaluation, list[tuple[str, float]]],
) -> None:
    found, _ = harmless
    assert found.verdict.shareable
    assert found.verdict.useful
    assert found.utility.num_seeds == 2
    assert {one.test for one in found.utility.comparisons} == {"internal", "external"}
    assert found.sizes.rows == 160
    assert found.sizes.external == 60
    assert found.copies.num_copies == 0


def test_it_becomes_json_without_nan_and_without_a_row(
    harmless: tuple[Evaluation, list[tuple[str, float]]],
) -> None:
    found, _ = harmless
    text = json.dumps(found.to_dict(), allow_nan=False)
    again = json.loads(text)
    assert again["verdict"]["shareable"] is True
    assert again["claim"] == {"epsilon": 1.0, "delta": 1e-5}
    assert again["utility"]["comparisons"][0]["tstr"]["value"] > 0.9
    assert not [value for value in TRAIN["worst_area"] if repr(float(value)) in text]


def test_progress_rises_from_nothing_to_all(
    harmless: tuple[Evaluation, list[tuple[str, float]]],
) -> None:
    _, told = harmless
    shares = [share for _, share in told]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert told[-1] == ("verdict", 1.0)
    assert {what for what, _ in told} == {"fidelity", "privacy", "utility", "mixing", "verdict"}


@pytest.mark.slow
def test_a_planted_copy_of_the_patients_is_true_useful_and_not_shareable() -> None:
    copied = evaluate(COLUMNS, train=TRAIN, synthetic=TRAIN, holdout=HOLDOUT, seed=1)
    assert not copied.verdict.shareable
    assert copied.verdict.useful
    assert {"membership", "copies", "attributes"} <= {r.code for r in copied.verdict.blocking}
    assert copied.copies.num_copies == 160
    assert copied.fidelity.mean_margin == pytest.approx(0)
    assert copied.privacy is not None
    worst = copied.privacy.worst_membership()
    assert worst is not None
    assert worst.value is not None
    assert worst.value > 0.99


@pytest.mark.slow
def test_constant_rows_are_reported_as_useless() -> None:
    # Values of the patient in the middle, so that they are nobody's copy.
    middle = constant(TRAIN, 160).assign(**TRAIN[list(COLUMNS.names)[:5]].mean())
    found = evaluate(COLUMNS, train=TRAIN, synthetic=middle, holdout=HOLDOUT, seed=1)
    assert found.verdict.useful is False
    assert found.fidelity.detection.low is not None
    assert found.fidelity.detection.low > 0.9


def test_without_a_holdout_nothing_is_shareable_and_the_rest_is_still_told() -> None:
    made = gaussian_per_class(COLUMNS, TRAIN, 100, seed=1)
    found = evaluate(COLUMNS, train=TRAIN, synthetic=made, seed=1)
    assert not found.verdict.shareable
    assert found.privacy is None
    assert "kept aside" in str(found.no_privacy)
    assert found.mixing is None
    assert len(found.fidelity.margins) == len(COLUMNS)


def test_a_holdout_of_a_few_patients_is_none() -> None:
    unlabelled = without_label(COLUMNS)
    train, holdout = without_label(TRAIN), without_label(HOLDOUT)
    found = evaluate(unlabelled, train=train, synthetic=train, holdout=holdout[:12], seed=1)
    assert not found.verdict.shareable
    assert "only 12 patients" in str(found.no_privacy)
    assert found.copies.num_copies == len(train)


@pytest.mark.slow
def test_a_table_without_a_label_has_no_utility_and_all_else() -> None:
    unlabelled = without_label(COLUMNS)
    train, holdout = without_label(TRAIN), without_label(HOLDOUT)
    made = without_label(gaussian_per_class(COLUMNS, TRAIN, 160, seed=1))
    found = evaluate(unlabelled, train=train, synthetic=made, holdout=holdout, seed=1)
    assert found.verdict.useful is None
    assert found.verdict.shareable
    assert found.privacy is not None
    assert found.mixing is None


def test_patients_who_are_members_are_refused_as_a_holdout() -> None:
    with pytest.raises(SiteDataError, match="holdout"):
        evaluate(COLUMNS, train=TRAIN, synthetic=bootstrap(TRAIN, 50, 1), holdout=TRAIN[:40])


def test_empty_and_incomplete_tables_are_refused_with_their_name() -> None:
    with pytest.raises(SiteDataError, match="synthetic: there are no rows"):
        evaluate(COLUMNS, train=TRAIN, synthetic=TRAIN[:0])
    with pytest.raises(SiteDataError, match="synthetic: there is no table"):
        evaluate(COLUMNS, train=TRAIN, synthetic=[])
    with pytest.raises(SiteDataError, match="external: no column 'worst_area'"):
        evaluate(
            COLUMNS,
            train=TRAIN,
            synthetic=TRAIN,
            external=HOLDOUT.drop(columns="worst_area"),
        )


@pytest.mark.slow
def test_heart_disease_is_evaluated_with_a_hospital_that_has_nearly_one_class(
    data_dir: Path,
) -> None:
    schema = load_schema("heart-disease")
    columns = Columns.of_schema(schema, ("age", "sex", "cp", "thalach", "exang", "oldpeak"))
    table = pd.read_csv(data_dir / "uci_heart_disease" / "heart_disease_4sites.csv")
    table["num"] = (table["num"] > 0).astype(int)
    sites = {name: rows.reset_index(drop=True) for name, rows in table.groupby("site")}
    here = sites["cleveland"].sample(frac=1, random_state=1)
    train, holdout = here[:180].reset_index(drop=True), here[180:].reset_index(drop=True)
    columns = replace(columns, positive_above=None)
    made = [gaussian_per_class(columns, train, 180, seed) for seed in (1, 2)]
    found = evaluate(
        columns,
        train=train,
        synthetic=made,
        holdout=holdout,
        external=sites["switzerland"],
        seed=1,
    )
    here_mean, there = found.utility.mean("internal"), found.utility.mean("external")
    assert here_mean is not None
    assert there is not None
    assert here_mean.tstr.value is not None
    assert here_mean.tstr.value > 0.75
    # 8 of 123 patients are healthy: the interval says how little that tells.
    assert there.tstr.low is not None
    assert there.tstr.high is not None
    assert there.tstr.high - there.tstr.low > 0.15
    assert found.verdict.useful is not None
    assert json.dumps(found.to_dict(), allow_nan=False)
