"""Answers about single episodes as reward columns: a number for each row that was asked about, others by a stated rule.

What is judged at row r is the reward of row r-1. An answer that could not be read, or is "unsure", gives no number. Of
several answers about a row the mean is taken, and their deviation is the column's.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64

from vlmrl.errors import DataError
from vlmrl.reward.success import conformal
from vlmrl.store import Store
from vlmrl.types import Frame, Item, Kind, Query, Reply, Verdict

Column = tuple[Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]]


@dataclass(frozen=True)
class Threshold:
    """From which probability on an episode counts as a success, and how that was found."""

    value: float
    rule: str
    right: int = 0
    """Of the episodes with a known outcome: how many are told rightly, each by the threshold of the others."""
    known: int = 0
    false_positives: int = 0
    failed: int = 0


def numbers(store: Store, queries: Sequence[Query], replies: Sequence[Reply | None]) -> Float64[np.ndarray, "N 3"]:
    """Return count, mean and deviation of the answers about each global row; NaN where there is none."""
    found: defaultdict[int, list[float]] = defaultdict(list)
    table = store.episodes
    for query, reply in zip(queries, replies, strict=True):
        for item, value in _said(query, reply):
            episode, row = _row(item)
            found[int(table.start[table.index(episode)]) + row].append(value)
    whole = np.full((len(store), 3), np.nan)
    for row, values in found.items():
        whole[row] = len(values), float(np.mean(values)), float(np.std(values))
    return whole


def column(store: Store, values: Float64[np.ndarray, "N 3"], *, fill: str) -> Column:
    """Bring numbers of rows to the rewards of the rows before them.

    With `linear` the rows between two numbers of an episode are interpolated, those before the first and behind the
    last hold it; with `none` they are NaN.

    Raises:
        DataError: if there is no number at all.
    """
    if not np.isfinite(values[:, 1]).any():
        raise DataError("no answer could be read as a number: there is nothing to write")
    table, has_next = store.episodes, store.column("has_next")
    out = np.full((len(store), 2), np.nan)
    for start, stop in zip(table.start.tolist(), table.stop.tolist(), strict=True):
        own = values[start:stop, 1:]
        rows = np.flatnonzero(np.isfinite(own[:, 0]))
        if len(rows) and fill == "linear":
            at = np.arange(stop - start)
            own = np.stack([np.interp(at, rows, own[rows, k]) for k in range(2)], axis=1)
        out[start : stop - 1] = own[1:]
    out[~has_next] = np.nan
    return out[:, 0].astype(np.float32), out[:, 1].astype(np.float32)


def last_values(store: Store, values: Float64[np.ndarray, "N 3"]) -> Float64[np.ndarray, " E"]:
    """Return the number of each episode's last row that has one, NaN where none has."""
    table = store.episodes
    own = [values[a:b, 1][np.isfinite(values[a:b, 1])] for a, b in zip(table.start, table.stop, strict=True)]
    return np.array([v[-1] if len(v) else np.nan for v in own])


def calibrated(store: Store, values: Float64[np.ndarray, "N 3"], *, false_positives: float | None) -> Threshold:
    """Return the threshold of success, from the episodes whose outcome is known.

    With `false_positives` it is the split-conformal quantile of the highest number of each failed episode, which bounds
    the chance that a new failed episode is ever rewarded. Without, that which tells the last pictures of both kinds
    apart best (the highest balanced accuracy, in the middle of the gap). Where one kind is missing: one half.

    Raises:
        DataError: if there are too few failed episodes for the bound.
    """
    outcome, last = store.episodes.success, last_values(store, values)
    known = np.isin(outcome, (0, 1)) & np.isfinite(last)
    p, won = last[known], outcome[known] == 1
    if false_positives is not None:
        table = store.episodes
        peaks = [np.nanmax(values[a:b, 1], initial=-np.inf) for a, b in zip(table.start, table.stop, strict=True)]
        highest = np.array(peaks)[outcome == 0]
        value = conformal(highest[np.isfinite(highest)], false_positives)
        rule = f"split-conformal: at most {100 * false_positives:g} % of failed episodes are ever rewarded"
        return Threshold(value, rule, int(((p > value) == won).sum()), len(p), int((p[~won] > value).sum()), _no(won))
    if won.all() or not won.any():
        return Threshold(0.5, "not calibrated: no episodes of both known outcomes")
    others = [_best(np.delete(p, i), np.delete(won, i)) for i in range(len(p))]
    named = p > np.array(others)
    rule = "highest balanced accuracy on the last pictures; counts by leaving one episode out"
    return Threshold(_best(p, won), rule, int((named == won).sum()), len(p), int((named & ~won).sum()), _no(won))


def _best(p: Float64[np.ndarray, " n"], won: Bool[np.ndarray, " n"]) -> float:
    if won.all() or not won.any():
        return 0.5
    levels = np.unique(p)
    cuts = np.concatenate([[levels[0] - 1e-6], (levels[1:] + levels[:-1]) / 2, [levels[-1]]])
    balance = [((p[won] > c).mean() + (p[~won] <= c).mean()) / 2 for c in cuts]
    best = np.flatnonzero(np.isclose(balance, max(balance)))
    return float(cuts[best[len(best) // 2]])


def _no(won: Bool[np.ndarray, " n"]) -> int:
    return int((~won).sum())


def _said(query: Query, reply: Reply | None) -> list[tuple[Item, float]]:
    if reply is None or reply.answer is None or isinstance(reply.answer, Verdict):
        return []
    if query.kind is Kind.PROGRESS:
        assert isinstance(reply.answer, tuple)
        # The question tells that nothing is done in the first.
        return list(zip(query.items, (0.0, *reply.answer), strict=True))
    if isinstance(reply.answer, bool):
        return [(query.items[0], float(reply.answer) if reply.probability is None else reply.probability)]
    assert isinstance(reply.answer, float)
    return [(query.items[0], reply.answer)]


def _row(item: Item) -> tuple[str, int]:
    return (item.episode, item.row) if isinstance(item, Frame) else (item[-1].episode, item[-1].stop - 1)
