"""Intervals against published values and against laws."""

import numpy as np
import pytest

from vlmrl.evaluate.results import table
from vlmrl.evaluate.rollout import Rollouts
from vlmrl.evaluate.statistics import difference, mean_difference, newcombe, over_seeds, rate
from vlmrl.interval import Interval, wilson


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
    """Half the seeds all succeed and half all fail: 400 episodes, but only four independent things happened."""
    split = np.repeat([[1.0], [1.0], [0.0], [0.0]], 100, axis=1)
    mixed = np.resize([1.0, 0.0], (4, 100))
    assert rate(split).estimate == pytest.approx(0.5)
    assert rate(split).high - rate(split).low > 3 * (rate(mixed).high - rate(mixed).low)


def test_paired_difference_of_a_method_with_itself_is_zero_but_for_what_was_not_seen() -> None:
    x = np.random.default_rng(0).integers(0, 2, (1, 50)).astype(np.float64)
    interval = difference(x, x)
    assert interval.estimate == 0
    assert interval.high == pytest.approx(-interval.low)
    assert 0 < interval.high < 3 / 50


def paired_table(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([1.0, 1.0, 0.0, 0.0], [both, first, second, neither])
    return a[None], np.repeat([1.0, 0.0, 1.0, 0.0], [both, first, second, neither])[None]


def test_paired_difference_is_the_published_one() -> None:
    # Two culture media for sputum (Armitage and Berry), whose interval by Newcombe's method 10 StatsDirect prints as
    # 0.056156 to 0.329207; without the correction of phi it is 0.0618 to 0.3242.
    interval = newcombe(*paired_table(20, 12, 2, 16))
    assert (interval.low, interval.high) == pytest.approx((0.056156, 0.329207), abs=1e-6)
    # Newcombe 1998, Statistics in Medicine 17, 2635: phi is negative, so nothing is corrected.
    interval = newcombe(*paired_table(36, 12, 2, 0))
    assert (interval.low, interval.high) == pytest.approx((0.0569, 0.3404), abs=1e-4)


def test_one_initial_state_leaves_the_training_seeds() -> None:
    """20 seeds that all succeed from the only state, against 20 that all fail: as many trials as seeds."""
    assert rate(np.ones((20, 1))).low == pytest.approx(wilson(20, 20).low)
    interval = difference(np.ones((20, 1)), np.zeros((20, 1)))
    assert (interval.low, interval.high) == pytest.approx((1 - 0.1611 * 2**0.5, 1.0), abs=1e-3)


def test_methods_with_other_numbers_of_training_seeds_are_compared() -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.integers(0, 2, (n, 20)).astype(np.float64) for n in (5, 3))
    for found in (difference(a, b), mean_difference(a, b)):
        assert found.estimate == pytest.approx(a.mean() - b.mean())
        assert found.low < found.estimate < found.high


SEEDS = {
    "all or nothing": (lambda g, n: (g.random(n) < 0.8).astype(float), 0.8),
    "nearly": (lambda g, n: np.where(g.random(n) < 0.8, 0.98, 0.02), 0.8 * 0.98 + 0.2 * 0.02),
    "skewed": (lambda g, n: g.beta(4, 1, n), 0.8),
    "two heaps": (lambda g, n: g.beta(0.8, 0.2, n), 0.8),
}


@pytest.mark.parametrize("count", [3, 5, 10])
@pytest.mark.parametrize("kind", SEEDS)
def test_intervals_cover_the_truth_where_training_fails_in_some_seeds(kind: str, count: int) -> None:
    """The seed is the unit, however many states each is tried from. The bootstrap only adds to this floor."""
    generator, covered, (draw, truth) = np.random.default_rng(0), 0, SEEDS[kind]
    for _ in range(400):
        rates = draw(generator, count)
        interval = over_seeds((generator.random((count, 50)) < rates[:, None]).astype(np.float64))
        covered += interval.low <= truth <= interval.high
    assert covered / 400 >= 0.85


def test_no_interval_of_a_rate_is_narrower_than_that_over_training_seeds() -> None:
    for good in range(6):
        x = np.repeat([[1.0], [0.0]], [good, 5 - good], axis=0).repeat(50, axis=1)
        floor, found = over_seeds(x), rate(x)
        assert found.low <= floor.low < floor.high <= found.high


def test_difference_is_antisymmetric() -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.integers(0, 2, (5, 20)).astype(np.float64) for _ in range(2))
    forth, back = difference(a, b), difference(b, a)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), abs=0.02)


def test_all_against_nothing_still_has_an_interval() -> None:
    """Newcombe's for 20 of 20 against 0 of 20, by hand: each Wilson half is 0.1611, the two at right angles."""
    interval = difference(np.ones((1, 20)), np.zeros((1, 20)))
    assert (interval.low, interval.high) == pytest.approx((1 - 0.1611 * 2**0.5, 1.0), abs=1e-3)


def outcomes(generator: np.random.Generator, *, of_seed: float, of_state: float, shape: tuple[int, int]) -> np.ndarray:
    """Success with training luck and state difficulty, each normal on the logit scale."""
    logit = of_seed * generator.normal(size=(shape[0], 1)) + of_state * generator.normal(size=(1, shape[1]))
    return (generator.random(shape) < 1 / (1 + np.exp(-logit.clip(-50, 50)))).astype(np.float64)


@pytest.mark.parametrize(("of_seed", "of_state"), [(0.0, 0.0), (1.0, 0.0), (0.0, 2.0), (1.0, 2.0), (0.0, 1e3)])
def test_intervals_cover_the_truth_when_seeds_or_states_carry_the_luck(of_seed: float, of_state: float) -> None:
    """True rate one half by symmetry; 200 draws of an honest 95 % interval stay above 88 % nearly always."""
    generator = np.random.default_rng(0)
    found = [rate(outcomes(generator, of_seed=of_seed, of_state=of_state, shape=(5, 20))) for _ in range(200)]
    assert np.mean([i.low <= 0.5 <= i.high for i in found]) >= 0.88


def test_difference_of_an_untrained_policy_covers_zero_when_nothing_differs() -> None:
    generator, covered = np.random.default_rng(0), 0
    for _ in range(200):
        both = outcomes(generator, of_seed=0.0, of_state=1.0, shape=(6, 20))
        interval = difference(both[:1], both[1:])
        covered += interval.low <= 0 <= interval.high
    assert covered / 200 >= 0.88


def test_table_pairs_an_untrained_arm_with_every_seed_of_a_trained_one() -> None:
    results = {"behaviour": [rollouts([0, 1, 0, 1])], "bc": [rollouts([1, 1, 1, 1]), rollouts([0, 1, 0, 1])]}
    rows = table(results, baselines=("bc",), trained={"behaviour": False, "bc": True})
    assert rows[0].versus["bc"].estimate == pytest.approx(-0.25)
    assert (rows[0].seeds, rows[1].seeds) == (0, 2)
    assert rows[1].success.estimate == pytest.approx(0.75)


def test_all_failures_over_seeds_still_have_an_interval() -> None:
    """Five trainings failed: that of the sixth is not known, however often the five were tried."""
    interval = rate(np.zeros((5, 20)))
    assert interval.low == 0
    assert interval.high == pytest.approx(wilson(0, 5).high)


def test_difference_of_returns_shifts_with_the_returns() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(100, 10, (4, 20)), generator.normal(100, 10, (4, 20))
    one, two = mean_difference(a, b), mean_difference(a + 50, b)
    assert (two.low, two.estimate, two.high) == pytest.approx((one.low + 50, one.estimate + 50, one.high + 50))
    assert one.low <= 0 <= one.high


def test_next_to_all_is_not_printed_as_all() -> None:
    assert Interval(0.999, 0.996, 1.0).percent() == "99.9 % [99.6, 100]"
    assert Interval(1e-17, 0.0, 0.0004).percent() == "0 % [0, 0.0]"
    assert Interval(0.5, 0.29, 0.71).percent() == "50 % [29, 71]"
