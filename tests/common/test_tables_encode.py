import numpy as np
import pytest
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fedward.common.tables.encode import (
    encode,
    layout_of,
    local_statistics,
    moments,
    statistics_size,
)
from fedward.common.tables.schema import FieldSchema
from fedward.common.tables.table import Table

AGE = FieldSchema(name="age", kind="continuous", range=(0, 120))
PLATELETS = FieldSchema(name="platelets", kind="continuous", range=(0, 1_000_000))
STAGE = FieldSchema(name="stage", kind="categorical", categories=("I", "II", "III"))
FIELDS = (AGE, STAGE, PLATELETS)


def table(num_rows: int, seed: int = 0, *, missing: float = 0.2) -> Table:
    """Return rows whose platelets are large and vary little: hard for sums of squares."""
    rng = np.random.default_rng(seed)
    columns = {
        "age": rng.normal(60, 15, num_rows),
        "stage": rng.integers(0, 3, num_rows).astype(np.float64),
        "platelets": rng.normal(250_000, 2_000, num_rows),
    }
    for values in columns.values():
        values[rng.random(num_rows) < missing] = np.nan
    return Table(columns, rng.integers(0, 2, num_rows), np.arange(num_rows))


def joined(parts: list[Table]) -> Table:
    columns = {
        field.name: np.concatenate([part.columns[field.name] for part in parts]) for field in FIELDS
    }
    label = np.concatenate([part.label for part in parts])
    return Table(columns, label, np.arange(len(label)))


def test_the_layout_gives_each_field_its_columns_without_looking_at_data() -> None:
    layout = layout_of(FIELDS)
    assert layout.names == ("age", "stage", "platelets")
    assert (layout.starts, layout.stops) == ((0, 2, 6), (2, 6, 8))
    assert encode(table(5), FIELDS, local_statistics(table(5), FIELDS)).shape == (5, 8)


def test_a_row_is_encoded_as_worked_out_by_hand() -> None:
    columns = {
        "age": np.array([50.0, 70.0, np.nan]),  # mean 60, deviation 10
        "stage": np.array([2.0, np.nan, 0.0]),
        "platelets": np.array([1e5, 1e5, 3e5]),  # mean 5/3 e5, deviation sqrt(8/9) e5
    }
    rows = Table(columns, np.array([0, 1, 0]), np.arange(3))
    x_NF = encode(rows, FIELDS, local_statistics(rows, FIELDS))
    low, high = (1 - 5 / 3) / np.sqrt(8 / 9), (3 - 5 / 3) / np.sqrt(8 / 9)
    expected = [
        [-1, 0, 0, 0, 1, 0, low, 0],
        [1, 0, 0, 0, 0, 1, low, 0],
        [0, 1, 1, 0, 0, 0, high, 0],
    ]
    np.testing.assert_allclose(x_NF, expected, atol=1e-6)


def test_complete_rows_are_scaled_and_one_hot_encoded_as_scikit_learn_does() -> None:
    rows = table(200, missing=0.0)
    x_NF = encode(rows, FIELDS, local_statistics(rows, FIELDS))
    both = np.stack([rows.columns["age"], rows.columns["platelets"]], axis=1)
    np.testing.assert_allclose(x_NF[:, [0, 6]], StandardScaler().fit_transform(both), atol=1e-5)
    one_hot = OneHotEncoder(sparse_output=False).fit_transform(rows.columns["stage"][:, None])
    np.testing.assert_array_equal(x_NF[:, 2:5], one_hot)
    assert not x_NF[:, [1, 5, 7]].any()


def test_the_sums_of_sites_are_the_statistics_of_all_rows_together() -> None:
    sites = [table(size, seed) for seed, size in enumerate([3, 50, 400, 1])]
    summed = np.sum([local_statistics(site, FIELDS) for site in sites], axis=0)
    pooled = local_statistics(joined(sites), FIELDS)
    np.testing.assert_allclose(summed, pooled, rtol=1e-9)
    np.testing.assert_allclose(
        np.array(moments(FIELDS, summed)), np.array(moments(FIELDS, pooled)), rtol=1e-9
    )


def test_federated_features_are_those_of_pooled_preprocessing() -> None:
    sites = [table(size, seed) for seed, size in enumerate([30, 50, 400])]
    summed = np.sum([local_statistics(site, FIELDS) for site in sites], axis=0)
    federated = np.concatenate([encode(site, FIELDS, summed) for site in sites])
    pooled = encode(joined(sites), FIELDS, local_statistics(joined(sites), FIELDS))
    np.testing.assert_allclose(federated, pooled, atol=1e-6)
    alone = np.concatenate([encode(s, FIELDS, local_statistics(s, FIELDS)) for s in sites])
    assert np.abs(alone - pooled).max() > 0.01


def test_moments_are_those_of_numpy_even_where_squares_would_lose_the_deviation() -> None:
    rows = table(500)
    means, deviations = moments(FIELDS, local_statistics(rows, FIELDS))
    known = [rows.columns[name][~np.isnan(rows.columns[name])] for name in ("age", "platelets")]
    np.testing.assert_allclose(means, [values.mean() for values in known], rtol=1e-9)
    np.testing.assert_allclose(deviations, [values.std() for values in known], rtol=1e-9)


@pytest.mark.parametrize("fields", [FIELDS, (AGE,), (STAGE,)])
def test_the_length_of_the_statistics_is_known_without_data(fields: tuple[FieldSchema]) -> None:
    assert len(local_statistics(table(4), fields)) == statistics_size(fields)


def test_categorical_fields_alone_need_no_moments() -> None:
    x_NF = encode(table(6), (STAGE,), local_statistics(table(6), (STAGE,)))
    assert x_NF.sum(axis=1).tolist() == [1.0] * 6


@pytest.mark.parametrize("num_rows", [1, 5, 1001])
@pytest.mark.parametrize("measured", [np.nan, 40.0, 0.1, 0.7])
def test_a_field_without_spread_stays_small_whatever_comes_later(
    measured: float, num_rows: int
) -> None:
    rows = Table({"age": np.full(num_rows, measured)}, np.zeros(num_rows, int), np.arange(num_rows))
    statistics = sum(local_statistics(rows, (AGE,)) for _ in range(7))
    assert isinstance(statistics, np.ndarray)
    later = Table({"age": np.array([measured, 0, 120.0])}, np.zeros(3, int), np.arange(3))
    x_NF = encode(later, (AGE,), statistics)
    assert x_NF[0, 0] == pytest.approx(0.0, abs=1e-9)
    assert 0.5 < np.abs(x_NF[1:, 0]).max() <= 2.0


def test_no_rows_have_no_features_but_the_right_width() -> None:
    empty = table(3).take(np.zeros(3, dtype=bool))
    assert encode(empty, FIELDS, local_statistics(table(3), FIELDS)).shape == (0, 8)
    assert local_statistics(empty, FIELDS).tolist() == [0.0] * 7


def test_a_table_is_not_printed() -> None:
    assert "columns" not in repr(table(3))


def test_several_rows_of_a_patient_count_as_one() -> None:
    ages = np.array([30.0, 50.0, np.nan, 70.0])
    columns = {"age": ages, "stage": np.zeros(4), "platelets": np.full(4, np.nan)}
    patients = np.array([7, 7, 7, 9])
    sums = local_statistics(Table(columns, np.zeros(4, dtype=np.int64), patients), FIELDS)
    assert sums[0] == 2
    mean, _ = moments(FIELDS, sums)
    assert sums[1] == 2  # patients with a known age, not rows: the gate goes by this
    assert mean[0] == pytest.approx((40 + 70) / 2)
