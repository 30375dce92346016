"""A site's own rows: as many as were asked for, of large enough classes, and no copies."""

from typing import Any

import numpy as np
import pytest

from fedward.client.data.read import table_from_frame
from fedward.client.synthesis_report import COPIES, SHORT, SMALL
from fedward.client.synthetic_rows import MadeRows, RowMaker, check_method
from fedward.common.config.synthesis import SynthesisConfig, SynthesiserConfig
from fedward.common.errors import ConfigError, RefusedError
from fedward.common.tables.synthetic_rows import ABSENT, LABEL, VALUES, RowForm
from fedward.common.tables.table import Table
from fedward.synth.tables.columns import Columns
from tests.client.clinic import CLINIC, clinic_frame

NAMES = CLINIC.class_names
NARROW: dict[str, Any] = {"name": "kde", "bandwidth": 0.01}


def clinic(num_rows: int = 120, *, died: int | None = None, seed: int = 0) -> Table:
    frame = clinic_frame(num_rows, seed)
    if died is not None:
        frame["died"] = (np.arange(num_rows) < died).astype(int)
    frame["age"] = (frame["age"] + 10 * frame["died"]).clip(20, 110)
    return table_from_frame(frame, CLINIC, place="clinic.csv")


def make(
    table: Table, method: str = "gaussian-copula", *, fewest: int = 10, **keys: Any
) -> MadeRows:
    keep = keys.pop("keep", None)
    seed = keys.pop("seed", 7)
    config = SynthesisConfig(
        method="rows",
        rows_per_site=60,
        synthesiser=SynthesiserConfig(name=method, **keys),
    )
    form = RowForm.of(config, CLINIC, None)
    maker = RowMaker(config, form, Columns.of_schema(CLINIC), fewest)
    made = maker.make(table, seed=seed, keep=keep)
    assert form.why_not(made.arrays) is None
    return made


@pytest.mark.parametrize("method", ["gaussian-copula", "kde-knn", "kde", "class-gaussian"])
def test_any_synthesiser_gives_exactly_the_rows_that_were_asked_for(method: str) -> None:
    made = make(clinic(), method)
    assert made.num_rows == 60
    assert made.num_patients == 120
    assert np.bincount(made.arrays[LABEL]).tolist() == [30, 30]
    for name in NAMES:
        told = made.report["classes"][name]
        assert told["status"] == "given"
        assert told["returned"] == told["requested"] == 30


def test_a_small_class_is_withheld_without_a_count_and_the_other_goes_on() -> None:
    table = clinic(120, died=114)  # six survived, as in Switzerland
    for method in ("gaussian-copula", "kde-knn"):
        made = make(table, method)
        assert made.report["classes"][NAMES[0]] == {"status": "withheld", "reason": SMALL}
        assert (made.num_rows, made.num_patients) == (30, 114)
        assert made.report["classes"][NAMES[1]]["returned"] == 30
    assert made.report["synthesiser"] == "kde", "of one class nothing is to be told apart"
    assert make(table, fewest=6).num_rows == 60


def test_where_no_class_is_large_enough_nothing_is_learned() -> None:
    with pytest.raises(RefusedError, match="no class has the 70 patients"):
        make(clinic(), fewest=70)


def test_the_same_seed_gives_the_same_rows_and_another_other_ones() -> None:
    table = clinic()
    first, again, other = (make(table, seed=seed).arrays[VALUES] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_column_without_any_value_here_is_missing_in_every_row() -> None:
    frame = clinic_frame(120)
    frame["chol"] = 0
    made = make(table_from_frame(frame, CLINIC, place="clinic.csv"))
    assert made.arrays[ABSENT][:, 2].all()
    assert not made.arrays[ABSENT][:, 0].any()


def test_a_class_whose_rows_would_be_copies_is_withheld() -> None:
    config = SynthesisConfig(
        method="rows", rows_per_site=60, synthesiser=SynthesiserConfig(**NARROW)
    )
    form = RowForm.of(config, CLINIC, None)
    with pytest.raises(RefusedError, match=COPIES):
        RowMaker(config, form, Columns.of_schema(CLINIC), 10).make(clinic(), seed=1)
    assert make(clinic(), "kde", bandwidth=1.0).num_rows == 60


def test_a_filter_that_accepts_next_to_nothing_ends_and_says_so() -> None:
    def only_survivors(code: int, table: Table) -> Any:
        return np.full(len(table), code == 0)

    made = make(clinic(), "kde", keep=only_survivors, max_candidates=20_000)
    assert made.report["classes"][NAMES[1]] == {"status": "withheld", "reason": SHORT}
    assert made.report["classes"][NAMES[0]]["returned"] == 30


def test_a_filter_is_told_the_class_of_the_schema_also_where_one_is_left() -> None:
    seen = set()

    def keep(code: int, table: Table) -> Any:
        seen.add(code)
        return table.columns["age"] > 60

    made = make(clinic(120, died=114), "kde", keep=keep)
    assert seen == {1}
    ages = made.arrays[VALUES][made.arrays[LABEL] == 1, 0]
    assert (ages > 60).all()


def test_the_rows_follow_the_patients_and_not_the_other_class() -> None:
    table = clinic(400)
    made = make(table)
    for code in (0, 1):
        real = table.columns["age"][table.label == code].mean()
        synthetic = made.arrays[VALUES][made.arrays[LABEL] == code, 0].mean()
        # Standard deviation 21 years, 30 rows: standard error 3.9.
        assert abs(real - synthetic) < 4 * 3.9


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"name": "smote"}, "not for sharing"),
        ({"name": "dp-gaussian-copula"}, "use synthesis.method: dp-copula"),
        ({"name": "kde-knm"}, "did you mean 'kde-knn'"),
        ({"name": "kde", "bandwith": 1.0}, "did you mean 'bandwidth'"),
        ({"name": "kde", "bandwidth": 0.1}, "copies of patients"),
        ({"name": "kde", "min_mask_size": 1}, "copies of patients"),
        ({"name": "kde", "preset": "paper"}, "values that the schema does not allow"),
        ({"name": "kde", "seed": 3}, "each site decides"),
        ({"name": "gaussian-copula", "min_class_size": 2}, "each site decides"),
    ],
)
def test_a_synthesiser_whose_rows_are_patients_is_refused_before_anything_is_read(
    own: dict[str, Any], told: str
) -> None:
    config = SynthesisConfig(method="rows", rows_per_site=60, synthesiser=SynthesiserConfig(**own))
    with pytest.raises(ConfigError, match=told) as refused:
        check_method(config)
    assert "synthesis.synthesiser" in str(refused.value)
    check_method(SynthesisConfig(method="filtered-rows", rows_per_site=60))
