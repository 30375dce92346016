"""Votes of nearest neighbours: by hand, and against every distance in float64."""

import numpy as np
import pytest

from fedward.synth.tables.knn import Embedding, Neighbours, Vote, elect
from fedward.synth.tables.rows import Rows


def neighbours(
    points: np.ndarray, code: np.ndarray, k: int, *, by_distance: bool = False
) -> Neighbours:
    return Neighbours(
        points.astype(np.float32),
        code,
        num_classes=int(code.max()) + 1,
        k=k,
        by_distance=by_distance,
    )


def exact_votes(
    points: np.ndarray, code: np.ndarray, asked: np.ndarray, *, k: int, without: np.ndarray | None
) -> np.ndarray:
    """Return the votes after sorting every distance in float64."""
    distance = np.linalg.norm(asked[:, None, :] - points[None, :, :], axis=2)
    if without is not None:
        rows = np.flatnonzero(without >= 0)
        distance[rows, without[rows]] = np.inf
    nearest = np.argsort(distance, axis=1)[:, :k]
    return np.stack([(code[nearest] == one).sum(axis=1) for one in range(code.max() + 1)], axis=1)


@pytest.mark.parametrize("k", [1, 5, 15, 31])
@pytest.mark.parametrize("excludes", [False, True])
def test_the_votes_are_those_of_every_distance_in_float64(k: int, excludes: bool) -> None:
    rng = np.random.default_rng(k)
    points, code = rng.normal(size=(300, 27)), rng.integers(0, 3, 300)
    parent = rng.integers(0, 300, 600)
    asked = points[parent] + rng.normal(size=(600, 27))
    without = np.where(rng.random(600) < 0.9, parent, -1) if excludes else None
    found = neighbours(points, code, k).votes(asked.astype(np.float32), without)
    np.testing.assert_array_equal(found, exact_votes(points, code, asked, k=k, without=without))


ON_A_LINE = np.array([[0.0], [0.4], [0.6], [1.0]])
THEIR_CLASS = np.array([0, 0, 0, 1])


def test_a_parent_that_is_left_out_can_no_longer_vote_for_its_child() -> None:
    child, parent = np.array([[0.9]], dtype=np.float32), np.array([3])
    voters = neighbours(ON_A_LINE, THEIR_CLASS, 1)
    np.testing.assert_array_equal(voters.votes(child), [[0, 1]])
    np.testing.assert_array_equal(voters.votes(child, parent), [[1, 0]])
    # Where the parent is not among the nearest, leaving it out changes nothing.
    far = np.array([[0.1]], dtype=np.float32)
    np.testing.assert_array_equal(voters.votes(far, parent), voters.votes(far))


@pytest.mark.parametrize(("vote", "winner"), [("majority", 0), ("prior", 1), ("distance", 1)])
def test_two_near_votes_of_a_small_class_win_by_share_and_by_distance_but_not_by_number(
    vote: Vote, winner: int
) -> None:
    # Three of the majority at distance 2, two of the minority at distance 1; others far away.
    points = np.array([[2.0], [2.0], [-2.0], [1.0], [-1.0], *[[50.0]] * 15])
    code = np.array([0, 0, 0, 1, 1, *[0] * 15])
    voters = neighbours(points, code, 5, by_distance=vote == "distance")
    votes = voters.votes(np.zeros((1, 1), dtype=np.float32))
    assert elect(votes, vote, np.array([0.9, 0.1])).tolist() == [winner]


def test_the_first_of_equal_classes_wins() -> None:
    votes = np.array([[2.0, 2.0, 1.0], [0.0, 2.0, 2.0]])
    assert elect(votes, "majority", np.full(3, 1 / 3)).tolist() == [0, 1]
    # 2 votes of a class of 60 % are 3.3 times its share, 1 vote of a class of 10 % is 10 times.
    assert elect(votes[:1], "prior", np.array([0.6, 0.3, 0.1])).tolist() == [2]


def test_the_distance_of_rows_counts_numbers_categories_and_what_is_missing() -> None:
    values = np.array([[1.0, 2.0], [4.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    codes = np.array([[0], [1], [0], [0]])
    absent = np.zeros((4, 3), dtype=bool)
    absent[1, 1] = absent[2, 1] = absent[3, 2] = True
    rows = Rows(values, codes, absent)
    points = Embedding.of(rows, (2,)).points(rows)
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    # Rows 0 and 1: 3**2, a missing number against 2 (1 + 2**2), another category.
    assert squared[0, 1] == pytest.approx(9 + 5 + 1, rel=1e-6)
    # Rows 1 and 2 lack the same number.
    assert squared[1, 2] == pytest.approx(9 + 0 + 1, rel=1e-6)
    # A missing category is another one.
    assert squared[0, 3] == pytest.approx(1 + 0 + 1, rel=1e-6)


def test_nobody_asked_is_no_votes() -> None:
    voters = neighbours(ON_A_LINE, THEIR_CLASS, 1)
    assert voters.votes(np.zeros((0, 1), dtype=np.float32)).shape == (0, 2)
