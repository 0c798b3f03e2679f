"""The pictures that a labeler sees: of frames and clips, cropped, resized and drawn on as the task and the job say."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image

from vlmrl.annotate.asking import CLIPS, check_view
from vlmrl.annotate.drawing import contact_strip, draw_way
from vlmrl.annotate.query import FrameStore
from vlmrl.errors import DataError, unknown
from vlmrl.types import Frame, Item, Query, Span

Picture = UInt8[np.ndarray, "_ _ 3"]
Track = Callable[[Span], Float64[np.ndarray, "T 2"]]
"""Column and row of the hand in the stored picture, at each row of a span."""


class Pictures:
    """Fills queries with the pictures a labeler sees."""

    def __init__(
        self,
        store: FrameStore,
        *,
        show: str = "strip",
        most: int = 6,
        track: Track | None = None,
        crop: tuple[float, ...] = (),
        size: tuple[int, ...] = (),
    ) -> None:
        """Remember where pictures are.

        `show` is how clips are shown, with at most so many pictures. `crop` is (left, top, right, bottom) in fractions
        of the stored picture, `size` (height, width) of what the labeler sees; empty leaves the picture as it is.
        """
        if show not in CLIPS:
            raise unknown("way to show clips", show, CLIPS)
        check_view(crop, size, where="pictures")
        self._store, self._show, self._most, self._track = store, show, most, track
        self._crop, self._size = crop, size
        self._start = {name: int(row) for name, row in zip(store.episodes.id, store.episodes.start, strict=True)}
        self._length = dict(zip(store.episodes.id, (store.episodes.stop - store.episodes.start).tolist(), strict=True))
        self._rows: dict[str, Int64[np.ndarray, " M"]] = {}

    def __call__(self, queries: Sequence[Query]) -> list[Query]:
        """Return the same queries with their pictures; memory is that of these pictures, so pass few at a time.

        Raises:
            DataError: if an item shows no picture.
        """
        shown = {item: self._frames(item) for query in queries for item in query.items}
        loaded = self._load({frame for frames in shown.values() for frame in frames})
        views = {item: self._view(item, [loaded[f] for f in frames], frames) for item, frames in shown.items()}
        return [self._filled(query, [views[item] for item in query.items]) for query in queries]

    def _filled(self, query: Query, views: list[list[Picture]]) -> Query:
        traced = self._track is not None and any(not isinstance(item, Frame) for item in query.items)
        pictures = tuple(picture for view in views for picture in view)
        return replace(query, images=pictures, counts=tuple(map(len, views)), traced=traced)

    def _frames(self, item: Item) -> list[Frame]:
        """Return the frames of an item that are shown, in order of time."""
        if isinstance(item, Frame):
            return [item]
        frames = [Frame(span.episode, row, span.camera) for span in item for row in self._framed(span)]
        if not frames:
            raise DataError(f"a clip without a picture cannot be shown: {item}")
        most = 2 if self._show == "before_after" else self._most
        some = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
        if self._show == "before_after" and len(some) < 2:
            raise DataError(f"before and after need two pictures, this clip has one: {item}")
        return [frames[i] for i in some]

    def _framed(self, span: Span) -> list[int]:
        """Return the rows of a span that have a picture, counted within the episode."""
        if span.episode not in self._start:
            raise unknown("episode", span.episode, self._start)
        if not 0 <= span.start < span.stop <= self._length[span.episode]:
            raise DataError(f"{span} has no rows; the episode has {self._length[span.episode]}")
        if span.camera not in self._rows:
            self._rows[span.camera] = self._store.frame_rows(span.camera)
        first, rows = self._start[span.episode], self._rows[span.camera]
        lo, hi = np.searchsorted(rows, [first + span.start, first + span.stop])
        return (rows[lo:hi] - first).tolist()

    def _load(self, frames: set[Frame]) -> dict[Frame, Picture]:
        pictures: dict[Frame, Picture] = {}
        for camera in {f.camera for f in frames}:
            wanted = sorted({f for f in frames if f.camera == camera})
            rows = np.array([self._start[f.episode] + f.row for f in wanted], dtype=np.int64)
            pictures |= dict(zip(wanted, self._store.frames(camera, rows), strict=True))
        return pictures

    def _view(self, item: Item, pictures: list[Picture], frames: list[Frame]) -> list[Picture]:
        if isinstance(item, Frame):
            return [self._prepare(picture) for picture in pictures]
        if self._track is not None:
            way = np.concatenate([self._track(span) for span in item])
            rows = [(span.episode, row) for span in item for row in range(span.start, span.stop)]
            upto = {place: i + 1 for i, place in enumerate(rows)}
            pictures = [self._prepare(p, way, upto[f.episode, f.row]) for p, f in zip(pictures, frames, strict=True)]
        else:
            pictures = [self._prepare(picture) for picture in pictures]
        return [contact_strip(pictures)] if self._show == "strip" else pictures

    def _prepare(self, picture: Picture, way: Float64[np.ndarray, "T 2"] | None = None, upto: int = 0) -> Picture:
        """Crop and resize, then draw: a line drawn before would be cut and blurred with the picture."""
        height, width = picture.shape[:2]
        left, top, right, bottom = self._crop or (0.0, 0.0, 1.0, 1.0)
        x, y, x_end, y_end = (round(left * width), round(top * height), round(right * width), round(bottom * height))
        picture = picture[y : max(y_end, y + 1), x : max(x_end, x + 1)]
        before = picture.shape[:2]
        if self._size and before != self._size:
            height, width = self._size
            picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
        if way is not None:
            scale = np.array([picture.shape[1] / before[1], picture.shape[0] / before[0]])
            picture = draw_way(picture, (way + 0.5 - [x, y]) * scale - 0.5, upto=upto)
        return np.ascontiguousarray(picture)
