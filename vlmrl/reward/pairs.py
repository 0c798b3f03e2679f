"""Labelled pairs of clips by their rows in a stack, and how they are split into training and held-out pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int64

from vlmrl.errors import DataError
from vlmrl.reward import holdout
from vlmrl.reward.heads import NO_ROW
from vlmrl.store import Store
from vlmrl.types import Frame, Item, Preferences


@dataclass(frozen=True)
class Pairs:
    """Labelled pairs; a side is the places of its rows in a stack, NO_ROW behind the last of a shorter one."""

    a: Int64[np.ndarray, "Q L"]
    b: Int64[np.ndarray, "Q L"]
    p_a: Float32[np.ndarray, " Q"]
    annotator: Int64[np.ndarray, " Q"]
    """Who labelled it, counted from 0."""

    def __len__(self) -> int:
        return len(self.p_a)

    @property
    def equally_long(self) -> bool:
        """Whether all sides have the same number of rows, so that a sum of rewards cannot tell the reward's zero."""
        return not ((self.a == NO_ROW).any() or (self.b == NO_ROW).any())

    def take(self, which: np.ndarray) -> "Pairs":
        """Some of the pairs, by number or by mask."""
        return Pairs(self.a[which], self.b[which], self.p_a[which], self.annotator[which])


def locate(
    store: Store, preferences: Preferences, judged: Int64[np.ndarray, " M"], cameras: Sequence[str]
) -> tuple[Int64[np.ndarray, " R"], Pairs]:
    """Global rows that the pairs are about, each once, and the pairs by place among them.

    Of a clip the rows in `judged` count, which an input can judge. `cameras` are those that it looks at; empty: none,
    so that any label will do.

    Raises:
        DataError: if a label is about another camera, or about no row that can be judged.
    """
    sides = [[_rows(store, item, judged, cameras) for item in items] for items in (preferences.a, preferences.b)]
    both = [rows for side in sides for rows in side]
    places = np.full((len(both), max(map(len, both))), NO_ROW)
    for place, rows in zip(places, both, strict=True):
        place[: len(rows)] = rows
    rows, inverse = np.unique(places, return_inverse=True)
    inverse = inverse.reshape(places.shape).astype(np.int64)
    if rows[0] == NO_ROW:
        rows, inverse = rows[1:], inverse - 1
    half, who = len(preferences), preferences.by or (preferences.annotator,) * len(preferences)
    annotator = np.unique(who, return_inverse=True)[1].astype(np.int64)
    return rows, Pairs(inverse[:half], inverse[half:], preferences.p_a, annotator)


def spans(item: Item) -> list[tuple[str, int, int, str]]:
    """Episode, first and last row (exclusive) and camera of each stretch of an item."""
    if isinstance(item, Frame):
        return [(item.episode, item.row, item.row + 1, item.camera)]
    return [(span.episode, span.start, span.stop, span.camera) for span in item]


def _rows(store: Store, item: Item, judged: Int64[np.ndarray, " M"], cameras: Sequence[str]) -> Int64[np.ndarray, " n"]:
    found: list[Int64[np.ndarray, " _"]] = []
    for episode, start, stop, camera in spans(item):
        if cameras and camera and camera not in cameras:
            raise DataError(f"a label is about {item}; camera {', '.join(cameras)} wanted")
        place = store.episodes.index(episode)
        if not 0 <= start < stop <= store.episodes.length[place]:
            raise DataError(f"a label is about {item}; the episode has {store.episodes.length[place]} rows")
        first = int(store.episodes.start[place])
        found.append(judged[slice(*np.searchsorted(judged, [first + start, first + stop]))])
    rows = np.concatenate(found)
    if not len(rows):
        raise DataError(f"a label is about {item}, which has no row that the reward's input can judge")
    return rows


def split(
    pairs: Pairs,
    share: float,
    *,
    by: Literal["pairs", "episodes"],
    owner: Int64[np.ndarray, " R"],
    generator: np.random.Generator,
) -> tuple[Pairs, Pairs]:
    """Training pairs and held-out pairs.

    By pairs, both may show the same episodes, and even the same rows, so that the held-out figures flatter. By
    episodes, a share of the episodes is held out; pairs with one side in and one side out belong to neither. `owner` is
    the episode of each row of the stack.
    """
    if by == "pairs":
        train, held = holdout.places(len(pairs), share, generator=generator)
        return pairs.take(train), pairs.take(held)
    episodes = np.unique(owner)
    out = np.isin(owner, generator.permutation(episodes)[: round(share * len(episodes))])
    shown = np.concatenate([pairs.a, pairs.b], axis=1)
    real = shown != NO_ROW
    return pairs.take(_all(~out[shown], real)), pairs.take(_all(out[shown], real))


def _all(what: Bool[np.ndarray, "Q L"], real: Bool[np.ndarray, "Q L"]) -> Bool[np.ndarray, " Q"]:
    return np.all(what | ~real, axis=1)
