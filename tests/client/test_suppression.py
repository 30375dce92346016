"""No cell of fewer than k patients leaves, and none follows from what leaves.

The check of the fuzz is independent of the code: it asks by linear algebra which unions of the
pieces of a column an outsider can compute from the counts in a report.
"""

from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward.client.suppression import families_of, suppress
from fedward.common.metrics import binary_metrics, calibration_curve
from fedward.common.tables.schema import SubgroupSchema, TableSchema
from tests.client.clinic import CLINIC

K = 10
NUM_TRIALS = 60
Bools = npt.NDArray[np.bool_]
Trial = tuple[TableSchema, dict[str, dict[str, Bools]], Bools, dict[str, Any]]
"""Schema, membership by column and subgroup, label, report."""


def figures(label: Bools, probability: npt.NDArray[np.float64]) -> dict[str, Any]:
    return {k: asdict(m) for k, m in binary_metrics(label.astype(int), probability).items()}


def report_of(
    label: Bools, probability: npt.NDArray[np.float64], groups: dict[str, Bools]
) -> dict[str, Any]:
    return {
        "metrics": figures(label, probability),
        "calibration": asdict(calibration_curve(label, probability)),
        "subgroups": {
            name: {"metrics": figures(label[rows], probability[rows])}
            for name, rows in groups.items()
        },
        "seconds": 1.0,
    }


def is_shown(metric: dict[str, Any]) -> bool:
    return metric["n"] is not None


def random_trial(rng: np.random.Generator) -> Trial:
    """Return a made-up site: subgroups of three columns, and what it would report."""
    n = int(rng.integers(12, 150))
    age = rng.integers(20, 95, n).astype(float)
    age[rng.random(n) < rng.choice([0.0, 0.05])] = np.nan
    sex, stage = rng.random(n) < rng.uniform(0.05, 0.5), rng.integers(1, 4, n)
    smoker = rng.choice(["never", "former", "current", ""], n, p=[0.6, 0.2, 0.1, 0.1])
    rules = [
        {"name": "old", "column": "age", "at_least": float(rng.integers(40, 90))},
        {"name": "older", "column": "age", "at_least": float(rng.integers(40, 90))},
        {"name": "young", "column": "age", "below": float(rng.integers(30, 80))},
        *({"name": f"stage {s}", "column": "stage", "equals": s} for s in (1, 2, 3)),
        {"name": "current", "column": "smoker", "equals": "current"},
        {"name": "former", "column": "smoker", "equals": "former"},
    ]
    kept = [rule for rule in rules if rng.random() < 0.8]
    schema = CLINIC.model_copy(
        update={"subgroups": tuple(SubgroupSchema.model_validate(rule) for rule in kept)}
    )
    values = {"age": age, "stage": stage, "smoker": smoker}
    groups = {rule.name: members(rule, values[rule.column]) for rule in schema.subgroups}
    label = rng.random(n) < rng.uniform(0.1, 0.6)
    probability = np.clip(0.5 * label + rng.uniform(0, 0.5, n) + 0.01 * sex, 0, 1)
    columns = {
        column: {r.name: groups[r.name] for r in schema.subgroups if r.column == column}
        for column in values
    }
    return schema, columns, label, report_of(label, probability, groups)


def members(rule: SubgroupSchema, column: npt.NDArray[Any]) -> Bools:
    if rule.equals is not None:
        return np.asarray(column == rule.equals)
    if rule.at_least is not None:
        return np.asarray(column >= rule.at_least)
    return np.asarray(column < rule.below)


def small_cells(
    groups: dict[str, Bools], shown: set[str], of_interest: Bools, *, total_is_known: bool
) -> list[int]:
    """Return the sizes below K of what follows from the counts of `shown` within a column."""
    membership_GN = np.array([*groups.values(), np.ones(len(of_interest))], dtype=float)
    if len(membership_GN) == 1:
        return []
    # The pieces: patients who are in the same of these subgroups.
    pieces_GP, piece_of = np.unique(membership_GN, axis=1, return_inverse=True)
    sizes = np.bincount(piece_of.ravel(), weights=of_interest, minlength=pieces_GP.shape[1])
    told = [row for name, row in zip(groups, pieces_GP[:-1], strict=True) if name in shown]
    if total_is_known:
        told.append(pieces_GP[-1])
    if not told:
        return []
    told_RP = np.array(told)
    rank = np.linalg.matrix_rank(told_RP)
    found = []
    for union in product([0.0, 1.0], repeat=pieces_GP.shape[1]):
        follows = np.linalg.matrix_rank(np.vstack([told_RP, union])) == rank
        size = int(np.dot(union, sizes))
        if follows and 0 < size < K:
            found.append(size)
    return found


def leaks(trial: Trial, cleared: dict[str, Any]) -> list[int]:
    """Return the sizes of all cells of fewer than K patients that `cleared` tells."""
    _, columns, label, _ = trial
    overall, found = cleared["metrics"], []
    everyone = np.ones(len(label), dtype=bool)
    for groups in columns.values():
        for metric, patients in (
            ("accuracy", everyone), ("sensitivity", label), ("specificity", ~label),
        ):  # fmt: skip
            shown = {
                name for name in groups if is_shown(cleared["subgroups"][name]["metrics"][metric])
            }
            found += small_cells(groups, shown, patients, total_is_known=is_shown(overall[metric]))
    curve = cleared.get("calibration", {"n": [], "observed": []})
    for n, observed in zip(curve["n"], curve["observed"], strict=True):
        positive = round(n * observed)
        found += [cell for cell in (n, positive, n - positive) if cell < K]
    every = [m for g in cleared["subgroups"].values() for m in g["metrics"].values()]
    every += overall.values()
    found += [m["n"] for m in every if m["n"] is not None and m["n"] < K]
    return found


def primary_only(report: dict[str, Any]) -> dict[str, Any]:
    """Return what is left where only small cells themselves are withheld."""
    groups = {
        name: {"metrics": {k: m if m["n"] >= K else {**m, "n": None} for k, m in g.items()}}
        for name, g in ((name, entry["metrics"]) for name, entry in report["subgroups"].items())
    }
    return {"metrics": report["metrics"], "subgroups": groups}


def test_no_cell_below_k_follows_from_random_slices() -> None:
    rng = np.random.default_rng(4)
    num_shown = 0
    for _ in range(NUM_TRIALS):
        trial = random_trial(rng)
        cleared, _ = suppress(
            trial[3], num_patients=len(trial[2]), k=K, families=families_of(trial[0])
        )
        assert leaks(trial, cleared) == []
        num_shown += sum(is_shown(g["metrics"]["accuracy"]) for g in cleared["subgroups"].values())
    assert num_shown > NUM_TRIALS  # withholding everything would be safe too


def test_a_subgroup_of_which_nobody_said_how_it_overlaps_is_withheld() -> None:
    report = {"metrics": group(100)["metrics"], "subgroups": {"old": group(50)}}
    assert shown(suppress(report, num_patients=100, k=K)[0]) == set()


def test_withholding_small_cells_alone_would_leak_in_the_same_slices() -> None:
    rng = np.random.default_rng(4)
    trials = [random_trial(rng) for _ in range(NUM_TRIALS)]
    assert sum(bool(leaks(trial, primary_only(trial[3]))) for trial in trials) > NUM_TRIALS / 2


def group(n: int, num_positive: int | None = None) -> dict[str, Any]:
    positive = n // 2 if num_positive is None else num_positive
    counted = {"accuracy": n, "sensitivity": positive, "specificity": n - positive, "auroc": n}
    metrics = {
        name: {"value": 0.9, "low": 0.8, "high": 1.0, "n": count, "reason": None}
        for name, count in counted.items()
    }
    return {"metrics": metrics}


def shown(report: dict[str, Any], metric: str = "accuracy") -> set[str]:
    return {n for n, g in report["subgroups"].items() if is_shown(g["metrics"][metric])}


def test_the_next_smallest_goes_with_one_that_would_follow_from_the_total() -> None:
    schema = CLINIC.model_copy(
        update={
            "subgroups": tuple(
                SubgroupSchema.model_validate({"name": n, "column": "smoker", "equals": n})
                for n in ("never", "former", "current")
            )
        }
    )
    report = {
        "metrics": group(100)["metrics"],
        "subgroups": {"never": group(60), "former": group(35), "current": group(5)},
    }
    cleared, withheld = suppress(report, num_patients=100, k=K, families=families_of(schema))
    assert shown(cleared) == {"never"}
    assert withheld == 8
    hidden = cleared["subgroups"]["current"]["metrics"]["auroc"]
    assert hidden["value"] is None
    assert "fewer than 10 patients" in hidden["reason"]


def test_a_band_with_both_limits_is_made_of_the_pieces_between_them() -> None:
    bands = [{"below": 40}, {"at_least": 40, "below": 60}, {"at_least": 60}, {"at_least": 40}]
    groups = [
        SubgroupSchema.model_validate({"name": str(number), "column": "age", **band})
        for number, band in enumerate(bands)
    ]
    (family,) = families_of(CLINIC.model_copy(update={"subgroups": tuple(groups)}))
    young, middle, old, not_young = (family[str(number)] for number in range(4))
    assert len(young | middle | old) == len(young) + len(middle) + len(old)
    assert not_young == middle | old


def test_a_band_between_two_limits_of_age_is_a_cell_as_well() -> None:
    rules = [{"name": "65+", "at_least": 65.0}, {"name": "70+", "at_least": 70.0}]
    schema = CLINIC.model_copy(
        update={
            "subgroups": tuple(
                SubgroupSchema.model_validate({**rule, "column": "age"}) for rule in rules
            )
        }
    )
    report = {
        "metrics": group(100)["metrics"],
        "subgroups": {"65+": group(50), "70+": group(46)},
    }
    cleared, _ = suppress(report, num_patients=100, k=K, families=families_of(schema))
    assert shown(cleared) == {"65+"}


def test_where_one_class_is_rare_only_figures_of_both_classes_together_leave() -> None:
    report = {
        "metrics": group(100, num_positive=4)["metrics"],
        "calibration": {"predicted": [0.1, 0.2], "observed": [0.0, 0.08], "n": [50, 50]},
    }
    cleared, _ = suppress(report, num_patients=100, k=K)
    assert {n for n, m in cleared["metrics"].items() if is_shown(m)} == {"accuracy"}
    assert "calibration" not in cleared


def test_bins_are_joined_until_each_holds_enough_of_both_classes() -> None:
    curve = {"predicted": [0.2, 0.4, 0.6, 0.8], "observed": [0.1, 0.5, 0.6, 0.7], "n": [20] * 4}
    report = {"metrics": group(80, 38)["metrics"], "calibration": curve}
    cleared, _ = suppress(report, num_patients=80, k=K)
    # By hand: positives 2, 10, 12, 14; the last bin has 6 negatives and joins the one before it.
    joined = cleared["calibration"]
    assert joined["n"] == [40, 40]
    np.testing.assert_allclose(joined["observed"], [12 / 40, 26 / 40])
    np.testing.assert_allclose(joined["predicted"], [0.3, 0.7])


def test_where_rows_are_not_patients_no_group_is_told() -> None:
    report = {
        "metrics": group(300)["metrics"],
        "subgroups": {"old": group(150)},
        "calibration": {"predicted": [0.5], "observed": [0.5], "n": [300]},
    }
    cleared, _ = suppress(report, num_patients=15, k=K)
    assert shown(cleared) == set()
    assert "calibration" not in cleared
    assert {n for n, m in cleared["metrics"].items() if is_shown(m)} == {"accuracy"}


def test_that_a_class_is_absent_is_not_told_either() -> None:
    absent = {"value": None, "low": None, "high": None, "n": 50, "reason": "no patient of class 2"}
    cleared, _ = suppress({"metrics": {"auroc": absent}}, num_patients=50, k=K)
    assert "class" not in cleared["metrics"]["auroc"]["reason"]


def test_without_a_minimum_the_report_is_as_it_was() -> None:
    _, _, label, report = random_trial(np.random.default_rng(1))
    assert suppress(report, num_patients=len(label), k=1) == (report, 0)
