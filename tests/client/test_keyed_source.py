"""Random numbers of a site: the same for the same release, unknown without its key."""

import numpy as np
from scipy.stats import chisquare

from fedward.client.keyed_source import KeyedSource

KEY = bytes(range(32))


def test_the_same_key_and_label_give_the_same_numbers_and_no_other_does() -> None:
    source = KeyedSource(KEY)
    assert source.number("a") == KeyedSource(KEY).number("a")
    assert len({source.number("a"), source.number("b"), KeyedSource(KEY[::-1]).number("a")}) == 3
    first, again, other = source.below("a"), source.below("a"), source.below("b")
    numbers = [first(1000) for _ in range(50)]
    assert numbers == [again(1000) for _ in range(50)]
    assert numbers != [other(1000) for _ in range(50)]


def test_integers_are_uniform_below_any_bound_across_blocks() -> None:
    below = KeyedSource(KEY).below("uniform")
    for bound in (1, 2, 7, 256):
        drawn = np.array([below(bound) for _ in range(40_000)])
        assert drawn.min() == 0
        assert drawn.max() == bound - 1
        if bound > 1:  # false alarm: once in a million
            assert chisquare(np.bincount(drawn, minlength=bound)).pvalue > 1e-6
    large = [below(2**200) for _ in range(500)]
    assert max(large) > 2**199
    assert min(large) < 2**198


def test_the_key_is_not_shown() -> None:
    assert repr(KeyedSource(KEY)) == "KeyedSource(...)"
