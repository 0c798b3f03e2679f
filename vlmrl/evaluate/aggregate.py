"""One number for many tasks, from scores in runs × tasks (a run is a training seed), as rliable defines them.

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice". Intervals are those of the
stratified bootstrap: runs are drawn again within each task, tasks are kept. They say how the result would vary with
other training seeds on the same tasks, not with other tasks.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from vlmrl.interval import LEVEL, Interval

Scores = Float[np.ndarray, "*draws runs tasks"]
DRAWS = 10_000
_BLOCK = 1_000
"""Draws that are held in memory at once."""


def mean(scores: Scores) -> Float[np.ndarray, "*draws"]:
    """Mean over runs and tasks."""
    return np.asarray(scores.mean((-2, -1)))


def iqm(scores: Scores) -> Float[np.ndarray, "*draws"]:
    """Interquartile mean: of all runs of all tasks, the lowest and the highest quarter left out."""
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    return np.asarray(flat[..., cut : flat.shape[-1] - cut].mean(-1))


def optimality_gap(scores: Scores, *, wanted: float = 1.0) -> Float[np.ndarray, "*draws"]:
    """How far scores fall short of `wanted` on average; what exceeds it makes up for nothing."""
    return np.asarray(wanted - np.minimum(scores, wanted).mean((-2, -1)))


def probability_of_improvement(
    a: Float[np.ndarray, "*draws runs_a tasks"], b: Float[np.ndarray, "*draws runs_b tasks"]
) -> Float[np.ndarray, "*draws"]:
    """How likely a run of a beats a run of b, averaged over tasks; a tie is half a win (Mann–Whitney)."""
    n, m = a.shape[-2], b.shape[-2]
    ranks = rankdata(np.concatenate([a, b], axis=-2), axis=-2)[..., :n, :]
    return np.asarray(((ranks.sum(-2) - n * (n + 1) / 2) / (n * m)).mean(-1))


def profile(scores: Scores, thresholds: Float[np.ndarray, " t"]) -> Float[np.ndarray, "*draws t"]:
    """Share of all runs of all tasks that score above each threshold."""
    flat = scores.reshape(*scores.shape[:-2], 1, -1)
    return (flat > thresholds[:, None]).mean(-1)


def interval(
    function: Callable[..., Float[np.ndarray, " draws"]], *scores: Float[np.ndarray, "_ tasks"], draws: int = DRAWS
) -> Interval:
    """A number computed from one or several methods' scores, with its interval."""
    low, high = _ends(function, scores, draws)
    return Interval(float(function(*scores)), float(low), float(high))


def profile_band(
    scores: Float[np.ndarray, "runs tasks"], thresholds: Float[np.ndarray, " t"], *, draws: int = 2_000
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """The performance profile, and the lower and upper end of its pointwise interval."""
    low, high = _ends(lambda drawn: profile(drawn, thresholds), (scores,), draws)
    return profile(scores, thresholds), low, high


def _ends(
    function: Callable[..., Float[np.ndarray, "..."]], scores: tuple[Float[np.ndarray, "_ tasks"], ...], draws: int
) -> Float[np.ndarray, "2 ..."]:
    generator, found = np.random.default_rng(0), []
    for start in range(0, draws, _BLOCK):
        count = min(_BLOCK, draws - start)
        found.append(function(*(_drawn(x, count, generator) for x in scores)))
    tail = 100 * (1 - LEVEL) / 2
    return np.percentile(np.concatenate(found), [tail, 100 - tail], axis=0)


def _drawn(
    scores: Float[np.ndarray, "runs tasks"], draws: int, generator: np.random.Generator
) -> Float[np.ndarray, "draws runs tasks"]:
    rows = generator.integers(len(scores), size=(draws, *scores.shape))
    return np.take_along_axis(scores[None], rows, axis=1)
