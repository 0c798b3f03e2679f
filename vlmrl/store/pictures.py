"""Pictures of a store as the page carries them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from vlmrl.page.markup import data_url, escape
from vlmrl.store import Store
from vlmrl.store.frames import decode_frames

MOST_PIXELS = 160
"""Of a picture's longer side."""
QUALITY = 82

MANY = 5
"""Pictures for each that is shown."""


@dataclass(frozen=True)
class Pictures:
    """The pictures of one camera."""

    store: Store
    camera: str

    def rows(self, episode: int) -> Int64[np.ndarray, " n"]:
        """Global rows of an episode that have a picture."""
        table, rows = self.store.episodes, self.store.frame_rows(self.camera)
        return rows[(rows >= table.start[episode]) & (rows < table.stop[episode])]

    def addresses(self, rows: Sequence[int]) -> list[str]:
        """Data URLs of the pictures of global rows; only these are decoded."""
        if not len(rows):
            return []
        found = decode_frames(self.store.snapshot, self.camera, np.asarray(rows, np.int64), self._size())
        return [data_url(jpeg(picture), "image/jpeg") for picture in found]

    def strip(self, rows: Sequence[int], captions: Sequence[str]) -> str:
        """Pictures in one line of equal cells, each with what is written below it."""
        cells = [
            f"<figure><img src='{address}' alt='{escape(caption)}'><figcaption>{escape(caption)}</figcaption></figure>"
            for address, caption in zip(self.addresses(rows), captions, strict=True)
        ]
        return f"<div class='strip' style='--n:{len(cells)}'>{''.join(cells)}</div>"

    def _size(self) -> tuple[int, int]:
        """(height, width), in the proportions of the first part's pictures, never larger than those."""
        entries = (part.entry.cameras.get(self.camera) for part in self.store.snapshot.parts)
        entry = next(entry for entry in entries if entry)
        height, width = int(entry["height"]), int(entry["width"])
        scale = min(1.0, MOST_PIXELS / max(height, width))
        return max(1, round(scale * height)), max(1, round(scale * width))


def camera_of(store: Store, wanted: str | None) -> Pictures | None:
    """Pictures of the camera that was judged; None where the store has none of it."""
    camera = wanted or (store.cameras[0] if store.cameras else None)
    return Pictures(store, camera) if camera in store.cameras else None


def even(count: int, *, most: int) -> list[int]:
    """Places evenly spread over `count`, first and last among them; where there are few, a number with equal steps."""
    if count <= most:
        return list(range(count))
    numbers = range(most, most // 2, -1) if count < MANY * most else ()  # one picture more or less does not show
    n = next((n for n in numbers if (count - 1) % (n - 1) == 0), most)
    return [round(k * (count - 1) / (n - 1)) for k in range(n)]


def jpeg(picture: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """A picture as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()
