"""Intervals against published values and against laws."""

import numpy as np
import pytest

from vlmrl.evaluate.results import table
from vlmrl.evaluate.rollout import Rollouts
from vlmrl.evaluate.statistics import difference, rate, wilson


def rollouts(success: list[int]) -> Rollouts:
    n = len(success)
    return Rollouts("x", np.arange(n), np.array(success, np.bool_), np.zeros(n, np.float32), np.full(n, -1))


def test_wilson_agrees_with_the_textbook() -> None:
    # Newcombe 1998, table I: 15 of 148 and 0 of 20
    assert (wilson(15, 148).low, wilson(15, 148).high) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert (wilson(0, 20).low, wilson(0, 20).high) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_wilson_stays_within_zero_and_one_and_shrinks_with_n() -> None:
    for n in (1, 10, 1000):
        for k in (0, n // 2, n):
            interval = wilson(k, n)
            assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert wilson(500, 1000).high - wilson(500, 1000).low < wilson(5, 10).high - wilson(5, 10).low


def test_interval_over_seeds_is_wider_when_seeds_disagree() -> None:
    """Half the seeds all succeed and half all fail: 100 episodes, but only four independent things happened."""
    split = np.repeat([[1.0], [1.0], [0.0], [0.0]], 25, axis=1)
    mixed = np.resize([1.0, 0.0], (4, 25))
    assert rate(split).estimate == pytest.approx(0.5)
    assert rate(split).high - rate(split).low > 3 * (rate(mixed).high - rate(mixed).low)


def test_paired_difference_of_a_method_with_itself_is_exactly_zero() -> None:
    x = np.random.default_rng(0).integers(0, 2, (5, 20)).astype(np.float64)
    interval = difference(x, x)
    assert (interval.low, interval.estimate, interval.high) == (0, 0, 0)


def test_difference_is_antisymmetric() -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.integers(0, 2, (5, 20)).astype(np.float64) for _ in range(2))
    forth, back = difference(a, b), difference(b, a)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), abs=0.02)


def test_bootstrap_interval_covers_the_true_rate_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        of_seed = generator.beta(6, 3, size=(8, 1))
        success = (generator.random((8, 25)) < of_seed).astype(np.float64)
        interval = rate(success, draws=500)
        covered += interval.low <= 6 / 9 <= interval.high
    assert covered >= 80


def test_table_pairs_an_untrained_arm_with_every_seed_of_a_trained_one() -> None:
    results = {"behaviour": [rollouts([0, 1, 0, 1])], "bc": [rollouts([1, 1, 1, 1]), rollouts([0, 1, 0, 1])]}
    rows = table(results, baselines=("bc",), trained={"behaviour": False, "bc": True})
    assert rows[0].versus["bc"].estimate == pytest.approx(-0.25)
    assert (rows[0].seeds, rows[1].seeds) == (0, 2)
    assert rows[1].success.estimate == pytest.approx(0.75)


def test_all_failures_over_seeds_still_have_an_interval() -> None:
    interval = rate(np.zeros((5, 20)))
    assert interval.low == 0
    assert interval.high == pytest.approx(wilson(0, 100).high)
