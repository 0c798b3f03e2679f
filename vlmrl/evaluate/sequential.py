"""Intervals that hold at every number of episodes at once, so that an evaluation may stop as soon as it knows enough.

A Wilson interval that is looked at after each episode errs far more often than it says. Here a mixture martingale is
inverted (Robbins 1970; Howard et al. 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences"): for
outcomes in K categories with probabilities p, the Dirichlet(1/2, ..., 1/2) mixture of likelihoods divided by the
likelihood of p is a martingale of mean one, so by Ville's inequality it ever exceeds 1/α with probability at most α.
What it has not exceeded is a confidence set for p at all times; success rates (K = 2) and paired differences (K = 3:
better, worse, alike; the set is projected) are read off it.
"""

from collections.abc import Callable, Sequence
from math import log, sqrt
from typing import cast

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaln, xlogy

from vlmrl.interval import LEVEL, Interval


def rate(successes: int, trials: int, *, level: float = LEVEL) -> Interval:
    """Success rate, valid whenever one stops."""
    if not trials:
        return Interval(float("nan"), 0.0, 1.0)
    bound = _log_mixture([successes, trials - successes]) + log(1 - level)

    def excess(p: float) -> float:
        return bound - float(xlogy(successes, p) + xlogy(trials - successes, 1 - p))

    return _solved(excess, successes / trials, 0.0, 1.0)


def difference(better: int, worse: int, alike: int, *, level: float = LEVEL) -> Interval:
    """Rate of a minus rate of b from paired episodes, valid whenever one stops.

    `better`: a succeeded and b did not; `worse`: the other way round; `alike`: both did, or neither.
    """
    trials = better + worse + alike
    if not trials:
        return Interval(float("nan"), -1.0, 1.0)
    bound = _log_mixture([better, worse, alike]) + log(1 - level)

    def excess(gap: float) -> float:
        return bound - _profile_likelihood(better, worse, alike, gap)

    return _solved(excess, (better - worse) / trials, -1.0, 1.0)


def paired(a: Sequence[bool], b: Sequence[bool], *, level: float = LEVEL) -> Interval:
    """`difference` of two policies' outcomes from the same initial states."""
    x, y = np.asarray(a, np.bool_), np.asarray(b, np.bool_)
    return difference(int((x & ~y).sum()), int((~x & y).sum()), int((x == y).sum()), level=level)


def half_width(found: Interval) -> float:
    """The larger of the distances from the estimate to the ends."""
    return max(found.high - found.estimate, found.estimate - found.low)


def stop_at(count: int, interval_of: Callable[[int], Interval], margin: float, *, start: int = 1) -> int | None:
    """The first n of `start` to `count` at which the interval of n episodes reaches no farther than `margin`."""
    return next((n for n in range(start, count + 1) if half_width(interval_of(n)) <= margin), None)


def _log_mixture(counts: Sequence[int]) -> float:
    """Logarithm of the Dirichlet(1/2, ...) mixture of likelihoods of an ordered sequence with these counts."""
    c, half = np.asarray(counts, np.float64), 0.5 * len(counts)
    top = gammaln(c + 0.5).sum() - gammaln(0.5) * len(c)
    return float(top + gammaln(half) - gammaln(c.sum() + half))


def _profile_likelihood(better: int, worse: int, alike: int, gap: float) -> float:
    """Largest log-likelihood among probabilities with P(better) - P(worse) = gap; P(better) solves a quadratic."""
    n = better + worse + alike
    # Setting the derivative of b log p + w log(p - gap) + e log(1 - 2p + gap) to zero.
    square, linear = 2.0 * n, -(better * (1 + 3 * gap) + worse * (1 + gap) + 2 * alike * gap)
    free = better * gap * (1 + gap)
    low, high = max(0.0, gap), (1 + gap) / 2
    root = sqrt(max(0.0, linear**2 - 4 * square * free))
    candidates = [low, high, *(min(max((-linear + s * root) / (2 * square), low), high) for s in (1, -1))]
    return max(
        float(xlogy(better, p) + xlogy(worse, max(p - gap, 0.0)) + xlogy(alike, max(1 - 2 * p + gap, 0.0)))
        for p in candidates
    )


def _solved(excess: Callable[[float], float], estimate: float, low: float, high: float) -> Interval:
    """Where the martingale reaches its bound on either side of the estimate; `excess` is negative inside."""
    inside = min(max(estimate, low + 1e-12), high - 1e-12)
    below = low if excess(low + 1e-12) <= 0 else _root(excess, low + 1e-12, inside)
    above = high if excess(high - 1e-12) <= 0 else _root(excess, inside, high - 1e-12)
    return Interval(estimate, below, above)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return cast("float", brentq(function, low, high))
