"""What noisy steps cost: against other libraries, and against the bugs that accountants have."""

import math
import sys
import time

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import RDPAccountant
from opacus.accountants.analysis.rdp import compute_rdp
from scipy.integrate import quad

from fedward.common.errors import ConfigError
from fedward.common.privacy import accounting
from fedward.common.privacy.accounting import (
    BROKEN_ORDERS,
    ORDERS,
    WHOLE_ORDERS,
    Segment,
    epsilon_of,
    merged,
    rdp_of,
    rounds_left,
)

DELTA = 1e-5
ROUND = Segment(1.1, 0.1, 30)
GRID = [
    (sigma, rate, steps)
    for sigma in (0.6, 1.0, 2.0, 8.0)
    for rate in (0.01, 0.1, 0.5, 1.0)
    for steps in (50, 2000)
]


def google_epsilon(
    history: list[tuple[float, float, int]], orders: list[float], delta: float = DELTA
) -> float:
    accountant = RdpAccountant(orders)
    for sigma, rate, steps in history:
        event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
        accountant.compose(event, steps)
    return float(accountant.get_epsilon(delta))


@pytest.mark.parametrize(("sigma", "rate", "steps"), GRID)
def test_epsilon_is_that_of_dp_accounting_at_the_same_orders(
    sigma: float, rate: float, steps: int
) -> None:
    # At whole orders both sum the same finite series.
    rdp = rdp_of([Segment(sigma, rate, steps)])[len(BROKEN_ORDERS) :]
    order = ORDERS[len(BROKEN_ORDERS) :]
    gain = np.log1p(-1 / order) - np.log(DELTA * order) / (order - 1)
    theirs = google_epsilon([(sigma, rate, steps)], [float(one) for one in WHOLE_ORDERS])
    assert (rdp + gain).min() == pytest.approx(theirs, rel=1e-6)
    # With broken orders too, but for an outlier: there its series of 1,000 terms does not end, it
    # leaves those orders out, and can only find more. The integral below says who is right.
    ours = epsilon_of([Segment(sigma, rate, steps)], DELTA)
    theirs = google_epsilon([(sigma, rate, steps)], ORDERS.tolist())
    assert ours <= theirs * (1 + 1e-6)
    if (sigma, rate, steps) != (8.0, 0.5, 2000) and ours < 30:
        assert ours == pytest.approx(theirs, rel=0.005)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 8.0])
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_the_divergence_at_broken_orders_is_that_of_the_integral(sigma: float, rate: float) -> None:
    # rho(a) = log E_{z ~ N(0, sigma^2)} ((1 - q) + q e^((2 z - 1) / 2 sigma^2))^a / (a - 1)
    found = rdp_of([Segment(sigma, rate, 1)])
    for place in (0, 1, 5, 9, 11):
        order = float(ORDERS[place])

        def moment(z: float, order: float = order) -> float:
            ratio = 1 - rate + rate * math.exp((2 * z - 1) / (2 * sigma**2))
            return math.exp(order * math.log(ratio) - z**2 / (2 * sigma**2))

        total, _ = quad(moment, -30 * sigma, 30 * sigma + 2 * order, limit=500, points=[0, order])
        expected = math.log(total / (sigma * math.sqrt(2 * math.pi))) / (order - 1)
        assert found[place] == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_more_orders_than_opacus_has_let_a_small_epsilon_be_stated() -> None:
    opacus = RDPAccountant()
    opacus.history = [(8.0, 0.01, 50)]
    with pytest.warns(UserWarning, match="largest alpha"):
        theirs = opacus.get_epsilon(DELTA)
    assert theirs > 0.1
    assert epsilon_of([Segment(8.0, 0.01, 50)], DELTA) < 0.03


@pytest.mark.parametrize(("sigma", "rate"), [(1.0, 0.02), (0.8, 0.1), (2.0, 0.25)])
def test_fewer_broken_orders_than_opacus_has_cost_less_than_half_a_percent(
    sigma: float, rate: float
) -> None:
    opacus = RDPAccountant()
    opacus.history = [(sigma, rate, 100)]
    theirs = opacus.get_epsilon(DELTA)
    assert theirs <= epsilon_of([Segment(sigma, rate, 100)], DELTA) * (1 + 1e-12)
    assert epsilon_of([Segment(sigma, rate, 100)], DELTA) <= theirs * 1.005


def test_a_resumed_history_costs_what_the_whole_one_does() -> None:
    whole = epsilon_of([Segment(1.1, 0.1, 600)], DELTA)
    resumed = epsilon_of([Segment(1.1, 0.1, 200), Segment(1.1, 0.1, 400)], DELTA)
    assert resumed == pytest.approx(whole, rel=1e-12)
    assert epsilon_of(merged([Segment(1.1, 0.1, 200), Segment(1.1, 0.1, 400)]), DELTA) == whole


def test_two_studies_cost_what_one_history_of_both_does() -> None:
    first, second = [Segment(2.2, 0.1, 300)] * 2, [Segment(2.0, 0.05, 100)] * 5
    theirs = google_epsilon([(2.2, 0.1, 600), (2.0, 0.05, 500)], ORDERS.tolist())
    assert epsilon_of([*first, *second], DELTA) == pytest.approx(theirs, rel=0.005)
    assert epsilon_of([*second, *first], DELTA) == pytest.approx(theirs, rel=0.005)


def test_the_order_and_grouping_of_a_history_do_not_matter() -> None:
    mixed = [Segment(1.0, 0.1, 5), Segment(2.0, 0.2, 1), Segment(1.0, 0.1, 7)]
    assert merged(mixed) == (Segment(1.0, 0.1, 12), Segment(2.0, 0.2, 1))
    assert epsilon_of(mixed, DELTA) == pytest.approx(epsilon_of(merged(mixed), DELTA), rel=1e-12)


def test_a_fresh_engine_per_round_is_caught() -> None:
    # The figures are those of Opacus' accountant: noise 1, rate 0.02, 20 rounds of 50 steps.
    whole = epsilon_of([Segment(1.0, 0.02, 1000)], DELTA)
    last_round_only = epsilon_of([Segment(1.0, 0.02, 50)], DELTA)
    added_up = 20 * last_round_only
    assert whole == pytest.approx(4.32, abs=0.01)
    assert last_round_only == pytest.approx(1.61, abs=0.01)
    assert last_round_only < whole / 2
    assert added_up > 2 * whole


def test_epsilon_never_falls_as_a_history_grows() -> None:
    history: list[Segment] = []
    before = 0.0
    for number in range(1, 30):
        history.append(Segment(0.5 + number / 10, number / 100, number))
        now = epsilon_of(history, DELTA)
        assert now > before
        before = now


def test_without_opacus_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus.accountants.analysis.rdp", None)
    accounting._opacus.cache_clear()
    accounting._rdp_of_step.cache_clear()
    with pytest.raises(ConfigError, match=r"fedward\[dp\]"):
        epsilon_of([ROUND], DELTA)


def test_nothing_costs_nothing() -> None:
    assert epsilon_of([], DELTA) == 0.0


def test_a_check_of_fifty_settings_takes_less_than_five_milliseconds() -> None:
    history = [Segment(1 + number / 1000, 0.01, 10) for number in range(50)]
    epsilon_of(history, DELTA)  # each setting is worked out once
    times = []
    for _ in range(20):
        started = time.process_time()
        epsilon_of([*history, Segment(1.0, 0.01, 10)], DELTA)
        times.append(time.process_time() - started)
    assert min(times) < 0.005


@pytest.mark.parametrize("rate", [1e-9, 1e-6, 0.5, 1 - 1e-12, 1.0])
@pytest.mark.parametrize("sigma", [1e-3, 0.05, 1.0, 1e4])
def test_the_ends_of_the_range_give_an_answer(sigma: float, rate: float) -> None:
    found = epsilon_of([Segment(sigma, rate, 10**9)], DELTA)
    assert math.isfinite(found)
    assert found >= 0


def test_an_order_whose_series_fails_is_replaced_by_what_is_never_too_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = rdp_of([ROUND])
    for wrong in (0.0, math.nan, math.inf, -1.0):

        def broken(*, orders: object, wrong: float = wrong, **setting: float) -> object:
            if isinstance(orders, float):
                return wrong
            return compute_rdp(orders=orders, **setting)

        monkeypatch.setattr(accounting, "_opacus", lambda broken=broken: broken)
        accounting._rdp_of_step.cache_clear()
        found = rdp_of([ROUND])
        assert (found >= right * (1 - 1e-12)).all()
        assert np.isfinite(found).all()
    accounting._rdp_of_step.cache_clear()


def test_the_rounds_that_are_left_fit_and_one_more_does_not() -> None:
    spent = [Segment(1.1, 0.1, 90)]
    left = rounds_left(spent, [ROUND], epsilon=9.0, delta=DELTA)
    assert left > 0
    assert epsilon_of([*spent, *[ROUND] * left], DELTA) <= 9.0
    assert epsilon_of([*spent, *[ROUND] * (left + 1)], DELTA) > 9.0
    assert rounds_left([ROUND] * 1000, [ROUND], epsilon=9.0, delta=DELTA) == 0


@pytest.mark.parametrize(
    ("segment", "named"),
    [
        ((math.nan, 0.1, 1), "noise multiplier: given nan"),
        ((math.inf, 0.1, 1), "noise multiplier: given inf"),
        ((0.0, 0.1, 1), "noise multiplier: given 0"),
        ((-1.0, 0.1, 1), "noise multiplier: given -1"),
        ((True, 0.1, 1), "noise multiplier: given a bool"),
        (("1.1", 0.1, 1), "noise multiplier: given a str"),
        ((None, 0.1, 1), "noise multiplier: given nothing"),
        ((1.0, math.nan, 1), "sample rate: given nan"),
        ((1.0, 0.0, 1), "sample rate: given 0"),
        ((1.0, 1.1, 1), "sample rate: given 1.1"),
        ((1.0, -0.1, 1), "sample rate: given -0.1"),
        ((1.0, 0.1, -5), "steps: given -5"),
        ((1.0, 0.1, 0), "steps: given 0"),
        ((1.0, 0.1, 2.5), "steps: given 2.5"),
        ((1.0, 0.1, True), "steps: given a bool"),
    ],
)
def test_steps_that_mean_nothing_are_refused(segment: tuple[float, float, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Segment(*segment)


@pytest.mark.parametrize("delta", [0.0, 1.0, 1.5, -1e-5, math.nan, math.inf, None])
def test_a_delta_that_promises_nothing_is_refused(delta: float) -> None:
    with pytest.raises(ConfigError, match="delta"):
        epsilon_of([ROUND], delta)
