"""The benchmark on people's labels: what it holds out, and how its intervals come about."""

import numpy as np
import pytest

from benchmarks import human_labels
from vlmrl.reward.network import Shape
from vlmrl.reward.pairs import Pairs

PAIRS, EPISODES = 300, 10


@pytest.fixture
def made() -> human_labels.Data:
    """Pairs of single rows; row e is all that is known of episode e."""
    a, b = np.random.default_rng(0).integers(EPISODES, size=(2, PAIRS, 1))
    shown = np.zeros((PAIRS, EPISODES), bool)
    np.put_along_axis(shown, np.concatenate([a, b], axis=1), True, axis=1)
    labelled = Pairs(a, b, np.ones(PAIRS, np.float32), np.zeros(PAIRS, np.int64))
    stack = np.zeros((EPISODES, 1), np.float32)
    return human_labels.Data(np.arange(EPISODES), stack, Shape((1,), 0, 1), labelled, shown, np.ones(PAIRS, bool))


def test_no_episode_of_a_test_pair_is_in_a_training_pair(made: human_labels.Data) -> None:
    tested = np.zeros(PAIRS, int)
    for train, test in human_labels.folds(made, "episodes", 0):
        assert not (made.episodes[train].any(0) & made.episodes[test].any(0)).any()
        tested += test
    assert tested.max() == 1
    assert 0 < tested.sum() < PAIRS


def test_every_pair_is_tested_once_over_pairs(made: human_labels.Data) -> None:
    sides = list(human_labels.folds(made, "pairs", 0))
    assert np.sum([test for _, test in sides], axis=0).tolist() == [1] * PAIRS
    assert all((train != test).all() for train, test in sides)


def test_ties_and_untested_pairs_are_neither_right_nor_wrong() -> None:
    found = human_labels.correct(np.array([[0.9, 0.1, 0.7, np.nan]]), np.array([1.0, 1.0, 0.5, 0.0]))
    np.testing.assert_array_equal(found, [[1, 0, np.nan, np.nan]])


def test_an_interval_is_wide_where_pairs_share_their_episodes(made: human_labels.Data) -> None:
    """Whether a pair is right depends on one of its episodes alone: there are ten of those, not 300 pairs."""
    generator = np.random.default_rng(1)
    own = made.labelled.a[:, 0]
    shared = (np.arange(EPISODES) % 2 == 0)[own].astype(float)[None]
    apart = generator.permutation(shared[0])[None]
    alone = np.eye(EPISODES, dtype=bool)[own]
    widths = [high - low for _, low, high in (human_labels.interval(v, alone) for v in (shared, apart))]
    # sqrt(1/4 / 10) and sqrt(1/4 / 300) are the errors of a share of one half
    assert widths[0] == pytest.approx(2 * 1.96 * (0.25 / 10) ** 0.5, rel=0.25)
    assert widths[1] == pytest.approx(2 * 1.96 * (0.25 / PAIRS) ** 0.5, rel=0.35)
    mean, low, high = human_labels.interval(np.array([[1.0, np.nan], [1.0, 1.0]]), np.eye(2, dtype=bool))
    assert (mean, low, high) == (1, 1, 1)
