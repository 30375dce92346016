"""KDE and KDE-KNN as a whole: presets, what they refuse, what they warn of, and every end."""

import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.base import clone

from fedward.common.errors import ConfigError, ShortfallError, SiteDataError
from fedward.synth.tables.artefact import read_header
from fedward.synth.tables.base import Synthesiser
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.kde import KDE, NearCopyWarning
from fedward.synth.tables.kde_knn import KDEKNN
from fedward.synth.tables.kde_settings import FILTERS, KERNELS
from fedward.synth.tables.methods import new_synthesiser
from fedward.synth.tables.sampling import ShortfallWarning
from tests.synth.clinic import CLINIC, patients

TRAIN = patients()
NUMBERS = Columns(
    tuple(Column(f"x{place}", "continuous") for place in range(8)), "y", (0, 1), ("well", "ill")
)


def imbalanced(n: int = 1000, share: float = 0.08, seed: int = 0) -> pd.DataFrame:
    """Return rows of eight numbers whose small class overlaps the large one."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) < share * n).astype(int)
    values = rng.normal(size=(n, 8)) + 0.3 * y[:, None] * (np.arange(8) < 4)
    return pd.DataFrame(values, columns=list(NUMBERS.names)).assign(y=y)


ROWS = imbalanced()


def kept(model: KDEKNN, code: int, draws: int = 2000) -> float:
    """Return the share of candidates of a class that the filter keeps."""
    drawn = model._draw(code, draws, np.random.default_rng(1))
    return float(model._keep(code, drawn).mean())


def test_a_preset_fills_in_what_was_not_given_and_what_was_given_wins() -> None:
    paper = KDEKNN(NUMBERS, preset="paper", k=3, bandwidth=0.8).fit(ROWS)
    assert paper.settings_.bandwidth == 0.8
    assert paper.settings_.missing == KERNELS["paper"].missing == "median"
    assert paper.filter_.k == 3
    assert paper.filter_.vote == FILTERS["paper"].vote == "majority"
    guarded = KDEKNN(NUMBERS).fit(ROWS)
    assert guarded.settings_ == KERNELS["guarded"]
    assert guarded.filter_ == FILTERS["guarded"]
    assert guarded.filter_.exclude_parent


def test_a_clone_has_the_parameters_as_they_were_given() -> None:
    model = KDEKNN(NUMBERS, preset="paper", k=3).fit(ROWS)
    copy = clone(model)
    assert copy.get_params(deep=False) == model.get_params(deep=False)
    assert copy.get_params()["bandwidth"] is None
    assert not hasattr(copy, "settings_")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"preset": "papers"}, "preset: unknown 'papers', did you mean 'paper'"),
        ({"bandwidth": 0.0}, "bandwidth: given 0.0, expected scott"),
        ({"covariance": "diagonal"}, "covariance: given 'diagonal', expected isotropic or full"),
        ({"transform": "sqrt"}, "transform: given 'sqrt'"),
        ({"missing": "mean"}, "missing: given 'mean'"),
        ({"redraw": 1.2}, "redraw: given 1.2"),
        ({"min_mask_size": 0}, "min_mask_size: given 0"),
        ({"k": 0}, "k: given 0, expected a whole number from 1"),
        ({"vote": "weighted"}, "vote: given 'weighted', expected majority or prior or distance"),
        ({"max_reference": 0}, "max_reference: given 0"),
        ({"k": 1000}, "k: 1000 neighbours, but only 999 rows may vote"),
        ({"k": 20, "max_reference": 20}, "k: 20 neighbours, but only 18 rows may vote"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KDEKNN(NUMBERS, **parameters).fit(ROWS)


def test_the_paper_s_loop_gives_up_on_a_small_class_and_the_guarded_one_gives_rows() -> None:
    counts = {0: 540, 1: 540}
    started = time.process_time()
    with pytest.raises(ShortfallError, match=r"class 1: .*filter kept"):
        KDEKNN(NUMBERS, preset="paper", k=31).fit(ROWS).sample(class_counts=counts, seed=1)
    rows = KDEKNN(NUMBERS, k=31).fit(ROWS).sample(class_counts=counts, seed=1)
    assert rows["y"].value_counts().to_dict() == counts
    assert time.process_time() - started < 10


def test_a_shortfall_can_be_answered_with_fewer_rows_or_with_rows_that_the_filter_refused() -> None:
    counts = {0: 20, 1: 540}
    paper = KDEKNN(NUMBERS, preset="paper", k=31, max_candidates=20_000)
    with pytest.warns(ShortfallWarning, match="class 1"):
        few = paper.set_params(on_shortfall="warn").fit(ROWS).sample(class_counts=counts, seed=1)
    assert (few["y"] == 0).sum() == 20
    assert (few["y"] == 1).sum() < 540
    filled = paper.set_params(on_shortfall="fill").fit(ROWS).sample(class_counts=counts, seed=1)
    assert filled["y"].value_counts().to_dict() == counts


def test_leaving_the_parent_out_and_holding_votes_against_the_shares_change_who_is_kept() -> None:
    def share(**parameters: Any) -> float:
        return kept(KDEKNN(NUMBERS, bandwidth=0.5, **parameters).fit(ROWS), 1)

    votes_for_its_child = share(vote="majority", k=1, exclude_parent=False)
    assert votes_for_its_child > share(vote="majority", k=1) + 0.3
    assert share(vote="prior", k=15) > share(vote="majority", k=15) + 0.3


def test_fewer_voters_keep_other_rows_and_all_of_them_the_same() -> None:
    drawn = KDEKNN(NUMBERS).fit(ROWS)._draw(1, 1000, np.random.default_rng(1))

    def verdict(most: int | None) -> np.ndarray:
        return np.asarray(KDEKNN(NUMBERS, max_reference=most).fit(ROWS)._keep(1, drawn))

    np.testing.assert_array_equal(verdict(1000), verdict(None))
    assert (verdict(100) != verdict(None)).any()
    model = KDEKNN(NUMBERS, max_reference=12, k=1).fit(ROWS)
    assert np.bincount(model._voters >= model.class_sizes_[0]).tolist() == [11, 1]


def test_more_than_two_classes_are_sampled_and_filtered() -> None:
    rng = np.random.default_rng(3)
    y = np.repeat(["a", "b", "c"], [300, 60, 30])
    centre = {"a": 0.0, "b": 2.0, "c": -2.0}
    rows = pd.DataFrame(rng.normal(size=(390, 8)), columns=list(NUMBERS.names))
    rows = rows.add([centre[one] for one in y], axis=0).assign(y=y)
    columns = Columns(NUMBERS.columns, "y", ("a", "b", "c"), ("a", "b", "c"))
    made = KDEKNN(columns).fit(rows).sample(300, class_counts="balanced", seed=1)
    assert made["y"].value_counts().to_dict() == {"a": 100, "b": 100, "c": 100}
    means = made.groupby("y").mean().mean(axis=1)
    assert means["c"] < -1 < means["a"] < 1 < means["b"]


@pytest.mark.parametrize("name", ["kde", "kde-knn"])
def test_guarded_rows_are_possible_and_the_paper_s_are_not(name: str) -> None:
    def impossible(**parameters: Any) -> int:
        model = new_synthesiser(name, columns=CLINIC, **parameters).fit(TRAIN)
        made = model.sample(2000, seed=1)
        count = int((made["systolic"] < made["diastolic"]).sum())
        for column in CLINIC.continuous:
            values = made[column.name].dropna()
            count += int(((values < column.low) | (values > column.high)).sum())
            assert column.decimals is not None
            count += int((np.abs(values - values.round(column.decimals)) > 1e-9).sum())
        return count

    assert impossible() == 0
    assert impossible(preset="paper") > 1000


def test_missing_cells_come_with_the_class_and_medians_leave_none() -> None:
    made = KDE(CLINIC).fit(TRAIN).sample(4000, class_counts="balanced", seed=1)
    for septic in (0, 1):
        expected = TRAIN.loc[TRAIN["septic"] == septic, "lactate"].notna().mean()
        measured = made.loc[made["septic"] == septic, "lactate"].notna().sum()
        # Every pattern of missing cells is common here, so that none is replaced.
        assert binomtest(int(measured), 2000, expected).pvalue > 1e-6
    filled = KDE(CLINIC, missing="median").fit(TRAIN).sample(100, seed=1)
    assert filled.notna().all(axis=None)


def test_a_constant_column_stays_constant() -> None:
    made = KDE().fit(ROWS.assign(x3=5.0).drop(columns="y")).sample(200, seed=1)
    assert set(made["x3"]) == {5.0}
    assert made["x2"].nunique() > 100


def test_the_width_is_told_in_units_of_the_columns() -> None:
    rows = ROWS.assign(x0=ROWS["x0"] * 40 + 120)
    model = KDE(NUMBERS, bandwidth=0.6).fit(rows)
    told = model.bandwidth_in_units()
    assert list(map(str, told)) == ["0", "1"]
    for name in NUMBERS.names:
        assert told.loc[name, 1] == pytest.approx(0.6 * rows[name].std(ddof=0))
    full = KDE(NUMBERS, bandwidth=0.6, covariance="full").fit(rows).bandwidth_in_units()
    small = rows.loc[rows["y"] == 1, "x0"].std(ddof=0)
    assert full.loc["x0", 1] == pytest.approx(0.6 * small)


def test_the_width_of_a_skewed_column_is_that_at_its_median() -> None:
    rng = np.random.default_rng(4)
    rows = pd.DataFrame({"crp": np.exp(rng.normal(2, 1.2, 500)), "age": rng.normal(60, 10, 500)})
    columns = Columns((Column("crp", "continuous", 0, 1e5), Column("age", "continuous")))
    told = KDE(columns, bandwidth=0.5).fit(rows).bandwidth_in_units()
    logarithm = np.log(rows["crp"])
    wide = rows["crp"].median() * np.sinh(0.5 * logarithm.std())
    # The logarithm is of the distance from a place just below 0.
    found = float(told["rows"].to_numpy()[0])
    assert found == pytest.approx(wide, rel=0.1)
    assert found < 0.5 * 0.5 * rows["crp"].std()


@pytest.mark.parametrize(("bandwidth", "copies"), [(0.2, True), (1.0, False)])
def test_near_copies_are_warned_of(bandwidth: float, copies: bool) -> None:
    rng = np.random.default_rng(5)
    names = [f"x{place}" for place in range(27)]
    # Laboratory values hang together: four things that vary, and a little of each column's own.
    values = rng.normal(size=(400, 4)) @ rng.normal(size=(4, 27)) + 0.3 * rng.normal(size=(400, 27))
    rows = pd.DataFrame(values, columns=names)
    columns = Columns(tuple(Column(name, "continuous") for name in names))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = KDE(columns, bandwidth=bandwidth).fit(rows)
    told = [str(one.message) for one in caught if one.category is NearCopyWarning]
    assert (model.near_copies_[0] > 0.9) == copies
    assert len(told) == copies
    assert all("near copies" in one for one in told)


def test_rows_that_many_patients_share_are_nobody_s_copy() -> None:
    rng = np.random.default_rng(6)
    rows = pd.DataFrame({"smokes": rng.integers(0, 2, 200).astype(float)})
    columns = Columns((Column("smokes", "categorical", categories=(0, 1)),))
    assert KDE(columns).fit(rows).near_copies_ == (0.0,)


def test_without_a_label_there_is_a_density_but_no_filter() -> None:
    rows = ROWS.drop(columns="y")
    assert len(KDE().fit(rows).sample(50, seed=1)) == 50
    with pytest.raises(ConfigError, match="has no label; use KDE"):
        KDEKNN().fit(rows)


def test_a_class_of_eight_rows_is_refused() -> None:
    with pytest.raises(SiteDataError, match="class 'ill' has fewer rows than the minimum of 20"):
        KDEKNN(NUMBERS).fit(imbalanced(share=0.008))


def test_cross_validation_needs_numbers_and_for_the_full_covariance_complete_rows() -> None:
    only = Columns((CLINIC["stage"], CLINIC["female"]), "septic", (0, 1), ("no", "yes"))
    with pytest.raises(ConfigError, match="'cv' needs a column of numbers"):
        KDE(only, bandwidth="cv").fit(TRAIN)
    with pytest.raises(ConfigError, match="'cv' with covariance 'full' needs rows without"):
        KDE(CLINIC, bandwidth="cv", covariance="full").fit(TRAIN)
    model = KDE(CLINIC, bandwidth="cv", covariance="full", missing="median").fit(TRAIN)
    assert all(0.1 < h < 1.5 for h in model.bandwidths_)


@pytest.mark.parametrize("method", ["kde", "kde-knn"])
def test_a_saved_density_gives_the_same_rows_and_says_that_it_contains_patients(
    tmp_path: Path, method: str
) -> None:
    model = new_synthesiser(method, columns=CLINIC).fit(TRAIN)
    model.save(tmp_path / "model")
    again = type(model).load(tmp_path / "model")
    pd.testing.assert_frame_equal(again.sample(300, seed=2), model.sample(300, seed=2))
    header = read_header(tmp_path / "model")
    assert header["contains_patients"] is True
    # No epsilon is ever given for a kernel density.
    assert "epsilon" not in json.dumps(header).lower()
    assert not hasattr(model, "privacy_claim")


def test_the_same_seed_gives_the_same_rows_and_another_one_others() -> None:
    model: Synthesiser = KDEKNN(CLINIC).fit(TRAIN)
    first = model.sample(200, seed=7)
    pd.testing.assert_frame_equal(KDEKNN(CLINIC).fit(TRAIN).sample(200, seed=7), first)
    assert not model.sample(200, seed=8).equals(first)
