"""Questions about clips: each is a stretch of one episode that ends at a frame."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from vlmrl.annotate.query import FrameStore, Queries
from vlmrl.errors import DataError
from vlmrl.types import Frame, Query, Span

_EPS = 1e-6
"""s; recorded times are rarely exact."""


class ClipEnds:
    """A store as query choice sees it, of whose frames only those count at which a whole clip ends."""

    def __init__(self, store: FrameStore, time: Float64[np.ndarray, " N"], *, seconds: float) -> None:
        """`time` holds the seconds of every row since its episode's first.

        An episode that is shorter than `seconds` is one clip.
        """
        self._store, self._time, self._seconds = store, time, seconds

    @property
    def episodes(self) -> Any:
        """As the store has them."""
        return self._store.episodes

    def frame_rows(self, camera: str) -> Int64[np.ndarray, " M"]:
        """Return the rows at which a clip ends that shows two pictures or more.

        Raises:
            DataError: if there is none.
        """
        rows = self._store.frame_rows(camera)
        ends = rows[self._whole(rows) & (self._pictures(rows) >= 2)]
        if not len(ends):
            gaps = np.diff(self._time[rows])
            apart = f"{np.median(gaps[gaps > 0]):.3g} s apart" if (gaps > 0).any() else "one an episode"
            raise DataError(
                f"no clip of {self._seconds:g} s shows two pictures of camera {camera!r}, which are {apart}: "
                "say a longer ask.clip_s"
            )
        return ends

    def frames(self, camera: str, rows: Int64[np.ndarray, " M"]) -> UInt8[np.ndarray, "M H W 3"]:
        """As the store has them."""
        return self._store.frames(camera, rows)

    def clip(self, frame: Frame) -> tuple[Span, ...]:
        """Return the clip that ends at a frame."""
        table = self.episodes
        start = int(table.start[table.index(frame.episode)])
        first = np.searchsorted(self._time[start : start + frame.row], self._begin(np.array([start + frame.row]))[0])
        return (Span(frame.episode, int(first), frame.row + 1, frame.camera),)

    def about(self, queries: Sequence[Query]) -> Queries:
        """Return questions about the clips that end where these questions' frames are."""

        def make(place: int) -> Query:
            query = queries[place]
            return replace(query, items=tuple(self.clip(i) for i in query.items if isinstance(i, Frame)))

        return Queries(range(len(queries)), make)

    def _begin(self, rows: Int64[np.ndarray, " M"]) -> Float64[np.ndarray, " M"]:
        return self._time[rows] - self._seconds - _EPS

    def _whole(self, rows: Int64[np.ndarray, " M"]) -> Bool[np.ndarray, " M"]:
        """Whether a clip is as long as wanted, or its episode's last where that is shorter."""
        owner = np.searchsorted(self.episodes.start, rows, side="right") - 1
        first, last = self._time[self.episodes.start[owner]], np.append(owner[1:] != owner[:-1], True)
        length = self._time[self.episodes.stop[owner] - 1] - first
        return (self._time[rows] - first >= self._seconds - _EPS) | (last & (length < self._seconds))

    def _pictures(self, rows: Int64[np.ndarray, " M"]) -> Int64[np.ndarray, " M"]:
        """How many pictures the clip that ends at each row shows."""
        owner = np.searchsorted(self.episodes.start, rows, side="right") - 1
        # Time starts anew in every episode: shifted apart, all of it grows.
        apart = np.cumsum([0.0, *(self._time[self.episodes.stop - 1] + self._seconds + 1.0)])[owner]
        when = self._time[rows] + apart
        return np.arange(1, len(rows) + 1) - np.searchsorted(when, when - self._seconds - _EPS)
