"""What one element is, by hand, and that no finite weight makes one that is not."""

from typing import get_args

import numpy as np
import pytest

from fedward.common.monitoring.elements import CEILING, Form, as_matrix, elements

FORMS: tuple[Form, ...] = get_args(Form)
NEW, OLD = np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([[1.0, 1.0], [0.0, 1.0]])


def test_the_three_forms_are_those_computed_by_hand() -> None:
    change = np.array([[0.0, 1.0], [0.0, -2.0]])
    rms = np.sqrt((1 + 4 + 0 + 1 + 1 + 1 + 0 + 1) / 8)
    np.testing.assert_allclose(elements(NEW, OLD, "rms"), change / rms)
    np.testing.assert_allclose(elements(NEW, OLD, "sym"), [[0.0, 2 / 3], [0.0, -2.0]])
    np.testing.assert_allclose(elements(NEW, OLD, "paper"), [[0.0, 1 / 2], [0.0, 2.0]])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [0.0, 5e-324, 1e-300, 1e-30, 1.0, 1e30, 1.7e308])
@pytest.mark.parametrize("other", [0.0, 5e-324, 1e-300, -1.0, 1.7e308])
def test_finite_weights_have_finite_elements(form: Form, size: float, other: float) -> None:
    new = np.array([[size, -size, 0.0], [size / 2, other, -other]])
    old = np.array([[other, size, 0.0], [0.0, -other, other]])
    assert np.isfinite(elements(new, old, form)).all()
    assert elements(new, old, form)[0, 2] == 0


def test_forms_other_than_the_papers_are_bounded_whatever_the_weights() -> None:
    new, old = np.array([[1e-9, 3.0]]), np.array([[-2.0, 3.0]])
    assert abs(elements(new, old, "paper")[0, 0]) > 1e9
    assert abs(elements(new, old, "sym")[0, 0]) <= 2
    assert abs(elements(new, old, "rms")[0, 0]) < 2


def test_a_weight_that_lands_on_0_has_the_largest_element_of_the_paper() -> None:
    assert elements(np.zeros((1, 1)), np.full((1, 1), 2.0), "paper")[0, 0] == -CEILING


@pytest.mark.parametrize("form", FORMS)
def test_the_weights_are_not_changed(form: Form) -> None:
    new, old = NEW.copy(), OLD.copy()
    elements(new, old, form)
    np.testing.assert_array_equal(new, NEW)
    np.testing.assert_array_equal(old, OLD)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((3, 4), (3, 4)), ((3, 4, 2, 2, 2), (3, 32)), ((3, 4, 5), (3, 20)), ((3,), (3, 1))],
)
def test_a_weight_becomes_one_row_per_output(
    shape: tuple[int, ...], expected: tuple[int, int]
) -> None:
    weight = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    found = as_matrix(weight)
    assert found.shape == expected
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found.ravel(), weight.ravel())
