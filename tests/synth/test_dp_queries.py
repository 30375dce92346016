"""What the private copula asks: no patient counts for more than the bound, and answers are used."""

import numpy as np
import pytest
from scipy.special import ndtr

from fedward.common.errors import SiteDataError
from fedward.synth.tables.checks import class_codes, columns_for
from fedward.synth.tables.dp_bounds import bounds_of, bounds_query
from fedward.synth.tables.dp_budget import gaussian_mu
from fedward.synth.tables.dp_margins import (
    Bins,
    ColumnCounts,
    class_shares,
    margin_of,
    missing_shares,
    nearest_shares,
    pooled_shares,
    public_edges,
    shrunk,
    stretched,
)
from fedward.synth.tables.dp_moments import (
    Scores,
    class_shifts,
    clip_factor,
    code_scores,
    correlation_query,
    latent_correlation,
    means_query,
    shifted_shares,
)
from fedward.synth.tables.dp_noise import clipped, source_of
from fedward.synth.tables.dp_queries import Answer, Patients, Query, one_hot, split_sums
from fedward.synth.tables.dp_release import Account, Replay, release
from fedward.synth.tables.encoder import Form, public_encoder
from fedward.synth.tables.rows import Ints, Rows
from tests.synth.clinic import CLINIC, patients

NO_NOISE = 1e-9
Asked = list[tuple[Query, Answer]]


def clinic(n: int = 400, seed: int = 0) -> Patients:
    columns, table = columns_for(CLINIC, patients(n, seed))
    rows = public_encoder(columns, Form(transform="none")).encode(table)
    return Patients(rows, class_codes(columns, table))


def odd_patients(n: int = 300, seed: int = 1) -> Patients:
    """Return patients at and beyond every bound, with everything there or nothing."""
    rng = np.random.default_rng(seed)
    values = rng.choice([-1e6, -1.0, -0.9999, 0.0, 0.5, 1.0, 1e6], (n, len(CLINIC.continuous)))
    codes = np.stack([rng.integers(0, len(c.categories), n) for c in CLINIC.categorical], axis=1)
    absent = rng.random((n, len(CLINIC))) < rng.choice([0.0, 0.5, 1.0], (n, 1))
    return Patients(Rows(values, codes, absent), rng.integers(0, 2, n))


def asked(epsilon: float, who: Patients, seed: int = 4) -> Asked:
    account = Account(gaussian_mu(epsilon, 1e-5), source_of(seed))
    release(CLINIC, who, account)
    return account.asked


@pytest.mark.parametrize("epsilon", [0.1, 2.0, 50.0])
def test_no_contribution_to_a_count_is_longer_than_its_bound(epsilon: float) -> None:
    for query, _ in asked(epsilon, clinic())[:2]:
        for who in (clinic(200, 9), odd_patients()):
            length = np.linalg.norm(query.contribute(who), axis=1)
            assert (length <= query.bound + 1e-12).all(), query.name
    # It is reached by patients who have every value, so that it could not be smaller.
    everything = odd_patients()
    everything.rows.absent_NM[:] = False
    for query, _ in asked(epsilon, clinic())[:2]:
        assert np.linalg.norm(query.contribute(everything), axis=1) == pytest.approx(query.bound)


def test_the_length_of_a_product_follows_from_that_of_the_scores() -> None:
    means, correlation = (query for query, _ in asked(5.0, clinic())[2:])
    for who in (clinic(200, 9), odd_patients()):
        score_length = np.linalg.norm(means.contribute(who), axis=1)
        product_length = np.linalg.norm(correlation.contribute(who), axis=1)
        assert product_length == pytest.approx(score_length**2 / np.sqrt(2))
    # So a vector that is clipped to its bound has products of exactly their bound.
    assert correlation.bound == pytest.approx(means.bound**2 / np.sqrt(2))


def test_all_queries_together_cost_the_budget() -> None:
    mus = [answer.mu for _, answer in asked(3.0, clinic())]
    assert len(mus) == 4
    assert np.sqrt(np.sum(np.square(mus))) == pytest.approx(gaussian_mu(3.0, 1e-5))


def test_answers_can_be_played_again_without_patients() -> None:
    first = asked(3.0, clinic())
    replay = Replay(answer for _, answer in first)
    release(CLINIC, clinic(3, 8), replay)
    assert [answer for _, answer in replay.asked] == [answer for _, answer in first]
    for (here, _), (there, _) in zip(replay.asked, first, strict=True):
        assert np.array_equal(here.contribute(clinic(50)), there.contribute(clinic(50)))


def test_a_patient_contributes_from_its_own_row_alone() -> None:
    together = clinic(60)
    for query, _ in asked(3.0, clinic()):
        whole = query.contribute(together)
        alone = Patients(together.rows.take(slice(7, 8)), together.code_N[7:8])
        assert np.array_equal(query.contribute(alone), whole[7:8])


def test_indicators_are_put_together_and_taken_apart() -> None:
    place: list[Ints] = [np.array([0, 2]), np.array([-1, 1])]
    found = one_hot(place, [3, 2])
    assert found.tolist() == [[1, 0, 0, 0, 0], [0, 0, 1, 0, 1]]
    assert [part.tolist() for part in split_sums(found.sum(axis=0), [3, 2])] == [[1, 0, 1], [0, 1]]


def test_public_bins_are_narrow_near_both_bounds() -> None:
    width = np.diff(np.tanh(public_edges() / 2))
    assert width.sum() == pytest.approx(2, abs=0.01)
    assert width[0] < width[3] < width[len(width) // 2] > width[-1]
    assert stretched(np.array([-5.0, -1.0, 0.0, 1.0, 5.0])).tolist() == [-8, -8, 0, 8, 8]


def test_bins_follow_the_patients_and_not_the_range() -> None:
    # C-reactive protein: up to 600 by its bounds, below 60 for nine of ten patients.
    account = Account(gaussian_mu(20.0, 1e-5), source_of(1))
    learned = release(CLINIC, clinic(4000), account)
    crp = learned.bins[3]
    edge = 300 * (np.tanh(crp.edges_K / 2) + 1)
    assert (edge < 60).sum() > 0.7 * len(edge)
    assert learned.pooled[3].max() < 0.2  # evenly filled


def test_shrinking_leaves_what_is_clear_and_takes_what_is_noise() -> None:
    target = np.zeros(4)
    clear = np.array([0.5, -0.5, 0.5, -0.5])
    assert shrunk(clear, target, 1e-6) == pytest.approx(clear, rel=1e-5)
    assert shrunk(clear, target, 1.0).tolist() == target.tolist()
    # Half of the squared length is noise.
    assert shrunk(clear, target, 0.5) == pytest.approx(clear / 2)
    # Noise beyond all that can be true moves nothing, not even where it is longer than expected.
    assert np.abs(shrunk(1000 * clear, target, 9e5)).max() < 0.01


def test_shares_are_the_nearest_that_can_be() -> None:
    assert nearest_shares(np.array([0.2, 0.8])) == pytest.approx([0.2, 0.8])
    assert nearest_shares(np.array([1.3, 0.5, -0.4])) == pytest.approx([0.9, 0.1, 0])
    assert nearest_shares(np.full(5, -3.0)) == pytest.approx(np.full(5, 0.2))


def column(counts: list[list[float]], missing: list[float]) -> ColumnCounts:
    size = len(counts[0])
    return ColumnCounts(np.array(counts), np.array(missing), np.full(size, 1 / size))


def test_counts_without_noise_are_the_shares() -> None:
    counts = column([[300.0, 100.0], [100.0, 100.0]], [100.0, 50.0])
    assert pooled_shares(counts, NO_NOISE) == pytest.approx([2 / 3, 1 / 3])
    missing = missing_shares(counts, np.array([500.0, 250.0]), NO_NOISE)
    assert missing == pytest.approx([0.2, 0.2])


def test_classes_that_are_missing_more_often_are_told_apart_only_where_noise_allows() -> None:
    counts = column([[200.0], [50.0]], [300.0, 50.0])
    size = np.array([500.0, 100.0])
    assert missing_shares(counts, size, NO_NOISE) == pytest.approx([0.6, 0.5], abs=0.03)
    noisy = missing_shares(counts, size, 30.0)
    assert noisy[0] == noisy[1] == pytest.approx(350 / 600)
    assert missing_shares(counts, size, 500.0).tolist() == [0, 0]


def test_a_class_borrows_from_all_where_its_counts_are_noise() -> None:
    expected = np.array([0.5, 0.3, 0.2])
    own = np.array([10.0, 30.0, 60.0])
    clear = class_shares(own, expected, num_known=100, deviation=NO_NOISE)
    assert clear == pytest.approx([0.1, 0.3, 0.6], abs=0.03)
    assert class_shares(own, expected, num_known=100, deviation=40) == pytest.approx(expected)


def test_a_margin_ends_at_its_outer_edges_and_has_the_shares_of_its_bins() -> None:
    bins = Bins(np.array([-2.0, 0.0, 1.0, 3.0]), np.full(3, 1 / 3))
    margin = margin_of(bins, np.array([0.5, 0.0, 0.5]))
    latent = np.random.default_rng(0).standard_normal(20_000)
    place = bins.place(margin.invert(latent))
    # Five standard errors of a share of one half.
    assert (place == 0).mean() == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(20_000))
    assert (place == 1).sum() == 0
    ends = margin.invert(np.array([-40.0, 40.0]))
    assert ends == pytest.approx(np.tanh([-1.0, 1.5]))


def test_a_shift_moves_shares_as_normal_values_do() -> None:
    shares = np.array([0.25, 0.25, 0.5])
    assert shifted_shares(shares, 0.0) == pytest.approx(shares)
    moved = shifted_shares(shares, 1.0)
    assert moved[2] == pytest.approx(ndtr(1.0))
    assert moved.sum() == pytest.approx(1)


def test_scores_of_categories_have_mean_0_and_variance_1() -> None:
    shares = np.array([0.2, 0.5, 0.3])
    scores = code_scores(shares)
    assert shares @ scores.score_L == pytest.approx(0)
    assert shares @ scores.score_L**2 == pytest.approx(1)
    assert np.diff(scores.score_L).min() > 0
    # Sheppard: halves of a normal value lie sqrt(2 / pi) from its middle.
    assert code_scores(np.array([0.5, 0.5])).spread == pytest.approx(np.sqrt(2 / np.pi))


def pair_scores(correlation: float, shift: float, n: int, seed: int = 0) -> tuple[Scores, Patients]:
    """Return two numbers and a category that hang together, the second class shifted."""
    rng = np.random.default_rng(seed)
    code_N = np.arange(n) % 2
    factor = np.linalg.cholesky(np.where(np.eye(3, dtype=bool), 1.0, correlation))
    latent = rng.standard_normal((n, 3)) @ factor.T
    latent[:, 0] += shift * (code_N - 0.5)
    edges = np.linspace(-6, 6, 25)
    spreads = (np.sqrt(1 + shift**2 / 4), 1.0)
    widths = [np.diff(ndtr(edges * 2 / 3 / spread)) for spread in spreads]
    bins = Bins(edges, np.full(24, 1 / 24))
    shares = tuple(one / one.sum() for one in widths)
    # Latent values of -4 to 4 are stretched values of -6 to 6.
    values = np.tanh(latent[:, :2] * 1.5 / 2)
    scores = Scores(
        (bins, bins),
        shares,
        (code_scores(np.array([0.5, 0.5])),),
        (),
        np.zeros(0, dtype=np.int64),
        np.ones(3),
    )
    codes = (latent[:, 2:] > 0).astype(np.int64)
    return scores, Patients(Rows(values, codes, np.zeros((n, 3), dtype=bool)), code_N)


def exact(query: Query, who: Patients, deviation: float = NO_NOISE) -> Answer:
    sums = clipped(query.contribute(who), query.bound).sum(axis=0)
    return Answer(query.name, sums, query.bound, deviation)


@pytest.mark.parametrize("correlation", [0.0, 0.6, -0.45])
def test_latent_correlations_and_class_differences_are_found(correlation: float) -> None:
    scores, who = pair_scores(correlation, 0.8, 20_000)
    size, total = np.array([10_000.0, 10_000.0]), 20_000.0
    products = exact(correlation_query(scores), who)
    clip = clip_factor(products, scores, total)
    shift = class_shifts(exact(means_query(scores, 2), who), scores, size, clip)
    # With three scores a vector is often longer than the bound; clipping then bends it a little.
    assert shift[1] - shift[0] == pytest.approx([0.8 / np.sqrt(1.16), 0, 0], abs=0.1)
    found = latent_correlation(products, scores, total, shift, size / total)
    # Within classes the first number varies a little less than its score does over all.
    expected = correlation / np.sqrt(1.16)
    # Clipping takes up to a tenth of a correlation of three columns.
    assert found[0, 1] == pytest.approx(expected, abs=0.06)
    assert found[0, 2] == pytest.approx(expected, abs=0.06)
    assert found[1, 2] == pytest.approx(correlation, abs=0.06)


def test_correlations_that_may_be_noise_are_left_out() -> None:
    scores, who = pair_scores(0.6, 0.0, 2000)
    products = exact(correlation_query(scores), who, deviation=1000.0)
    shift, share = np.zeros((2, 3)), np.array([0.5, 0.5])
    assert np.array_equal(latent_correlation(products, scores, 2000.0, shift, share), np.eye(3))


def raw_patients(values: list[list[float]]) -> Patients:
    array = np.array(values)
    none = np.zeros((len(array), 0), dtype=np.int64)
    rows = Rows(np.nan_to_num(array), none, np.isnan(array))
    return Patients(rows, np.zeros(len(array), dtype=np.int64))


def test_bounds_that_are_bought_hold_the_values_between_powers_of_two() -> None:
    who = raw_patients([[37.0, -3.0], [38.5, 5.0], [np.nan, 0.0]] * 100)
    query = bounds_query(2)
    assert (np.linalg.norm(query.contribute(who), axis=1) <= query.bound).all()
    sums = query.contribute(who).sum(axis=0)
    found = bounds_of(Answer("bounds", sums, query.bound, 1.0), ("temperature", "excess"))
    assert found == ((32.0, 64.0), (-4.0, 8.0))


def test_noise_alone_buys_no_bounds() -> None:
    # All three columns would have to pass by chance, of which each has 1.7 %.
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(0, 7.0, bounds_query(3).size)
        with pytest.raises(SiteDataError, match="schema"):
            bounds_of(Answer("bounds", noise, 1.0, 7.0), ("a", "b", "c"))


def test_a_false_bin_is_rare() -> None:
    # At most 5 % of releases should have one; 26 of 200 would come up with probability 1e-5.
    seen = 0
    for seed in range(200):
        noise = np.random.default_rng(seed).normal(0, 7.0, bounds_query(1).size)
        try:
            bounds_of(Answer("bounds", noise, 1.0, 7.0), ("a",))
            seen += 1
        except SiteDataError:
            continue
    assert seen < 26


@pytest.mark.parametrize("value", [-1e300, -1.0, -1e-12, 0.0, 1e-12, 3.0, 1e300])
def test_every_number_has_a_size(value: float) -> None:
    assert bounds_query(1).contribute(raw_patients([[value]])).sum() == 1
