"""Agreement beyond chance: Cohen's kappa of two annotators and Krippendorff's alpha of any number, with intervals.

Both are functions of sums over pairs, so an interval weighs the pairs anew: by how often the episodes that they show
are drawn (bootstrap over episodes, as pairs of one episode depend on each other). Categories are nominal.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from vlmrl.interval import LEVEL
from vlmrl.types import Item, Verdict

CATEGORIES = (Verdict.A_BETTER, Verdict.B_BETTER, Verdict.TIE)
"""What annotators can agree on; unsure is no judgement and counts as missing."""

DRAWS = 1_000
_CHUNK = 4_000_000
"""Weights held at a time."""


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval of level LEVEL."""

    value: float
    """NaN where it is not defined."""
    low: float
    high: float
    pairs: int

    def as_json(self) -> dict[str, Any]:
        """Return the figures; null for what is not defined."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in vars(self).items()}

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"- (n {self.pairs})"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}] (n {self.pairs})"


def kappa(x: Sequence[Verdict | None], y: Sequence[Verdict | None], episodes: Sequence[frozenset[str]]) -> Estimate:
    """Cohen's kappa (1960) over the pairs that both judged; `episodes` are those that each pair shows."""
    both = [i for i, (a, b) in enumerate(zip(x, y, strict=True)) if a in CATEGORIES and b in CATEGORIES]
    table = np.zeros((len(both), 3, 3))
    for row, i in enumerate(both):
        table[row, _place(x[i]), _place(y[i])] = 1
    return estimate(table, [episodes[i] for i in both], _kappa)


def alpha(judgements: Sequence[Sequence[Verdict | None]], episodes: Sequence[frozenset[str]]) -> Estimate:
    """Krippendorff's alpha (2011) of nominal data over pairs that two or more judged; None is missing.

    `judgements` holds what was said about each pair, whoever said it.
    """
    kept, tables = list[int](), list[Float64[np.ndarray, "3 3"]]()
    for i, said in enumerate(judgements):
        counts = np.array([sum(v is c for v in said) for c in CATEGORIES], np.float64)
        if counts.sum() >= 2:
            kept.append(i)
            tables.append((np.outer(counts, counts) - np.diag(counts)) / (counts.sum() - 1))
    return estimate(np.array(tables).reshape(-1, 3, 3), [episodes[i] for i in kept], _alpha)


def share(values: Sequence[float] | Sequence[bool], episodes: Sequence[frozenset[str]]) -> Estimate:
    """A mean, of truths a share, with its interval over episodes."""
    table = np.stack([np.array(values, np.float64), np.ones(len(values))], axis=1)[:, None]
    return estimate(table, episodes, lambda t: divided(t[:, 0, 0], t[:, 0, 1]))


def estimate(
    table: Float64[np.ndarray, "Q R C"],
    episodes: Sequence[frozenset[str]],
    statistic: Callable[[Float64[np.ndarray, "D R C"]], Float64[np.ndarray, " D"]],
) -> Estimate:
    """A statistic of the sum of the pairs' tables, with its interval over episodes."""
    nothing = Estimate(math.nan, math.nan, math.nan, len(table))
    if not len(table):
        return nothing
    value = float(statistic(table.sum(0, keepdims=True))[0])
    if math.isnan(value):
        return nothing
    flat, found = table.reshape(len(table), -1), list[Float64[np.ndarray, " _"]]()
    for weights in _weights(episodes):
        found.append(statistic((weights @ flat).reshape(-1, *table.shape[1:])))
    drawn = np.concatenate(found)
    drawn = drawn[~np.isnan(drawn)]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (math.nan, math.nan)
    return Estimate(value, float(low), float(high), len(table))


def _weights(episodes: Sequence[frozenset[str]]) -> Any:
    """Yield weights of the pairs, some draws at a time: the product of how often each shown episode was drawn."""
    names = {name: i for i, name in enumerate(sorted(frozenset[str]().union(*episodes)))}
    places, spare = _padded([[names[e] for e in sorted(shown)] for shown in episodes], len(names))
    generator, at_once = np.random.default_rng(0), max(1, _CHUNK // max(1, places.size))
    for start in range(0, DRAWS, at_once):
        size = min(at_once, DRAWS - start)
        times = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=size)
        times = np.concatenate([times, np.ones((size, 1), times.dtype)], axis=1)
        assert times.shape[1] == spare + 1
        yield times[:, places].prod(2).astype(np.float64)


def _padded(places: Sequence[Sequence[int]], spare: int) -> tuple[Int64[np.ndarray, "Q K"], int]:
    """Rows of equal length; what is missing points to the place `spare`, whose weight is one."""
    widest = max((len(row) for row in places), default=0)
    rows = [[*row, *[spare] * (widest - len(row))] for row in places]
    return np.array(rows, np.int64).reshape(len(places), widest), spare


def _kappa(table: Float64[np.ndarray, "D R C"]) -> Float64[np.ndarray, " D"]:
    total = table.sum((1, 2))
    observed = divided(np.trace(table, axis1=1, axis2=2), total)
    expected = divided((table.sum(1) * table.sum(2)).sum(1), total**2)
    return divided(observed - expected, 1 - expected)


def _alpha(table: Float64[np.ndarray, "D R C"]) -> Float64[np.ndarray, " D"]:
    each = table.sum(2)
    total = each.sum(1)
    apart = total - np.trace(table, axis1=1, axis2=2)
    expected = divided(total**2 - (each**2).sum(1), total - 1)
    return 1 - divided(apart, expected)


def divided(a: Float64[np.ndarray, " D"], b: Float64[np.ndarray, " D"]) -> Float64[np.ndarray, " D"]:
    """Return a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.abs(b) > 1e-12)


def _place(verdict: Verdict | None) -> int:
    assert verdict is not None
    return CATEGORIES.index(verdict)


def shown_episodes(items: Sequence[Item]) -> frozenset[str]:
    """Return the episodes that a pair shows."""
    return frozenset(p.episode for item in items for p in (item if isinstance(item, tuple) else (item,)))
