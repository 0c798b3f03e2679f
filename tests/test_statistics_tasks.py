"""Numbers over tasks against rliable, intervals that may be looked at at any time, and how many episodes are needed."""

from functools import cache

import numpy as np
import pytest

from vlmrl.errors import ConfigError
from vlmrl.evaluate import aggregate, power, sequential
from vlmrl.evaluate.statistics import difference
from vlmrl.interval import wilson


@pytest.fixture
def scores() -> tuple[np.ndarray, np.ndarray]:
    """Two methods, five and seven runs of four tasks, with ties between and within them."""
    generator = np.random.default_rng(3)
    return generator.random((5, 4)).round(1) + 0.2, generator.random((7, 4)).round(1)


def test_definitions_are_those_of_rliable(scores: tuple[np.ndarray, np.ndarray]) -> None:
    metrics = pytest.importorskip("rliable.metrics")
    a, b = scores
    assert aggregate.mean(a) == pytest.approx(metrics.aggregate_mean(a))
    assert aggregate.iqm(a) == pytest.approx(metrics.aggregate_iqm(a))
    assert aggregate.optimality_gap(a) == pytest.approx(metrics.aggregate_optimality_gap(a))
    assert aggregate.probability_of_improvement(a, b) == pytest.approx(metrics.probability_of_improvement(a, b))
    assert aggregate.probability_of_improvement(a, a) == pytest.approx(0.5)


@pytest.mark.slow
def test_bootstrap_intervals_and_profiles_are_those_of_rliable(scores: tuple[np.ndarray, np.ndarray]) -> None:
    """Both draw at random: the ends agree within the error of a thousand draws."""
    library, metrics = pytest.importorskip("rliable.library"), pytest.importorskip("rliable.metrics")
    a, b = scores
    for ours, theirs in (
        (aggregate.iqm, metrics.aggregate_iqm),
        (aggregate.optimality_gap, metrics.aggregate_optimality_gap),
    ):
        _, ends = library.get_interval_estimates({"a": a}, lambda x, f=theirs: np.array([f(x)]), reps=1000)
        found = aggregate.interval(ours, a)
        assert [found.low, found.high] == pytest.approx(ends["a"].ravel(), abs=0.02)
    _, ends = library.get_interval_estimates(
        {"ab": [a, b]}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=500
    )
    found = aggregate.interval(aggregate.probability_of_improvement, a, b)
    assert [found.low, found.high] == pytest.approx(ends["ab"].ravel(), abs=0.03)
    thresholds = np.linspace(0, 1.2, 7)
    profiles, bands = library.create_performance_profile({"a": a}, thresholds, reps=1000)
    middle, low, high = aggregate.profile_band(a, thresholds)
    np.testing.assert_allclose(middle, profiles["a"])
    np.testing.assert_allclose([low, high], bands["a"], atol=0.051)  # a step is one run of twenty


def test_interquartile_mean_by_hand() -> None:
    assert aggregate.iqm(np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 100.0]])) == pytest.approx(3.5)


def test_stratified_bootstrap_keeps_tasks_apart() -> None:
    """Runs agree within each task, so nothing can vary, however different the tasks are."""
    found = aggregate.interval(aggregate.mean, np.tile([0.1, 0.9], (6, 1)))
    assert (found.low, found.estimate, found.high) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(("interval", "least", "most"), [(sequential.rate, 0.0, 0.05), (wilson, 0.1, 1.0)])
def test_an_interval_that_is_looked_at_again_and_again_holds_and_wilsons_does_not(interval, least, most) -> None:
    """Share of 300 evaluations of 120 episodes whose interval misses the truth at any of 15 looks."""
    truth, looks = 0.7, range(8, 121, 8)
    known = cache(interval)
    outcomes = np.random.default_rng(0).random((300, 120)) < truth
    counts = np.cumsum(outcomes, axis=1).tolist()
    missed = [any(not known(k[n - 1], n).low <= truth <= known(k[n - 1], n).high for n in looks) for k in counts]
    assert least <= np.mean(missed) <= most


def test_a_sequential_difference_holds_at_the_moment_one_stops() -> None:
    """Stop as soon as one policy seems better: with equal policies that is wrong in at most one run of twenty."""
    generator, wrong, paths, known = np.random.default_rng(1), 0, 100, cache(sequential.difference)
    for _ in range(paths):
        hard = generator.random(100) * 0.8
        a, b = (generator.random(100) > hard for _ in range(2))
        for n in range(20, 101, 20):
            better, worse = int((a & ~b)[:n].sum()), int((~a & b)[:n].sum())
            found = known(better, worse, n - better - worse)
            if found.low > 0 or found.high < 0:
                wrong += 1
                break
    assert wrong / paths <= 0.05


def test_a_sequential_difference_maximises_over_what_it_does_not_ask() -> None:
    """The closed form against a search over the rate of episodes in which the first is better."""
    for better, worse, alike, gap in (
        (5, 2, 13, 0.1),
        (0, 3, 9, 0.2),
        (4, 0, 0, -0.3),
        (7, 7, 7, -0.9),
        (3, 1, 0, 0.0),
    ):
        p = np.linspace(max(0, gap), (1 + gap) / 2, 40_001)[1:-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = zip((better, worse, alike), (p, p - gap, 1 - 2 * p + gap), strict=True)
            searched = sum(count * np.log(np.maximum(x, 1e-300)) if count else 0 * x for count, x in parts).max()
        assert sequential._profile_likelihood(better, worse, alike, gap) == pytest.approx(searched, abs=1e-3)


def test_paired_outcomes_are_counted_by_who_was_better() -> None:
    found = sequential.paired([True, True, True, False], [True, False, False, True])
    assert found == sequential.difference(2, 1, 1)


def test_sequential_intervals_are_symmetric_and_pay_for_their_freedom() -> None:
    one, other = sequential.rate(12, 40), sequential.rate(28, 40)
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low))
    forth, back = sequential.difference(9, 2, 30), sequential.difference(2, 9, 30)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))
    fixed = wilson(12, 40)
    assert one.low < fixed.low < fixed.high < one.high


def test_stopping_is_decided_by_the_first_narrow_interval() -> None:
    outcomes = [True] * 200
    found = sequential.stop_at(200, lambda n: sequential.rate(sum(outcomes[:n]), n), 0.1)
    assert found == power.sequentially(1.0, 0.1)
    assert sequential.stop_at(10, lambda n: sequential.rate(n, n), 0.1) is None


def test_required_numbers_are_the_smallest_that_are_enough() -> None:
    for rate, margin in ((0.8, 0.05), (0.5, 0.1), (1.0, 0.05)):
        n = power.for_margin(rate, margin)
        reach = [max(i.high - rate, rate - i.low) for i in (wilson(rate * k, k) for k in (n - 1, n))]
        assert reach[0] > margin >= reach[1]


def test_required_number_for_a_difference_finds_it_as_often_as_asked() -> None:
    """McNemar's test simulated at the number that the formula gives, with and without shared difficulty."""
    generator = np.random.default_rng(0)
    for correlation in (0.0, 0.4):
        n = power.for_difference(0.8, 0.6, power=0.8, correlation=correlation)
        both = 0.8 * 0.6 + correlation * np.sqrt(0.8 * 0.2 * 0.6 * 0.4)
        counts = generator.multinomial(n, [0.8 - both, 0.6 - both, 1 - 1.4 + 2 * both], size=4000)
        better, worse = counts[:, 0], counts[:, 1]
        found = np.abs(better - worse) > 1.96 * np.sqrt(np.maximum(better + worse, 1e-9))
        assert found.mean() == pytest.approx(0.8, abs=0.05)
    assert power.for_difference(0.8, 0.6, correlation=0.4) < power.for_difference(0.8, 0.6)


@pytest.mark.slow
def test_our_paired_interval_needs_about_the_number_that_the_formula_gives() -> None:
    generator, n, found = np.random.default_rng(0), power.for_difference(0.8, 0.6, power=0.8), 0
    for _ in range(40):
        a, b = ((generator.random((1, n)) < p).astype(np.float64) for p in (0.8, 0.6))
        found += difference(a, b).low > 0
    assert 0.6 <= found / 40 <= 0.98


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power.for_margin(1.2, 0.1), "rate from 0 to 1"),
        (lambda: power.for_difference(0.5, 0.5), "two different rates"),
        (lambda: power.for_difference(0.9, 0.1, correlation=0.9), "cannot have a correlation"),
        (lambda: power.for_margin(0.5, 1e-4), "episodes would be needed"),
    ],
)
def test_nonsense_is_refused(call, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
