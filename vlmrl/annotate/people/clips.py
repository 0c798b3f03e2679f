"""Which pictures of a clip or a single frame a person sees, and the pictures themselves."""

import hashlib
import io
import threading
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from PIL import Image

from vlmrl.annotate.question import picture_digest
from vlmrl.errors import DataError
from vlmrl.store import Store
from vlmrl.types import Frame, Item

QUALITY = 92
"""Of JPEG; below it the edges of small objects smear."""


@dataclass(frozen=True)
class Clips:
    """Looks pictures up in a store; safe for threads."""

    store: Store
    camera: str
    """Whose pictures stand for spans that name no camera."""
    most: int = 24
    """Pictures of a clip, evenly spaced."""
    side: int = 640
    """Pixels of the longer side of a picture as it is sent; larger ones are made smaller."""
    _rows: dict[str, Bool[np.ndarray, " N"]] = field(default_factory=dict, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def rows(self, item: Item) -> Int64[np.ndarray, " n"]:
        """Global rows of the pictures that are shown, in order; none where the clip has no picture.

        Raises:
            DataError: if the store has no such episode.
        """
        rows = np.concatenate([self._all(item, k) for k in range(1 if isinstance(item, Frame) else len(item))])
        rows = rows[self._framed(self._camera(item))[rows]]
        kept = np.unique(np.linspace(0, len(rows) - 1, min(self.most, len(rows))).round().astype(np.int64))
        return rows[kept]

    def seconds(self, item: Item) -> float:
        """How long the clip took; 0 for a single frame."""
        if isinstance(item, Frame):
            return 0.0
        time = self.store.column("time")
        ends = [self._all(item, k)[[0, -1]] for k in range(len(item))]
        return float(sum(time[last] - time[first] for first, last in ends))

    def digest(self, item: Item) -> str:
        """Return the sha256 of the digests of the pictures that are shown."""
        each = [picture_digest(picture) for picture in self._pixels(item, self.rows(item))]
        return hashlib.sha256("".join(each).encode()).hexdigest()

    def jpeg(self, item: Item, number: int) -> bytes:
        """Return one picture of a clip as it is sent.

        Raises:
            DataError: if the clip has no such picture.
        """
        rows = self.rows(item)
        if not 0 <= number < len(rows):
            raise DataError(f"the clip has {len(rows)} pictures; asked for number {number}")
        picture = Image.fromarray(self._pixels(item, rows[[number]])[0])
        picture.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=QUALITY, subsampling=0)
        return out.getvalue()

    def has(self, item: Item) -> bool:
        """Whether this store has the clip's episodes and its camera."""
        episodes = [item.episode] if isinstance(item, Frame) else [span.episode for span in item]
        return self._camera(item) in self.store.cameras and all(e in self.store.episodes for e in episodes)

    def shows(self, item: Item) -> bool:
        """Whether there is at least one picture of the clip."""
        return self.has(item) and len(self.rows(item)) > 0

    def _pixels(self, item: Item, rows: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n H W 3"]:
        with self._lock:
            return self.store.frames(self._camera(item), rows)

    def _framed(self, camera: str) -> Bool[np.ndarray, " N"]:
        """Which global rows have a picture."""
        if camera not in self._rows:
            found = np.zeros(len(self.store), np.bool_)
            found[self.store.frame_rows(camera)] = True
            self._rows[camera] = found
        return self._rows[camera]

    def _camera(self, item: Item) -> str:
        return (item.camera if isinstance(item, Frame) else item[0].camera) or self.camera

    def _all(self, item: Item, part: int) -> Int64[np.ndarray, " n"]:
        table = self.store.episodes
        if isinstance(item, Frame):
            return np.array([table.start[table.index(item.episode)] + item.row], np.int64)
        span = item[part]
        start = table.start[table.index(span.episode)]
        return np.arange(start + span.start, start + span.stop, dtype=np.int64)
