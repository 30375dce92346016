"""Synthetic rows on the wire: what fits the agreed form, and everything else, which does not."""

import numpy as np
import pytest

from fedward.client.data.read import table_from_frame
from fedward.common.tables.synthetic_rows import ABSENT, LABEL, VALUES, WITHHELD, RowForm
from fedward.common.tables.table import Table
from tests.client.clinic import CLINIC, clinic_frame

FORM = RowForm(CLINIC.fields, (4, 6))


def clinic_table(num_rows: int = 10) -> Table:
    frame = clinic_frame(num_rows)
    frame["chol"] = frame["chol"].astype(object)
    frame.loc[0, "chol"] = "refused"
    frame.loc[1, "smoker"] = "not asked"
    return table_from_frame(frame, CLINIC, place="clinic.csv")


def put(codes: tuple[int, ...]) -> dict[str, np.ndarray]:
    table = clinic_table()
    rows = {0: table.take(np.arange(4)), 1: table.take(np.arange(4, 10))}
    parts = {code: [rows[code].columns[f.name] for f in CLINIC.fields] for code in codes}
    return dict(FORM.put(parts))


def test_rows_come_out_as_they_went_in_missing_cells_and_categories_too() -> None:
    arrays = put((0, 1))
    assert FORM.why_not(arrays) is None
    back = FORM.table(arrays)
    sent = clinic_table()
    for name, column in sent.columns.items():
        np.testing.assert_array_equal(back.columns[name], column)
    assert back.label.tolist() == [0] * 4 + [1] * 6
    assert np.isnan(back.columns["chol"][0])


def test_a_withheld_class_keeps_its_place_and_tells_nothing() -> None:
    arrays = put((1,))
    assert {name: a.shape for name, a in arrays.items()} == {
        name: a.shape for name, a in put((0, 1)).items()
    }
    assert (arrays[LABEL][:4] == WITHHELD).all()
    assert not arrays[VALUES][:4].any()
    assert FORM.table(arrays).label.tolist() == [1] * 6


@pytest.mark.parametrize(
    ("name", "place", "value", "told"),
    [
        (VALUES, (0, 0), 121.0, "column age"),
        (VALUES, (5, 3), 3.0, "column smoker"),
        (VALUES, (5, 3), 0.5, "column smoker"),
        (ABSENT, (0, 0), 2, "a way that was not agreed"),
        (LABEL, 0, 1, "not of the classes"),
        (LABEL, 0, WITHHELD, "a part of a class"),
    ],
)
def test_what_was_not_agreed_is_named_by_its_column_without_a_value(
    name: str, place: int | tuple[int, int], value: float, told: str
) -> None:
    arrays = put((0, 1))
    arrays[name][place] = value
    why = FORM.why_not(arrays)
    assert why is not None
    assert told in why
    assert str(value) not in why


def test_values_behind_a_withheld_row_are_no_way_out() -> None:
    arrays = put((1,))
    arrays[VALUES][0, 0] = 50.0
    assert FORM.why_not(arrays) == "it marks cells in a way that was not agreed"
