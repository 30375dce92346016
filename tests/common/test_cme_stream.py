"""The figures of a round: as over all snapshots at once, by sketch, and where nothing is defined.

Shapes: E snapshots, P output neurons, Q inputs.
"""

import itertools
import math
import tracemalloc
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest

from fedward.common.monitoring import stream as stream_module
from fedward.common.monitoring.elements import Form, elements
from fedward.common.monitoring.stream import (
    LOG_FLOOR,
    SKETCH_ROWS,
    CmeStream,
    LayerFigures,
    LayerRound,
)

FORMS: tuple[Form, ...] = get_args(Form)
Matrix = npt.NDArray[np.float64]


def walk(seed: int, shape: tuple[int, int], num_snapshots: int = 6) -> list[Matrix]:
    """Return weights with drift and noise, one more than snapshots."""
    generator = np.random.default_rng(seed)
    weights = [generator.standard_normal(shape)]
    aim = generator.standard_normal(shape)
    for _ in range(num_snapshots):
        weights.append(weights[-1] + 0.02 * aim + 0.03 * generator.standard_normal(shape))
    return weights


def fed(weights: list[Matrix], form: Form = "rms") -> CmeStream:
    stream = CmeStream(weights[0], form, name="layer")
    for weight_PQ in weights[1:]:
        stream.add(weight_PQ)
    return stream


def round_of(weights: list[Matrix], previous: npt.NDArray[np.float32] | None = None) -> LayerRound:
    return fed(weights).finish(previous)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(24, 40), (40, 3), (1, 7)])
def test_the_stream_equals_the_batch_form(form: Form, shape: tuple[int, int]) -> None:
    weights = walk(1, shape)
    stream = fed(weights, form)
    found = stream.finish()

    cme_EPQ = np.stack([elements(new, old, form) for old, new in itertools.pairwise(weights)])
    map_PP = np.mean([np.cov(cme_PQ).reshape(shape[0], -1) for cme_PQ in cme_EPQ], axis=0)
    lagged = (cme_EPQ[1:] * cme_EPQ[:-1]).sum()
    rho = lagged / math.sqrt((cme_EPQ[:-1] ** 2).sum() * (cme_EPQ[1:] ** 2).sum())
    squares_EPQ = cme_EPQ**2
    top1 = (squares_EPQ.max(axis=(1, 2)) / squares_EPQ.sum(axis=(1, 2))).max()

    largest = float(map_PP.max())
    np.testing.assert_allclose(stream.covariance(), map_PP, rtol=1e-10, atol=1e-10 * largest)
    np.testing.assert_array_equal(found.map_PP, stream.covariance().astype(np.float32))
    assert found.acf == pytest.approx((cme_EPQ[1:] * cme_EPQ[:-1]).mean(), rel=1e-10)
    assert found.figures.log_mag == pytest.approx(
        0.5 * math.log10(np.trace(map_PP) / shape[0]), abs=1e-10
    )
    assert found.figures.rho == pytest.approx(rho, abs=1e-10)
    assert found.figures.top1 == pytest.approx(top1, abs=1e-10)
    assert found.num_snapshots == len(cme_EPQ)
    assert not found.is_sketched


def test_map_cos_is_the_cosine_off_the_diagonal() -> None:
    first, second = round_of(walk(1, (12, 9))), walk(2, (12, 9))
    found = round_of(second, first.map_PP)
    away = ~np.eye(12, dtype=bool)
    one, other = found.map_PP[away].astype(float), first.map_PP[away].astype(float)
    expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert found.figures.map_cos == pytest.approx(expected, abs=1e-12)
    assert round_of(second, found.map_PP).figures.map_cos == pytest.approx(1)
    assert round_of(second).figures.map_cos is None
    assert round_of(second, first.map_PP[:5, :5]).figures.map_cos is None
    assert round_of(second, first.map_PP * np.float32("nan")).figures.map_cos is None


@pytest.mark.parametrize(("kind", "rho"), [("drift", 1.0), ("walk", 0.0), ("noise", -0.5)])
def test_rho_tells_going_somewhere_from_wandering_and_from_standing(kind: str, rho: float) -> None:
    generator = np.random.default_rng(3)
    places = [generator.standard_normal((64, 64))]
    for epoch in range(1, 11):
        step = 0.01 * generator.standard_normal((64, 64))
        before = places[0] if kind in {"noise", "drift"} else places[-1]
        places.append(before + (0.01 * epoch if kind == "drift" else step))
    # The standard deviation of a correlation of 4,096 x 9 pairs is 0.005.
    assert round_of(places).figures.rho == pytest.approx(rho, abs=0.03)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 1, 3])
def test_weights_that_are_not_finite_leave_nothing_defined(
    form: Form, value: float, where: int
) -> None:
    weights = walk(4, (5, 6), 3)
    weights[where][2, 3] = value
    found = fed(weights, form).finish(round_of(walk(4, (5, 6))).map_PP)
    assert found.figures == LayerFigures()
    assert found.figures.to_json() == {}
    assert found.acf is None
    np.testing.assert_array_equal(found.map_PP, np.zeros((5, 5)))
    assert found.num_snapshots == 3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_layer_that_stands_still_is_at_the_floor(form: Form, value: float) -> None:
    found = fed([np.full((4, 3), value)] * 4, form).finish(np.ones((4, 4), dtype=np.float32))
    assert found.figures.to_json() == {"log_mag": LOG_FLOOR}
    assert found.acf == 0
    assert not found.map_PP.any()


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_that_leaves_0_or_reaches_it_has_figures(form: Form) -> None:
    weights = walk(5, (4, 3), 2)
    weights[0][:], weights[2][:] = 0, 0
    found = fed(weights, form).finish()
    assert set(found.figures.to_json()) == {"log_mag", "rho", "top1"}
    assert found.figures.log_mag is not None
    assert found.figures.log_mag > -1
    assert np.isfinite(found.map_PP).all()


def test_a_single_snapshot_has_no_lag() -> None:
    found = round_of(walk(6, (4, 3), 1))
    assert set(found.figures.to_json()) == {"log_mag", "top1"}
    assert (found.figures.rho, found.acf, found.num_snapshots) == (None, None, 1)


def test_no_snapshot_has_no_figures() -> None:
    found = round_of(walk(6, (4, 3), 0))
    assert found.figures == LayerFigures()
    assert not found.map_PP.any()


def test_a_single_neuron_has_a_variance_but_no_map_to_compare() -> None:
    found = round_of(walk(7, (1, 5)), np.ones((1, 1), dtype=np.float32))
    assert found.map_PP.shape == (1, 1)
    assert set(found.figures.to_json()) == {"log_mag", "rho", "top1"}


@pytest.mark.parametrize("num_rows", [1, 6])
def test_of_a_single_input_the_elements_are_not_centred(num_rows: int) -> None:
    weights = walk(8, (num_rows, 1))
    found = round_of(weights)
    cme_EP = np.stack([elements(new, old, "rms")[:, 0] for old, new in itertools.pairwise(weights)])
    np.testing.assert_allclose(found.map_PP, cme_EP.T @ cme_EP / len(cme_EP), rtol=1e-6)
    assert found.figures.log_mag is not None
    assert found.figures.log_mag > LOG_FLOOR


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_a_layer_without_weights_has_no_figures(shape: tuple[int, int]) -> None:
    found = round_of([np.zeros(shape)] * 3)
    assert found.figures == LayerFigures()
    assert found.map_PP.shape == (shape[0], shape[0])


def test_weights_that_are_overwritten_later_do_not_matter() -> None:
    weights = walk(9, (4, 3))
    expected = round_of(weights)
    stream, place = CmeStream(weights[0].copy(), name="layer"), weights[0].copy()
    for weight_PQ in weights[1:]:
        place[:] = weight_PQ
        stream.add(place)
    np.testing.assert_array_equal(stream.finish().map_PP, expected.map_PP)


def low_rank(seed: int, directions_PR: Matrix) -> list[Matrix]:
    """Return weights of 1,500 neurons of which groups move together, plus noise."""
    generator = np.random.default_rng(seed)
    weights = [generator.standard_normal((1500, 16))]
    for _ in range(3):
        together = directions_PR @ generator.standard_normal((directions_PR.shape[1], 16))
        noise = generator.standard_normal((1500, 16))
        weights.append(weights[-1] + 0.01 * together + 0.01 * noise)
    return weights


def test_a_sketch_keeps_the_scalars_and_nearly_the_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(10)
    kept, others = (generator.standard_normal((1500, 3)) for _ in range(2))
    rounds = [low_rank(1, kept), low_rank(2, kept), low_rank(3, others)]

    def figures() -> list[LayerRound]:
        found = [round_of(rounds[0])]
        for weights in rounds[1:]:
            found.append(round_of(weights, found[-1].map_PP))
        return found

    sketched = figures()
    monkeypatch.setattr(stream_module, "SKETCH_ABOVE", 1500)
    full = figures()
    for ours, exact in zip(sketched, full, strict=True):
        assert (ours.is_sketched, exact.is_sketched) == (True, False)
        assert ours.map_PP.shape == (SKETCH_ROWS, SKETCH_ROWS)
        assert ours.figures.log_mag == pytest.approx(exact.figures.log_mag, abs=1e-12)
        assert (ours.figures.rho, ours.figures.top1) == (exact.figures.rho, exact.figures.top1)
        # Five standard deviations of what was measured.
        assert ours.figures.map_cos == pytest.approx(exact.figures.map_cos, abs=0.055)
    cosines = [found.figures.map_cos for found in full[1:]]
    assert cosines == [pytest.approx(0.75, abs=0.2), pytest.approx(0, abs=0.1)]


def test_sites_and_rounds_have_the_same_sketch_and_layers_have_their_own() -> None:
    weights = [place[:, :2] for place in low_rank(1, np.ones((1500, 1)))]

    def sketch(name: str) -> Matrix:
        stream = CmeStream(weights[0], name=name)
        stream.add(weights[1])
        return stream.covariance()

    np.testing.assert_array_equal(sketch("a"), sketch("a"))
    assert not np.array_equal(sketch("a"), sketch("b"))


def test_a_layer_of_128_by_128_needs_less_than_a_mebibyte() -> None:
    weights = walk(11, (128, 128), 2)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        fed(weights).finish()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak <= 2**20
