"""Sums for a federated copula: no cell of too few patients, and no question that was made up."""

import numpy as np
import pytest

from fedward.client.synthetic_sums import (
    SumMaker,
    pairs_that_leave,
    pool_categories,
    pool_neighbours,
    pooled,
)
from fedward.common.errors import RefusedError, SiteDataError
from fedward.common.tables.bins import Cells
from fedward.common.tables.schema import FieldSchema
from fedward.common.tables.synthetic_sums import (
    COUNTS,
    MARGINS,
    NUM_SITES,
    PAIR_PATIENTS,
    PAIR_SUMS,
    SIZES,
    SumsForm,
)
from fedward.common.tables.table import Table

FIELDS = (
    FieldSchema(name="x", kind="continuous", range=(0, 100)),
    FieldSchema(name="y", kind="continuous", range=(1, 1000)),
    FieldSchema(name="sex", kind="categorical", categories=(0, 1)),
    FieldSchema(name="stage", kind="categorical", categories=(1, 2, 3, 4)),
)
CELLS = Cells(FIELDS, 64)
FORM = SumsForm(CELLS, 2)
K = 5


def site(seed: int, sizes: tuple[int, int] = (60, 40), missing: float = 0.1) -> Table:
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    columns = {
        "x": rng.gamma(2, 8, n).clip(0, 100),
        "y": np.exp(rng.normal(4, 1, n)).clip(1, 1000),
        "sex": (rng.random(n) < 0.3).astype(float),
        "stage": rng.choice(4, n, p=[0.6, 0.3, 0.08, 0.02]).astype(float),
    }
    for name in ("y", "stage"):
        columns[name] = np.where(rng.random(n) < missing, np.nan, columns[name])
    label = np.repeat([0, 1], sizes)
    return Table(columns, label, np.arange(n))


def groups_of(counts: np.ndarray) -> list[float]:
    """Return the patients of each run of equal, neighbouring, occupied cells."""
    found: list[float] = []
    before = 0.0
    for count in counts:
        if count > 0 and count == before:
            found[-1] += count
        elif count > 0:
            found.append(count)
        before = count
    return found


@pytest.mark.parametrize("seed", range(8))
def test_no_group_of_bins_stands_for_fewer_than_k_patients(seed: int) -> None:
    table = site(seed, missing=0.02 * seed)
    exact = CELLS.counts(table, 2)
    told = pooled(exact, CELLS, K)
    for place, edges in zip(CELLS.places, CELLS.edges, strict=True):
        np.testing.assert_allclose(told[:, place].sum(axis=1), exact[:, place].sum(axis=1))
        for row in told[:, place]:
            assert not 0 < row[-1] < K
            if edges is None:
                small = row[:-1][(row[:-1] > 0) & (row[:-1] < K)]
                assert len(small) == 0 or (len(set(small)) == 1 and small.sum() >= K)
            else:
                assert min(groups_of(row[:-1])) >= K - 1e-9
    # Switched off, single patients show.
    assert (pooled(exact, CELLS, 1) == exact).all()
    assert ((exact > 0) & (exact < K)).any()


def test_pooling_by_hand() -> None:
    bins = np.array([0, 2, 0, 3, 9, 0, 1, 0.0])
    # 2 + 3 over three bins; 9 is enough; the last one joins it over three bins.
    np.testing.assert_allclose(pool_neighbours(bins, 5), [0, 5 / 3, 5 / 3, 5 / 3, *[10 / 3] * 3, 0])
    np.testing.assert_allclose(
        pool_categories(np.array([40, 3, 0, 4, 9.0]), 5), [40, 3.5, 0, 3.5, 9]
    )
    np.testing.assert_allclose(pool_categories(np.array([40, 3, 0.0]), 5), [21.5, 21.5, 0])
    np.testing.assert_allclose(pool_categories(np.array([40, 7, 0.0]), 5), [40, 7, 0])


def test_a_column_of_few_known_or_few_missing_values_hides_them() -> None:
    counts = np.zeros((1, CELLS.size))
    x, y = CELLS.places[0], CELLS.places[1]
    counts[0, x][[3, 64]] = 3, 50  # three known
    counts[0, y][[8, 9, 64]] = 30, 21, 2  # two missing
    told = pooled(counts, CELLS, K)[0]
    assert told[x].tolist() == [0.0] * 64 + [53.0]
    np.testing.assert_allclose(told[y][[8, 9, 64]], [30 * 53 / 51, 21 * 53 / 51, 0])


def test_a_small_class_is_withheld_and_the_others_are_told_in_steps() -> None:
    both = SumMaker(FORM, fewest=10, k=K).margins(site(1))
    assert both[SIZES].tolist() == [60, 40]
    one = SumMaker(FORM, fewest=10, k=K).margins(site(1, (8, 64)))
    assert one[SIZES].tolist() == [0, 60]
    assert not one[COUNTS][0].any()
    np.testing.assert_allclose(one[COUNTS][1, CELLS.places[0]].sum(), 60)
    assert FORM.why_not(MARGINS, one, 100) is None
    with pytest.raises(RefusedError, match="no class has the 10 patients") as refused:
        SumMaker(FORM, fewest=10, k=K).margins(site(1, (8, 7)))
    assert "8" not in str(refused.value).replace("site.yaml", "")


def two_sites() -> tuple[list[Table], SumMaker, dict[str, np.ndarray]]:
    maker = SumMaker(FORM, fewest=10, k=K)
    tables = [site(1), site(2)]
    summed = FORM.added(MARGINS, [maker.margins(one) for one in tables])
    return tables, maker, summed


def test_the_second_pass_is_about_the_patients_of_the_first() -> None:
    tables, maker, summed = two_sites()
    arrays = maker.pairs(tables[0], summed)
    assert set(np.unique(arrays[PAIR_PATIENTS])) <= {0.0, 40.0, 60.0}
    withheld = arrays[PAIR_PATIENTS] == 0
    assert 0 < withheld.sum() < withheld.size
    assert not arrays[PAIR_SUMS][withheld].any()


@pytest.mark.parametrize("made_up", ["fewer", "another class", "no site"])
def test_margins_without_this_sites_own_patients_are_refused(made_up: str) -> None:
    tables, maker, summed = two_sites()
    maker.pairs(tables[0], summed)
    bad = {name: array.copy() for name, array in summed.items()}
    if made_up == "fewer":  # all but one bin emptied: scores would tell who is in it
        bad[COUNTS][0, 10:] = 0
    elif made_up == "another class":
        bad[SIZES] = bad[SIZES][::-1] / 2
    else:
        bad[NUM_SITES][:] = 0
    with pytest.raises(RefusedError, match="do not hold this site's own patients"):
        maker.pairs(tables[0], bad)


def test_a_pair_leaves_only_where_its_table_has_no_small_cell() -> None:
    rng = np.random.default_rng(0)
    n, upper = 80, np.triu_indices(8, 1)
    sex = (np.arange(n) < 40).astype(float)
    columns = {
        "x": rng.random(n) * 100,
        "y": 1 + rng.random(n) * 100,
        "sex": sex,
        "stage": np.zeros(n),
    }
    columns["y"][:4] = np.nan  # four, all of one sex
    leaves = np.zeros((8, 8), dtype=bool)
    leaves[upper] = pairs_that_leave(Table(columns, sex.astype(int), np.arange(n)), CELLS, K)
    assert leaves[0, 2]  # x with sex
    assert not leaves[2, 5]  # sex with y being missing: a cell of four
    assert not leaves[0, 5]  # x of those four
    columns["y"][:5] = np.nan
    leaves[upper] = pairs_that_leave(Table(columns, sex.astype(int), np.arange(n)), CELLS, K)
    assert leaves[2, 5]


def test_the_server_sees_counts_that_cannot_be() -> None:
    maker = SumMaker(FORM, fewest=10, k=K)
    good = maker.margins(site(1))
    assert FORM.why_not(MARGINS, good, 100) is None
    assert "registered cohort" in str(FORM.why_not(MARGINS, good, 99))
    bad = {name: array.copy() for name, array in good.items()}
    bad[COUNTS][0, 0] += 7
    assert "do not add up" in str(FORM.why_not(MARGINS, bad, 100))


def test_patients_with_several_rows_are_refused() -> None:
    from fedward.client.synthetic_sums import check_one_row_each

    table = site(1)
    check_one_row_each(table)
    with pytest.raises(SiteDataError, match="more than one row"):
        check_one_row_each(Table(table.columns, table.label, table.patient_id // 2))
