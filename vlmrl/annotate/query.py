"""Which pairs of pictures are asked about: frames of random episodes of a whole store, and the pictures themselves."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image

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


class Pictures:
    """Fills queries with the pictures a labeler sees, cropped and resized as the task says."""

    def __init__(
        self,
        store: FrameStore,
        *,
        crop: tuple[int, int, int, int] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Remember where pictures are.

        `crop` is (top, bottom, left, right) in pixels of the stored picture, bottom and right exclusive;
        `size` is (height, width) of what the labeler sees. None leaves the picture as it is.
        """
        self._store, self._crop, self._size = store, crop, size
        self._start = {name: int(row) for name, row in zip(store.episodes.id, store.episodes.start, strict=True)}

    def __call__(self, queries: Sequence[Query]) -> list[Query]:
        """Return the same queries with their pictures; memory is that of these pictures, so pass few at a time.

        Raises:
            DataError: if a query is about something else than single frames.
        """
        frames = [self._frame(item) for query in queries for item in query.items]
        pictures: dict[Frame, UInt8[np.ndarray, "_ _ 3"]] = {}
        for camera in {f.camera for f in frames}:
            wanted = sorted({f for f in frames if f.camera == camera})
            rows = np.array([self._start[f.episode] + f.row for f in wanted], dtype=np.int64)
            pictures |= {f: self._prepare(p) for f, p in zip(wanted, self._store.frames(camera, rows), strict=True)}
        return [replace(q, images=tuple(pictures[self._frame(i)] for i in q.items)) for q in queries]

    @staticmethod
    def _frame(item: object) -> Frame:
        if not isinstance(item, Frame):
            raise DataError(f"only single frames can be shown so far, not {item!r}")
        return item

    def _prepare(self, picture: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
        if self._crop is not None:
            top, bottom, left, right = self._crop
            height, width = picture.shape[:2]
            if not (0 <= top < bottom <= height and 0 <= left < right <= width):
                raise DataError(f"crop {self._crop} (top, bottom, left, right) does not fit a {height}x{width} picture")
            picture = picture[top:bottom, left:right]
        if self._size is not None and picture.shape[:2] != self._size:
            height, width = self._size
            picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
        return np.ascontiguousarray(picture)
