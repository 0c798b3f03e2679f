"""Where a reward is wrong: how much more it gives to a part of the data than the truth does.

Reward and truth are both standardised over all judged rows. Over-reward is the mean of their difference over the rows
of a slice: 0 where the reward is as generous as the truth, +0.5 where it places these rows half a deviation too high.
An arbitrary unit and offset fall out.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vlmrl.interval import Interval
from vlmrl.reward.quality_ranking import pearson, standardised
from vlmrl.reward.resample import interval, ratio, sums
from vlmrl.store import Store

SOURCES = 8
"""Most that are told apart."""

OUTCOMES = {0: "failed episodes", 1: "succeeded episodes", -1: "episodes of unknown outcome"}
THIRDS = ("first third of the episode", "middle third", "last third")


@dataclass(frozen=True)
class Slice:
    """What a reward does on a part of the rows."""

    name: str
    episodes: int
    rows: int
    level: float
    """Mean reward, in deviations from the mean of all rows."""
    std: float
    """Mean disagreement of the members."""
    over_reward: Interval | None
    """Deviations above the truth's level; None where no truth is known."""
    correlation: Interval | None
    """With the truth, inside the slice."""

    def as_json(self) -> dict[str, Any]:
        """For `quality.json`."""
        return asdict(self)


def slices(
    store: Store,
    row: Int64[np.ndarray, " N"],
    reward: Float64[np.ndarray, " N"],
    truth: Float64[np.ndarray, " N"] | None,
    draws: Float64[np.ndarray, "D E"],
    *,
    std: Float64[np.ndarray, " N"],
) -> tuple[Slice, ...]:
    """Failed episodes first, then the other outcomes, thirds of the time, and sources."""
    episode, given = store.episodes.of_row(row), standardised(reward)
    due = None if truth is None else standardised(truth)
    found: list[Slice] = []
    for name, mask in _masks(store, row, episode):
        if mask.any():
            owner = episode[mask]
            excess = None if due is None else _excess(given[mask] - due[mask], owner, draws)
            inside = None if due is None else interval(pearson(given[mask], due[mask], owner, draws))
            level, doubt = float(given[mask].mean()), float(std[mask].mean())
            found.append(Slice(name, len(np.unique(owner)), int(mask.sum()), level, doubt, excess, inside))
    return tuple(found)


def _excess(gap: Float64[np.ndarray, " n"], episode: Int64[np.ndarray, " n"], draws: np.ndarray) -> Interval:
    total = draws @ sums(np.stack([gap, np.ones(len(gap))], 1), episode, draws.shape[1])
    return interval(ratio(total[:, 0], total[:, 1]))


def _masks(
    store: Store, row: Int64[np.ndarray, " N"], episode: Int64[np.ndarray, " N"]
) -> Iterator[tuple[str, Bool[np.ndarray, " N"]]]:
    table = store.episodes
    outcomes = table.success[episode]
    if (table.success >= 0).any():
        for outcome, name in OUTCOMES.items():
            yield name, outcomes == outcome
    third = np.minimum(3 * (row - table.start[episode]) // np.maximum(table.length[episode] - 1, 1), 2)
    for k, name in enumerate(THIRDS):
        yield name, third == k
    sources, counts = np.unique(np.array(table.source, dtype=np.str_), return_counts=True)
    if len(sources) > 1:
        own = np.array(table.source, dtype=np.str_)[episode]
        for source in np.sort(sources[np.argsort(-counts, kind="stable")[:SOURCES]]):
            yield str(source), own == source
