"""Which pairs of pictures are asked about: frames of random episodes of a whole store."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

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


def sample_pairs(
    store: FrameStore,
    camera: str,
    *,
    count: int,
    instruction: str,
    generator: np.random.Generator,
    episodes: Sequence[str] | None = None,
    stratify: bool = True,
) -> list[Query]:
    """Draw pairs of different frames, no pair twice in either order, without loading a picture.

    Each frame comes from a random episode and a random one of its rows that have a picture. Stratified, every episode
    is drawn equally often and so is every part of an episode's duration. `episodes` restricts the draw.

    Raises:
        DataError: if the store has fewer different pairs than `count`.
    """
    rows = _framed_rows(store, camera, episodes=episodes)
    total = sum(map(len, rows))
    if total * (total - 1) // 2 < count:
        raise DataError(
            f"{count} pairs wanted, but the {total} frames of camera {camera!r} "
            f"make only {total * (total - 1) // 2} different pairs"
        )
    flat, starts = np.concatenate(rows), np.cumsum([0, *map(len, rows)])
    pairs = _pair_up(starts, count=count, generator=generator, stratify=stratify)
    table = store.episodes
    start = np.asarray(table.start)
    owner = np.searchsorted(start, flat, side="right") - 1
    frames = [Frame(table.id[e], int(r - start[e]), camera) for e, r in zip(owner, flat, strict=True)]
    return [Query(Kind.PREFERENCE, (frames[a], frames[b]), instruction) for a, b in pairs]


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
    starts: Int64[np.ndarray, " _"], *, count: int, generator: np.random.Generator, stratify: bool
) -> list[tuple[int, int]]:
    """Return `count` different pairs of indices below `starts[-1]`; side a is either."""
    pairs: dict[tuple[int, int], tuple[int, int]] = {}
    total = int(starts[-1])
    crowded = 2 * count >= total * (total - 1) // 2
    for _ in range(0 if crowded else _ROUNDS):
        missing = count - len(pairs)
        if not missing:
            break
        phases = _phases(2 * missing, len(starts) - 1, generator=generator, stratify=stratify)
        drawn = _locate(starts, phases).reshape(2, missing)
        for a, b in zip(*(side.tolist() for side in drawn), strict=True):
            if a != b:
                pairs.setdefault((min(a, b), max(a, b)), (a, b))
    rest = count - len(pairs)
    if rest:
        listed = [p for p in zip(*map(np.ndarray.tolist, np.triu_indices(total, 1)), strict=True) if p not in pairs]
        for i in generator.choice(len(listed), rest, replace=False):
            a, b = listed[i]
            pairs[a, b] = (b, a) if generator.random() < 0.5 else (a, b)
    return list(pairs.values())


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
