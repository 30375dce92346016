import numpy as np
import pytest

from fedward.common.tables.split import held_out_rows
from fedward.common.tables.table import Table
from fedward.common.task import Split


def table(num_patients: int = 100, rows_each: int = 1, positive: float = 0.3) -> Table:
    patient = np.repeat(np.arange(num_patients), rows_each)
    label = (patient < positive * num_patients).astype(np.int64)
    return Table({}, label, patient)


def test_the_asked_share_of_each_class_is_held_out() -> None:
    rows = table(200)
    held_out = held_out_rows(rows, Split(1, 0.25), site="a")
    assert held_out[rows.label == 1].sum() == 15
    assert held_out[rows.label == 0].sum() == 35


def test_a_patient_with_several_rows_is_in_one_part_only() -> None:
    rows = table(80, rows_each=7)
    rows = rows.take(np.random.default_rng(0).permutation(len(rows)))
    held_out = held_out_rows(rows, Split(1, 0.3), site="a")
    tested, trained = set(rows.patient_id[held_out]), set(rows.patient_id[~held_out])
    assert not tested & trained
    assert len(tested) == 24
    assert len(trained) == 56


def test_a_patient_with_one_positive_row_counts_as_positive() -> None:
    patient = np.repeat(np.arange(40), 3)
    label = np.zeros(120, dtype=np.int64)
    label[0:60:3] = 1  # the first row of patients 0 to 19
    held_out = held_out_rows(Table({}, label, patient), Split(1, 0.5), site="a")
    assert len(set(patient[held_out]) & set(range(20))) == 10


@pytest.mark.parametrize("num_folds", [2, 3, 5, 10])
def test_each_patient_is_tested_in_exactly_one_fold_and_folds_are_even(num_folds: int) -> None:
    rows = table(47, rows_each=2)
    folds = [
        held_out_rows(rows, Split(1, fold=fold, num_folds=num_folds), site="a")
        for fold in range(num_folds)
    ]
    assert np.sum(folds, axis=0).tolist() == [1] * len(rows)
    sizes = [len(set(rows.patient_id[fold])) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in folds:
        assert not set(rows.patient_id[fold]) & set(rows.patient_id[~fold])


def test_the_same_seed_gives_the_same_patients_and_another_gives_others() -> None:
    rows = table()
    first = held_out_rows(rows, Split(1), site="a")
    np.testing.assert_array_equal(first, held_out_rows(rows, Split(1), site="a"))
    assert (first != held_out_rows(rows, Split(2), site="a")).any()
    assert (first != held_out_rows(rows, Split(1), site="b")).any()


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = table()
    order = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_array_equal(
        held_out_rows(rows.take(order), Split(1), site="a"),
        held_out_rows(rows, Split(1), site="a")[order],
    )


def test_neither_a_single_patient_nor_none_breaks_the_split() -> None:
    assert held_out_rows(table(1), Split(1), site="a").tolist() == [False]
    assert held_out_rows(table(0), Split(1), site="a").tolist() == []
