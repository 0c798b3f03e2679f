"""Intervals for success rates and their differences.

All training seeds of a method are rolled out from the same initial states: a crossed design. A luck of one training run
hits a whole row of outcomes and a hard initial state a whole column, so both are resampled, each column for all rows at
once (two-way bootstrap, Owen 2007); resampling single episodes would call either luck a result.

Resampling sees no luck that did not strike, so no interval is narrower than two that need none: a score interval over
the initial states, and one over the training seeds alone. The latter is Student's of the seeds' rates; but where every
seed is all or nothing, a seed is one trial and the interval is Wilson's: five seeds that all succeed leave room for
one in three that never would. What neither sees: a rare failing seed among several that none was like.
"""

from math import sqrt

import numpy as np
from jaxtyping import Float, Float64
from scipy.stats import t as student

from vlmrl.interval import LEVEL, Interval, wider, wilson

ALL_OR_NOTHING = 0.1
"""A training seed whose rate is as close as this to 0 or 1 counts as one trial that failed or succeeded."""


def rate(success: Float[np.ndarray, "seeds episodes"]) -> Interval:
    """Success rate of a method: Wilson for one training seed, else the two-way bootstrap, never narrower than both
    Wilson's over initial states and the interval over training seeds.
    """
    floors = _floors(success)
    return floors[0] if len(success) == 1 else _widest(_bootstrap(success), floors)


def difference(a: Float[np.ndarray, "_ episodes"], b: Float[np.ndarray, "_ episodes"]) -> Interval:
    """Rate of a minus rate of b, paired: same initial states in the columns.

    As many rows in both: paired by training seed too, else drawn independently (one row is a policy without training
    seeds). Never narrower than Newcombe's paired interval (1998, method 10) over the initial states, nor than the same
    over the training seeds.
    """
    a, b = _alike(a, b)
    floors = []
    if a.shape[1] > 1 or len(a) == len(b) == 1:
        floors.append(newcombe(a, b))
    if max(len(a), len(b)) > 1:
        x, y = a.mean(1), b.mean(1)
        phi = _correlation(x, y, trials=len(x)) if len(x) == len(y) else 0.0
        floors.append(_minus(over_seeds(a), over_seeds(b), phi))
    return _widest(_resampled(a, b), floors)


def newcombe(a: Float[np.ndarray, "_ episodes"], b: Float[np.ndarray, "_ episodes"]) -> Interval:
    """Newcombe's paired interval of a difference (1998, method 10) with the number of initial states as n."""
    return _minus(_over_states(a), _over_states(b), _correlation(*_rows(a, b), trials=a.shape[1]))


def mean_difference(a: Float[np.ndarray, "_ episodes"], b: Float[np.ndarray, "_ episodes"]) -> Interval:
    """Mean of a minus mean of b for numbers that are no rates, such as returns: the two-way bootstrap, paired."""
    return _resampled(a, b)


def _resampled(a: Float[np.ndarray, "_ episodes"], b: Float[np.ndarray, "_ episodes"]) -> Interval:
    if len(a) == len(b) or min(len(a), len(b)) == 1:
        return _bootstrap(np.subtract(*np.broadcast_arrays(a, b)))
    generator = np.random.default_rng(0)
    columns = _weights(generator, a.shape[1])
    means = [np.einsum("ds,se,de->d", _weights(generator, len(x)), x, columns, optimize=True) for x in (a, b)]
    return _percentiles(float(a.mean() - b.mean()), means[0] - means[1])


def _bootstrap(x: Float[np.ndarray, "seeds episodes"]) -> Interval:
    generator = np.random.default_rng(0)
    rows, columns = (_weights(generator, n) for n in x.shape)
    return _percentiles(float(x.mean()), np.einsum("ds,se,de->d", rows, x, columns, optimize=True))


def _weights(generator: np.random.Generator, count: int, *, draws: int = 10_000) -> Float64[np.ndarray, "draws count"]:
    return generator.multinomial(count, np.full(count, 1 / count), size=draws) / count


def _percentiles(estimate: float, means: Float64[np.ndarray, " draws"]) -> Interval:
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(estimate, float(low), float(high))


def _floors(x: Float[np.ndarray, "seeds episodes"]) -> list[Interval]:
    """What no interval of a rate is narrower than; a single state says nothing about others."""
    over_states = [_over_states(x)] if x.shape[1] > 1 or len(x) == 1 else []
    return [*over_states, *([over_seeds(x)] if len(x) > 1 else [])]


def _widest(found: Interval, floors: list[Interval]) -> Interval:
    for floor in floors:
        found = wider(found, floor)
    return found


def _over_states(x: Float[np.ndarray, "seeds episodes"]) -> Interval:
    """Wilson with the number of initial states as n: what is left if outcomes depended on them alone."""
    return wilson(float(x.mean()) * x.shape[1], x.shape[1])


def over_seeds(x: Float[np.ndarray, "seeds episodes"]) -> Interval:
    """What is left if outcomes depended on the training seed alone; with one row, nothing."""
    means, count = x.mean(1), len(x)
    estimate = float(means.mean())
    if count == 1:
        return Interval(estimate, estimate, estimate)
    if (np.minimum(means, 1 - means) <= ALL_OR_NOTHING).all():
        return wilson(estimate * count, count)
    reach = float(student.ppf((1 + LEVEL) / 2, count - 1)) * float(means.std(ddof=1)) / sqrt(count)
    return Interval(estimate, max(0.0, estimate - reach), min(1.0, estimate + reach))


def _minus(x: Interval, y: Interval, phi: float) -> Interval:
    """Newcombe's interval of a difference from those of two rates and their correlation."""

    def reach(p: float, q: float) -> float:
        return sqrt(max(0.0, p**2 - 2 * phi * p * q + q**2))

    gap = x.estimate - y.estimate
    below = reach(x.estimate - x.low, y.high - y.estimate)
    above = reach(x.high - x.estimate, y.estimate - y.low)
    return Interval(gap, max(-1.0, gap - below), min(1.0, gap + above))


def _alike(a: Float[np.ndarray, "_ _"], b: Float[np.ndarray, "_ _"]) -> tuple[np.ndarray, np.ndarray]:
    """A policy without chance has one episode of a fixed start, which stands against each of the other's."""
    columns = max(a.shape[1], b.shape[1])
    return np.broadcast_to(a, (len(a), columns)), np.broadcast_to(b, (len(b), columns))


def _rows(a: Float[np.ndarray, "_ episodes"], b: Float[np.ndarray, "_ episodes"]) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes pair by pair: by row where there are as many, else every row of a with every row of b."""
    if len(a) == len(b):
        return a.ravel(), b.ravel()
    return np.repeat(a, len(b), axis=0).ravel(), np.tile(b, (len(a), 1)).ravel()


def _correlation(x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"], *, trials: int) -> float:
    """Correlation, corrected for continuity where it is positive: ad - bc less half the number of trials."""
    p, q = float(x.mean()), float(y.mean())
    scale = p * (1 - p) * q * (1 - q)
    if scale <= 0:
        return 0.0
    covariance = float((x * y).mean()) - p * q
    return (max(0.0, covariance - 0.5 / trials) if covariance > 0 else covariance) / sqrt(scale)
