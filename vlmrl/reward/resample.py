"""Bootstrap over episodes: rows of one episode depend on each other, so whole episodes are drawn anew.

Every statistic of `quality_*` takes weights, how often each episode was drawn, and gives a value for each draw. The
first draw is the data as they are.
"""

import numpy as np
from jaxtyping import Float, Float64, Int64

from vlmrl.interval import LEVEL, Interval

DRAWS = 1_000


def weights(episodes: int, *, draws: int = DRAWS) -> Float64[np.ndarray, "D E"]:
    """How often each episode is drawn: once each in the first line, with replacement in the others."""
    drawn = np.random.default_rng(0).multinomial(episodes, np.full(episodes, 1 / episodes), size=draws)
    return np.concatenate([np.ones((1, episodes)), drawn])


def interval(values: Float[np.ndarray, " D"]) -> Interval:
    """The first value with the interval of the others; draws in which a statistic does not exist are left out."""
    drawn = values[1:][np.isfinite(values[1:])]
    if not len(drawn):
        return Interval(float(values[0]), float("nan"), float("nan"))
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(float(values[0]), float(low), float(high))


def sums(
    columns: Float[np.ndarray, "N K"], episode: Int64[np.ndarray, " N"], episodes: int
) -> Float64[np.ndarray, "E K"]:
    """Sum of each column over the rows of each episode: weights times these are the sums of a draw."""
    found = np.zeros((episodes, columns.shape[1]))
    np.add.at(found, episode, columns)
    return found


def ratio(numerator: Float[np.ndarray, " D"], denominator: Float[np.ndarray, " D"]) -> Float64[np.ndarray, " D"]:
    """Quotient by draw, NaN where the denominator is not positive."""
    positive = denominator > 0
    return np.where(positive, numerator / np.where(positive, denominator, 1), np.nan)
