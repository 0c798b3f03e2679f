"""Intervals for success rates and their differences.

All training seeds of a method are rolled out from the same initial states: a crossed design. A luck of one training run
hits a whole row of outcomes and a hard initial state a whole column, so both are resampled, each column for all rows at
once (two-way bootstrap, Owen 2007); resampling single episodes would call either luck a result. Where resampling sees
nothing, because all episodes end alike, a score interval over the initial states remains: no interval is narrower.
"""

from math import sqrt

import numpy as np
from jaxtyping import Float, Float64

from vlmrl.interval import LEVEL, Interval, wider, wilson


def rate(success: Float[np.ndarray, "seeds episodes"]) -> Interval:
    """Success rate of a method: Wilson for one training seed, else the two-way bootstrap."""
    floor = _score(success)
    return floor if len(success) == 1 else wider(_bootstrap(success), floor)


def difference(a: Float[np.ndarray, "_ episodes"], b: Float[np.ndarray, "_ episodes"]) -> Interval:
    """Rate of a minus rate of b, paired: same training seeds in the rows, same initial states in the columns.

    One row stands against every row of the other (a policy without training seeds). Never narrower than Newcombe's
    paired interval (1998, method 10) over the initial states.
    """
    a, b = np.broadcast_arrays(a, b)
    return wider(_bootstrap(a - b), _newcombe(a, b))


def mean_difference(a: Float[np.ndarray, "_ episodes"], b: Float[np.ndarray, "_ episodes"]) -> Interval:
    """Mean of a minus mean of b for numbers that are no rates, such as returns: the two-way bootstrap, paired."""
    return _bootstrap(np.subtract(*np.broadcast_arrays(a, b)))


def _bootstrap(x: Float[np.ndarray, "seeds episodes"], *, draws: int = 10_000) -> Interval:
    generator = np.random.default_rng(0)
    rows, columns = (generator.multinomial(n, np.full(n, 1 / n), size=draws) / n for n in x.shape)
    means = np.einsum("ds,se,de->d", rows, x, columns, optimize=True)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(x.mean()), float(low), float(high))


def _score(x: Float[np.ndarray, "seeds episodes"]) -> Interval:
    """Wilson with the number of initial states as n: what is left if outcomes depended on them alone."""
    return wilson(float(x.mean()) * x.shape[1], x.shape[1])


def _newcombe(a: Float[np.ndarray, "seeds episodes"], b: Float[np.ndarray, "seeds episodes"]) -> Interval:
    x, y = _score(a), _score(b)
    phi = _correlation(a.ravel(), b.ravel())

    def reach(p: float, q: float) -> float:
        return sqrt(max(0.0, p**2 - 2 * phi * p * q + q**2))

    gap = x.estimate - y.estimate
    below = reach(x.estimate - x.low, y.high - y.estimate)
    above = reach(x.high - x.estimate, y.estimate - y.low)
    return Interval(gap, max(-1.0, gap - below), min(1.0, gap + above))


def _correlation(x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"]) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else 0.0
