"""How well a reward predicts labelled pairs that it was not trained on: accuracy, log-loss, calibration.

A pair belongs to two episodes: in a draw of episodes it counts as often as both of its sides together (the product, as
Owen 2007 weights crossed data), so a lucky episode hits all of its pairs at once.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from vlmrl.reward.resample import ratio
from vlmrl.store import Store
from vlmrl.types import Frame, Item, Preferences

BINS = 10
"""Of confidence between one half and 1."""


@dataclass(frozen=True)
class Scored:
    """Labelled pairs with a reward's opinion."""

    difference: Float64[np.ndarray, " Q"]
    """Reward of a minus reward of b; NaN where a side was never judged."""
    p_a: Float64[np.ndarray, " Q"]
    """The label: probability that a is better, one half for a tie."""
    a: Int64[np.ndarray, " Q"]
    """Place of the episode of side a; of the first where it has several."""
    b: Int64[np.ndarray, " Q"]

    def __len__(self) -> int:
        return len(self.difference)

    def take(self, which: np.ndarray) -> "Scored":
        """Some of the pairs, by place or by mask."""
        return Scored(self.difference[which], self.p_a[which], self.a[which], self.b[which])

    @property
    def judged(self) -> "Scored":
        """The pairs of which both sides have a reward."""
        return self.take(np.isfinite(self.difference))

    @property
    def clear(self) -> "Scored":
        """The judged pairs that are no ties."""
        return self.take(np.isfinite(self.difference) & (self.p_a != 0.5))

    def weights(self, episodes: Float64[np.ndarray, "D E"]) -> Float64[np.ndarray, "D Q"]:
        """How often each pair counts in each draw of episodes."""
        both = episodes[:, self.a] * episodes[:, self.b]
        return np.where(self.a == self.b, episodes[:, self.a], both)


def scored(store: Store, mean: Float32[np.ndarray, " N"], labels: Preferences) -> Scored:
    """The opinion of a reward column on labelled pairs.

    A picture of row r is worth the reward that was judged on it, that of row r-1: the first picture of an episode never
    was. A clip is worth the sum over the transitions that start in its rows.
    """
    sides = [np.array([_worth(store, mean, item) for item in items], np.float64) for items in (labels.a, labels.b)]
    places = [np.array([_episode(store, item) for item in items], np.int64) for items in (labels.a, labels.b)]
    return Scored(sides[0] - sides[1], labels.p_a.astype(np.float64), places[0], places[1])


def accuracy(pairs: Scored, episodes: Float64[np.ndarray, "D E"]) -> Float64[np.ndarray, " D"]:
    """Share of the pairs without ties whose better side gets more reward; equal rewards count half."""
    pairs = pairs.clear
    return _mean(pairs, right(pairs), episodes)


def right(pairs: Scored) -> Float64[np.ndarray, " Q"]:
    """1 where the better side gets more reward, one half where both get the same, else 0."""
    agreement = pairs.difference * np.sign(pairs.p_a - 0.5)
    return (agreement > 0) + 0.5 * (agreement == 0)


def log_loss(pairs: Scored, episodes: Float64[np.ndarray, "D E"]) -> Float64[np.ndarray, " D"]:
    """Mean cross-entropy, natural, of sigmoid(difference) against the labels, ties included."""
    pairs = pairs.judged
    loss = np.logaddexp(0, pairs.difference) - pairs.p_a * pairs.difference
    return _mean(pairs, loss, episodes)


def calibration_error(pairs: Scored, episodes: Float64[np.ndarray, "D E"]) -> Float64[np.ndarray, " D"]:
    """Expected calibration error of sigmoid(difference) on pairs without ties, over BINS bins of confidence.

    Of few pairs it is above 0 even for an honest reward, and its interval lies higher still.
    """
    pairs = pairs.clear
    confidence = 1 / (1 + np.exp(-np.abs(pairs.difference)))
    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    weight, gap = pairs.weights(episodes), right(pairs) - confidence
    found = sum(np.abs(weight[:, place == k] @ gap[place == k]) for k in range(BINS))
    return ratio(np.asarray(found), weight.sum(1))


def apart(pairs: Scored, known: Scored) -> Bool[np.ndarray, " Q"]:
    """Which pairs share no episode with any of the known ones."""
    seen = np.union1d(known.a, known.b)
    return ~np.isin(pairs.a, seen) & ~np.isin(pairs.b, seen)


def _mean(
    pairs: Scored, values: Float[np.ndarray, " Q"], episodes: Float64[np.ndarray, "D E"]
) -> Float64[np.ndarray, " D"]:
    weight = pairs.weights(episodes)
    return ratio(weight @ values, weight.sum(1))


def _episode(store: Store, item: Item) -> int:
    return store.episodes.index(item.episode if isinstance(item, Frame) else item[0].episode)


def _worth(store: Store, mean: Float32[np.ndarray, " N"], item: Item) -> float:
    table = store.episodes
    if isinstance(item, Frame):
        start = int(table.start[table.index(item.episode)])
        return float(mean[start + item.row - 1]) if item.row > 0 else float("nan")
    rows = np.concatenate([mean[table.start[table.index(s.episode)] :][s.start : s.stop] for s in item])
    return float(np.nansum(rows, dtype=np.float64)) if np.isfinite(rows).any() else float("nan")
