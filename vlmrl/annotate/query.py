"""Which pairs of pictures are asked about: frames of random episodes of a whole store."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from vlmrl.errors import DataError, unknown
from vlmrl.types import Frame, Kind, Query

_ROUNDS = 100
"""Rounds of rejection before the remaining pairs are listed instead."""


@runtime_checkable
class FrameStore(Protocol):
    """What a store must offer to be asked about."""

    @property
    def episodes(self) -> Any:
        """Table with `id`, and global rows `start` and `stop` of each episode."""
        ...

    def frame_rows(self, camera: str) -> Int64[np.ndarray, " M"]:
        """Global rows that have a picture."""
        ...

    def frames(self, camera: str, rows: Int64[np.ndarray, " M"]) -> UInt8[np.ndarray, "M H W 3"]:
        """Pictures of those rows."""
        ...


class FramePairs(Sequence[Query]):
    """Queries about pairs of frames of one camera, 16 bytes each: a query is made when it is looked at."""

    def __init__(self, store: FrameStore, camera: str, instruction: str, rows: Int64[np.ndarray, "Q 2"]) -> None:
        """Remember global rows of both sides."""
        self._ids, self._start = list(store.episodes.id), np.asarray(store.episodes.start)
        self._camera, self._instruction, self.rows = camera, instruction, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Query: ...
    @overload
    def __getitem__(self, index: slice) -> "FramePairs": ...
    def __getitem__(self, index: "int | slice") -> "Query | FramePairs":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        a, b = (self._frame(int(row)) for row in self.rows[index])
        return Query(Kind.PREFERENCE, (a, b), self._instruction)

    def take(self, which: Int64[np.ndarray, " _"]) -> "FramePairs":
        """Return some of them."""
        found = copy(self)
        found.rows = self.rows[which]
        return found

    def __add__(self, other: "FramePairs") -> "FramePairs":
        found = copy(self)
        found.rows = np.concatenate([self.rows, other.rows])
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)  # pyright: ignore[reportUnknownArgumentType]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"FramePairs({len(self)} of camera {self._camera!r})"

    def _frame(self, row: int) -> Frame:
        episode = int(np.searchsorted(self._start, row, side="right")) - 1
        return Frame(self._ids[episode], row - int(self._start[episode]), self._camera)


class Queries(Sequence[Query]):
    """Queries that are made when they are looked at, each from its place in a sequence that takes little."""

    def __init__(self, places: Sequence[int], make: Callable[[int], Query]) -> None:
        """`make` returns the same query whenever it is given the same place."""
        self._places, self._make = places, make

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Query: ...
    @overload
    def __getitem__(self, index: slice) -> "Queries": ...
    def __getitem__(self, index: "int | slice") -> "Query | Queries":
        if isinstance(index, slice):
            return Queries(self._places[index], self._make)
        return self._make(self._places[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)  # pyright: ignore[reportUnknownArgumentType]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Queries({len(self)})"


def joined(parts: Sequence[Sequence[Query]]) -> Queries:
    """Return the queries of several sequences, one after the other."""
    ends = np.cumsum([len(part) for part in parts]).tolist()

    def make(place: int) -> Query:
        part = bisect_right(ends, place)
        return parts[part][place - ends[part] + len(parts[part])]

    return Queries(range(sum(map(len, parts))), make)


def sample_pairs(
    store: FrameStore,
    camera: str,
    *,
    count: int,
    instruction: str,
    generator: np.random.Generator,
    episodes: Sequence[str] | None = None,
    stratify: bool = True,
    without: Int64[np.ndarray, "_ 2"] | None = None,
) -> FramePairs:
    """Draw pairs of different frames, no pair twice in either order, without loading a picture.

    Each frame comes from a random episode and a random one of its rows that have a picture. Stratified, every episode
    is drawn equally often and so is every part of an episode's duration. `episodes` restricts the draw, `without` are
    pairs of global rows that are not drawn, in either order.

    Raises:
        DataError: if the store has fewer different pairs than `count`.
    """
    rows = _framed_rows(store, camera, episodes=episodes)
    flat, starts = np.concatenate(rows), np.cumsum([0, *map(len, rows)])
    taken = _codes(_places(flat, np.empty((0, 2), np.int64) if without is None else without), len(flat))
    left = len(flat) * (len(flat) - 1) // 2 - len(taken)
    if left < count:
        asked = f" that were not asked before ({len(taken)} were)" if len(taken) else ""
        raise DataError(
            f"{count} pairs wanted, but the {len(flat)} frames of camera {camera!r} make only {left} different "
            f"pairs{asked}"
        )
    pairs = _pair_up(starts, taken, count=count, generator=generator, stratify=stratify)
    return FramePairs(store, camera, instruction, flat[pairs])


def _places(flat: Int64[np.ndarray, " N"], rows: Int64[np.ndarray, "_ 2"]) -> Int64[np.ndarray, "_ 2"]:
    """Places of pairs of global rows among the framed ones; pairs with other rows, or of one row, are left out."""
    found = np.searchsorted(flat, rows)
    inside = (found < len(flat)) & (flat[np.minimum(found, len(flat) - 1)] == rows) if len(flat) else found < 0
    return found[inside.all(1) & (rows[:, 0] != rows[:, 1])]


def _codes(pairs: Int64[np.ndarray, "n 2"], total: int) -> Int64[np.ndarray, " _"]:
    """A number for each different pair, whatever its order, sorted."""
    return np.unique(pairs.min(1) * total + pairs.max(1)) if len(pairs) else np.empty(0, np.int64)


def _framed_rows(store: FrameStore, camera: str, *, episodes: Sequence[str] | None) -> list[Int64[np.ndarray, " _"]]:
    """Global rows with a picture, episode by episode, for the wanted episodes that have any."""
    table, rows = store.episodes, store.frame_rows(camera)
    bounds = np.searchsorted(rows, np.stack([table.start, table.stop]))
    wanted = set(table.id) if episodes is None else set(episodes)
    if missing := wanted - set(table.id):
        raise unknown("episode", min(missing), table.id)
    found = [rows[lo:hi] for name, lo, hi in zip(table.id, *bounds, strict=True) if name in wanted]
    return [r for r in found if len(r)] or [rows[:0]]


def _pair_up(
    starts: Int64[np.ndarray, " _"],
    taken: Int64[np.ndarray, " _"],
    *,
    count: int,
    generator: np.random.Generator,
    stratify: bool,
) -> Int64[np.ndarray, "count 2"]:
    """Return `count` different pairs of indices below `starts[-1]` that are not taken; side a is either."""
    total = int(starts[-1])
    found, known = [np.empty((0, 2), np.int64)], taken
    crowded = 2 * (count + len(taken)) >= total * (total - 1) // 2
    missing = count
    for _ in range(0 if crowded else _ROUNDS):
        if not missing:
            break
        phases = _phases(2 * missing, len(starts) - 1, generator=generator, stratify=stratify)
        drawn = _locate(starts, phases).reshape(2, missing).T
        drawn = drawn[drawn[:, 0] != drawn[:, 1]]
        code, first = np.unique(drawn.min(1) * total + drawn.max(1), return_index=True)
        fresh = ~np.isin(code, known)
        found.append(drawn[np.sort(first[fresh])])
        known = np.concatenate([known, code[fresh]])
        missing -= len(found[-1])
    if missing:
        listed = np.stack(np.triu_indices(total, 1), axis=1)
        listed = listed[~np.isin(listed[:, 0] * total + listed[:, 1], known)]
        chosen = listed[generator.choice(len(listed), missing, replace=False)]
        turned = generator.random(missing) < 0.5
        found.append(np.where(turned[:, None], chosen[:, ::-1], chosen))
    return np.concatenate(found)


def _phases(
    count: int, episodes: int, *, generator: np.random.Generator, stratify: bool
) -> Float64[np.ndarray, "count 2"]:
    """Points (episode + phase within it): uniform, or a Latin hypercube so that both are covered evenly."""
    if not stratify:
        return np.stack([generator.integers(episodes, size=count), generator.random(count)], axis=1).astype(np.float64)
    episode = generator.permutation(np.resize(generator.permutation(episodes), count))
    phase = (generator.permutation(count) + generator.random(count)) / count
    return np.stack([episode, phase], axis=1).astype(np.float64)


def _locate(starts: Int64[np.ndarray, " _"], phases: Float64[np.ndarray, "n 2"]) -> Int64[np.ndarray, " n"]:
    """Index of the frame at each phase of each episode."""
    episode = phases[:, 0].astype(np.int64)
    length = starts[episode + 1] - starts[episode]
    return starts[episode] + np.minimum((phases[:, 1] * length).astype(np.int64), length - 1)
