"""The privacy report as a whole: what it refuses, what it holds, and PhysioNet 2019."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from fedward.common.errors import SiteDataError
from fedward.synth.evaluation.membership import membership_risks
from fedward.synth.evaluation.privacy import PrivacyReport, evaluate_privacy
from fedward.synth.evaluation.resemblance import resemblance
from fedward.synth.evaluation.trial import make_trial
from fedward.synth.tables.columns import Column, Columns
from tests.synth.attacked_cohort import (
    COLUMNS,
    kernel_draws,
    population,
    with_gaps,
)


def report(members: pd.DataFrame, synthetic: pd.DataFrame, seed: int = 0) -> PrivacyReport:
    rng = np.random.default_rng(seed)
    return evaluate_privacy(
        COLUMNS,
        members=members,
        synthetic=synthetic,
        holdout=population(len(members), rng),
        seed=seed,
    )


@pytest.mark.parametrize("num_rows", [None, 0, 19])
def test_without_a_holdout_there_is_no_score(num_rows: int | None) -> None:
    rng = np.random.default_rng(0)
    members = population(100, rng)
    holdout = None if num_rows is None else population(num_rows, rng)
    with pytest.raises(SiteDataError, match=r"holdout: .* means nothing until"):
        evaluate_privacy(COLUMNS, members=members, synthetic=members, holdout=holdout)


def test_a_holdout_of_members_is_refused() -> None:
    rng = np.random.default_rng(1)
    members = population(100, rng)
    mixed = pd.concat([members[:10], population(90, rng)], ignore_index=True)
    with pytest.raises(SiteDataError, match="10% of its rows equal a member's"):
        evaluate_privacy(COLUMNS, members=members, synthetic=members, holdout=mixed)


def test_an_absent_column_is_named_with_its_table() -> None:
    rng = np.random.default_rng(2)
    members = population(100, rng)
    with pytest.raises(SiteDataError, match="synthetic: no column 'lab3'"):
        evaluate_privacy(
            COLUMNS,
            members=members,
            synthetic=members.drop(columns="lab3"),
            holdout=population(100, rng),
        )


def test_the_same_seed_gives_the_same_report() -> None:
    rng = np.random.default_rng(3)
    members = population(120, rng)
    synthetic = kernel_draws(members, 240, rng, noise=0.5)
    one, other, third = (report(members, synthetic, seed) for seed in (5, 5, 6))
    assert one == other
    assert one != third


def test_the_report_goes_through_json_unchanged() -> None:
    rng = np.random.default_rng(4)
    members = population(100, rng)
    found = report(members, members)
    told = json.loads(json.dumps(found.to_dict()))
    assert told["linkability"]["value"] == found.linkability.value
    assert len(told["membership"]) == len(found.membership)
    assert told["resemblance"]["nearer_to_train"]["value"] == 1.0


def test_a_planted_copy_is_high_in_every_attack_and_swapped_members_in_none() -> None:
    rng = np.random.default_rng(5)
    members = population(200, rng)
    copied, swapped = report(members, members), report(population(200, rng), members)
    worst = copied.worst_membership()
    assert worst is not None
    assert worst.value == pytest.approx(1.0, abs=0.02)
    names = {risk.name for risk in copied.risks if risk.is_leak and risk.group == "all"}
    assert names >= {"density_auc", "nearest_auc", "linkability", "inference"}
    assert names >= {"singling_out_univariate", "singling_out_multivariate"}
    # 22 intervals over 0.5 or 0; 1 in 40 each, many of them of the same attack.
    assert sum(risk.is_leak for risk in swapped.risks) <= 5


def test_half_of_the_holdout_is_the_attackers_where_no_reference_is_given() -> None:
    rng = np.random.default_rng(6)
    members = population(100, rng)
    found = report(members, members)
    assert (found.num_holdout, found.num_reference) == (100, 50)
    assert any("no reference" in caution for caution in found.cautions)
    given = evaluate_privacy(
        COLUMNS,
        members=members,
        synthetic=members,
        holdout=population(100, rng),
        reference=population(80, rng),
    )
    assert given.num_reference == 80
    assert given.cautions == ()


def test_a_smaller_holdout_is_a_caution() -> None:
    rng = np.random.default_rng(7)
    members = population(150, rng)
    found = evaluate_privacy(
        COLUMNS, members=members, synthetic=members, holdout=population(100, rng)
    )
    assert any("understates" in caution for caution in found.cautions)


def test_missing_numbers_and_categories_are_no_error() -> None:
    rng = np.random.default_rng(8)

    def gappy(n: int) -> pd.DataFrame:
        frame = with_gaps(population(n, rng), rng)
        return frame.assign(ward=frame["ward"].where(rng.random(n) < 0.8, None))

    members = gappy(100)
    found = evaluate_privacy(COLUMNS, members=members, synthetic=members, holdout=gappy(100))
    value = found.risk("density_gaps_auc").value
    assert value is not None
    assert value > 0.95


def test_a_table_without_a_label_has_one_group_and_its_outliers() -> None:
    rng = np.random.default_rng(9)
    columns = replace(COLUMNS, label=None, classes=(), class_names=())
    members = population(100, rng)
    found = evaluate_privacy(
        columns, members=members, synthetic=members, holdout=population(100, rng)
    )
    assert {risk.group for risk in found.membership} == {"all", "outliers"}
    assert {risk.group for risk in found.inference} == {"all", *columns.names}


def test_a_figure_is_found_by_name_and_group() -> None:
    rng = np.random.default_rng(10)
    members = population(100, rng)
    found = report(members, members)
    assert found.risk("inference", "sepsis").group == "sepsis"
    with pytest.raises(KeyError):
        found.risk("inference", "no such secret")


# PhysioNet 2019, hospital A: the 27 numbers that are missing least often, as the paper's own list
# of 27 is only partly in these files; and the paper's number of patients of each class.
NAMES = (
    *("HR", "O2Sat", "Temp", "SBP", "MAP", "DBP", "Resp", "BaseExcess", "HCO3", "FiO2", "pH"),
    *("PaCO2", "BUN", "Calcium", "Chloride", "Creatinine", "Glucose", "Magnesium", "Phosphate"),
    *("Potassium", "Hct", "Hgb", "PTT", "WBC", "Platelets", "Age", "HospAdmTime"),
)
SEPSIS = Columns(
    tuple(Column(name, "continuous") for name in NAMES),
    label="sepsis",
    classes=(0, 1),
    class_names=("no sepsis", "sepsis"),
)
NUM_MEMBERS = {0: 832, 1: 251}


@pytest.fixture
def hospital(data_dir: Path) -> dict[str, pd.DataFrame]:
    file = data_dir / "physionet2019_sepsis" / "hospital_A_first9h.csv.gz"
    if not file.is_file():
        pytest.skip("needs PhysioNet 2019: run `fedward data fetch sepsis`")
    rows = pd.read_csv(file)
    rows = rows[~(rows["label_onset_hour"] <= 9)].sample(frac=1, random_state=0)
    parts: dict[str, list[pd.DataFrame]] = {"members": [], "holdout": [], "reference": []}
    for sepsis, n in NUM_MEMBERS.items():
        own = rows[rows["sepsis"] == sepsis]
        parts["members"].append(own[:n])
        parts["holdout"].append(own[n : 2 * n])
        parts["reference"].append(own[2 * n : 2 * n + 4800])
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}


def drawn(members: pd.DataFrame, n: int, kind: str) -> pd.DataFrame:
    """Return n rows, half of each class, of imputed and standardised members."""
    rng, parts = np.random.default_rng(0), []
    imputed = SimpleImputer(strategy="median").fit_transform(members[list(NAMES)])
    scaler = StandardScaler().fit(imputed)
    points = scaler.transform(imputed)
    for sepsis in NUM_MEMBERS:
        own = points[members["sepsis"] == sepsis]
        if kind == "kernel":
            rows = own[rng.integers(len(own), size=n // 2)]
            rows = rows + rng.normal(size=rows.shape)
        else:
            rows = rng.multivariate_normal(own.mean(axis=0), np.cov(own.T), n // 2)
        frame = pd.DataFrame(scaler.inverse_transform(rows), columns=list(NAMES))
        parts.append(frame.assign(sepsis=sepsis))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.slow
def test_a_kernel_density_of_patients_with_sepsis_gives_them_away(
    hospital: dict[str, pd.DataFrame],
) -> None:
    figures = {}
    for kind in ("kernel", "gaussian"):
        for n in (1080, 40_000):
            synthetic = drawn(hospital["members"], n, kind)
            trial = make_trial(
                SEPSIS,
                synthetic=synthetic,
                members=hospital["members"],
                holdout=hospital["holdout"],
                reference=hospital["reference"],
            )
            for risk in membership_risks(trial):
                figures[kind, n, risk.name, risk.group] = risk.value or 0.0
            if (kind, n) == ("kernel", 1080):
                near = resemblance(trial, np.random.default_rng(0))

    def auc(kind: str, n: int, group: str) -> float:
        return figures[kind, n, "density_auc", group]

    # Measured: .94 at 40,000 rows and .79 at 1,080; .75 and .58 of the other class.
    assert auc("kernel", 40_000, "sepsis") >= 0.85
    assert auc("kernel", 40_000, "sepsis") > auc("kernel", 1080, "sepsis") + 0.05
    assert auc("kernel", 40_000, "no sepsis") > auc("kernel", 1080, "no sepsis") + 0.05
    assert figures["kernel", 40_000, "density_tpr", "all"] > 0.1
    # Two standard errors of an area of 251 against 251 are 0.05.
    for n in (1080, 40_000):
        assert auc("gaussian", n, "all") < 0.56
        assert auc("gaussian", n, "sepsis") < 0.62
    # The distance says nothing of it: it is the radius of the noise, the root of 27.
    assert near is not None
    assert near.dcr.mean == pytest.approx(5.0, abs=0.3)
    assert near.dcr.mean > near.patients_to_patients.mean


@pytest.mark.slow
def test_fewer_parameters_than_patients_leak_less_than_kernels_in_every_attack(
    hospital: dict[str, pd.DataFrame],
) -> None:
    kernel, gaussian = (
        evaluate_privacy(
            SEPSIS,
            synthetic=drawn(hospital["members"], 10_000, kind),
            members=hospital["members"],
            holdout=hospital["holdout"],
            reference=hospital["reference"],
        )
        for kind in ("kernel", "gaussian")
    )
    for name in ("density_auc", "nearest_auc", "linkability", "inference"):
        assert (kernel.risk(name).value or 0) > (gaussian.risk(name).value or 0)
    assert kernel.linkability.is_leak
    assert not gaussian.linkability.is_leak
