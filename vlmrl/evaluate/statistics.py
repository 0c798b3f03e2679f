"""Intervals for success rates: Wilson for one rate, a hierarchical paired bootstrap for a difference.

Where policies are trained, the training seed is the unit and its episodes lie within it: resampling episodes alone
would call the luck of one training run a result.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval of level LEVEL."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def percent(self) -> str:
        """As percentages."""
        return f"{100 * self.estimate:.0f} % [{100 * self.low:.0f}, {100 * self.high:.0f}]"


def wilson(successes: int, trials: int) -> Interval:
    """Wilson score interval of a rate (Wilson 1927)."""
    found = binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return Interval(successes / trials, float(found.low), float(found.high))


def rate(success: Float[np.ndarray, "seeds episodes"], *, draws: int = 10_000) -> Interval:
    """Success rate of a method: a bootstrap over training seeds and episodes within them, never narrower than Wilson.

    Wilson over all episodes is what remains for one seed, and where all episodes end alike and resampling sees nothing.
    """
    pooled = wilson(int(success.sum()), success.size)
    if len(success) == 1:
        return pooled
    drawn = _bootstrap(success, draws=draws)
    return Interval(drawn.estimate, min(drawn.low, pooled.low), max(drawn.high, pooled.high))


def difference(
    a: Float[np.ndarray, "seeds episodes"], b: Float[np.ndarray, "seeds episodes"], *, draws: int = 10_000
) -> Interval:
    """Rate of a minus rate of b, paired: same training seeds in the rows, same initial states in the columns."""
    return _bootstrap(a - b, draws=draws)


def _bootstrap(x: Float[np.ndarray, "seeds episodes"], *, draws: int) -> Interval:
    generator = np.random.default_rng(0)
    seeds, episodes = x.shape
    means = np.empty(draws)
    for k in range(draws):
        rows = generator.integers(seeds, size=seeds) if seeds > 1 else np.zeros(1, np.int64)
        columns = generator.integers(episodes, size=(len(rows), episodes))
        means[k] = x[rows[:, None], columns].mean()
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(x.mean()), float(low), float(high))
