import numpy as np
import pytest

from fedward.common.config.run import PartitionConfig
from fedward.common.errors import ConfigError
from fedward.simulations.partition import partition, site_names

LABEL = (np.arange(1000) % 4 == 0).astype(np.int64)
COLUMN = np.random.default_rng(7).normal(size=1000)
KINDS = ("iid", "label-skew", "size-skew", "feature-shift")


def deal(by: str, seed: int = 0, **keys: object) -> dict[str, np.ndarray]:
    config = {"table": "t.csv", "by": by, "num_sites": 5, "alpha": 1.0, "column": "x", **keys}
    return partition(
        LABEL,
        PartitionConfig.model_validate(config),
        np.random.default_rng(seed),
        column=COLUMN if by == "feature-shift" else None,
    )


@pytest.mark.parametrize("by", KINDS)
@pytest.mark.parametrize("num_sites", [1, 2, 7])
def test_every_row_goes_to_exactly_one_site(by: str, num_sites: int) -> None:
    sites = deal(by, num_sites=num_sites)
    assert list(sites) == site_names(num_sites)
    assert np.sort(np.concatenate(list(sites.values()))).tolist() == list(range(1000))


@pytest.mark.parametrize("by", KINDS)
def test_the_same_seed_deals_the_same_rows_and_another_seed_others(by: str) -> None:
    first, again, other = deal(by), deal(by), deal(by, seed=1)
    assert all(np.array_equal(first[site], again[site]) for site in first)
    assert not all(np.array_equal(first[site], other[site]) for site in first)


@pytest.mark.parametrize("by", KINDS)
def test_no_site_has_fewer_patients_than_asked(by: str) -> None:
    for seed in range(10):
        sites = deal(by, seed, min_patients=60)
        assert min(map(len, sites.values())) >= 60
    if by in ("label-skew", "size-skew"):
        smallest = [min(map(len, deal(by, s, min_patients=1).values())) for s in range(9)]
        assert min(smallest) < 60  # without the rule it would happen


@pytest.mark.parametrize("by", KINDS)
def test_as_many_patients_as_asked_are_drawn_first_and_dealt_once(by: str) -> None:
    own = np.concatenate(list(deal(by, num_patients=400).values()))
    assert len(own) == len(set(own.tolist())) == 400
    assert own.max() > 900, "they come from all of the table"
    other = np.concatenate(list(deal(by, 1, num_patients=400).values()))
    assert set(own.tolist()) != set(other.tolist())


def test_copies_give_every_site_the_same_patients_all_or_as_many_as_are_drawn() -> None:
    assert all(own.tolist() == list(range(1000)) for own in deal("copies").values())
    first, *others = deal("copies", num_patients=400).values()
    assert len(first) == 400
    assert all(np.array_equal(first, own) for own in others)
    dealt = np.sort(np.concatenate(list(deal("iid", num_patients=400).values())))
    assert np.array_equal(dealt, first), "the same seed draws the same patients"


def test_more_patients_than_the_table_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"num_patients: the table has 1000 patients"):
        deal("iid", num_patients=1001)


def test_sites_that_a_column_names_are_not_drawn_from() -> None:
    with pytest.raises(ValueError, match="by: column takes the sites as they are"):
        deal("column", num_patients=10)


def spread_of_sizes(alpha: float, seed: int) -> float:
    sites = deal("size-skew", seed, alpha=alpha, min_patients=1)
    return float(np.std([len(own) for own in sites.values()]))


def spread_of_labels(alpha: float, seed: int) -> float:
    sites = deal("label-skew", seed, alpha=alpha, min_patients=1)
    return float(np.std([LABEL[own].mean() for own in sites.values()]))


@pytest.mark.parametrize("spread", [spread_of_sizes, spread_of_labels])
def test_a_small_alpha_is_more_skewed_than_a_large_one(spread: object) -> None:
    assert callable(spread)
    small = [spread(0.3, seed) for seed in range(20)]
    large = [spread(100.0, seed) for seed in range(20)]
    assert np.mean(small) > 4 * np.mean(large)


def test_equal_shares_have_equal_sizes_and_about_equal_labels() -> None:
    sites = deal("iid", num_sites=3)
    assert sorted(map(len, sites.values())) == [333, 333, 334]
    # The share of positives is hypergeometric with deviation 0.019: six of them.
    for own in sites.values():
        assert LABEL[own].mean() == pytest.approx(0.25, abs=0.12)


def test_sites_shifted_by_a_feature_have_rising_means_and_still_overlap() -> None:
    sites = deal("feature-shift")
    means = [COLUMN[own].mean() for own in sites.values()]
    assert means == sorted(means)
    assert means[-1] - means[0] > 1.5
    assert COLUMN[sites["site-1"]].max() > COLUMN[sites["site-5"]].min()


def test_missing_values_of_the_feature_come_last() -> None:
    column = np.where(np.arange(1000) < 200, np.nan, COLUMN)
    config = PartitionConfig(table="t", by="feature-shift", column="x", num_sites=5)
    sites = partition(LABEL, config, np.random.default_rng(0), column=column)
    missing = [int(np.isnan(column[own]).sum()) for own in sites.values()]
    assert missing[-1] > 0.8 * sum(missing)


def test_equal_values_of_the_feature_are_dealt_at_random_not_by_their_place_in_the_file() -> None:
    column = np.zeros(1000)
    config = PartitionConfig(table="t", by="feature-shift", column="x", num_sites=2)
    sites = partition(LABEL, config, np.random.default_rng(0), column=column)
    # Half of the first 500 rows, with deviation 11; six of them.
    assert (sites["site-1"] < 500).sum() == pytest.approx(250, abs=66)


@pytest.mark.parametrize("by", KINDS)
def test_more_sites_than_the_rows_allow_are_refused_with_what_to_change(by: str) -> None:
    with pytest.raises(ConfigError, match=r"1000 rows cannot give 200 sites 8 each; lower num"):
        deal(by, num_sites=200)


@pytest.mark.parametrize("by", ["label-skew", "size-skew"])
def test_a_skew_that_leaves_some_site_too_small_is_refused_with_what_to_change(by: str) -> None:
    with pytest.raises(ConfigError, match=r"100 draws by .* fewer than 190 rows; raise alpha"):
        deal(by, alpha=0.05, min_patients=190)


def test_site_names_sort_by_their_numbers() -> None:
    names = site_names(12)
    assert (names[0], names[-1]) == ("site-01", "site-12")
    assert sorted(names) == names
