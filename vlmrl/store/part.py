"""Reading a part: one immutable folder of whole episodes, checked before it is believed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Int32, Int64, UInt8

from vlmrl.errors import DataError
from vlmrl.store import layout, video
from vlmrl.store.disk import Sealed
from vlmrl.store.manifest import PartEntry
from vlmrl.types import NO_FRAME, Frames, Video

_READ_BYTES = 32 << 20
"""Pixels decoded at once."""
_GAP_FRAMES = 64
_FAILURES = (OSError, ValueError, RuntimeError, KeyError, TypeError)
"""What zarr and its codecs raise on bytes that make no sense."""


@dataclass(frozen=True)
class ZarrFolder:
    """A sealed folder that is a zarr group; every read error becomes one that names the damaged file."""

    sealed: Sealed

    @cached_property
    def _group(self) -> zarr.Group:
        self.sealed.check_sizes()
        return zarr.open_group(self.sealed.folder, mode="r", zarr_format=3)

    @cached_property
    def _arrays(self) -> dict[str, zarr.Array[Any]]:
        return {}

    def array(self, name: str) -> zarr.Array[Any]:
        """An array by its path; reading it may still fail."""
        if name not in self._arrays:
            found = self._group[name]
            if not isinstance(found, zarr.Array):
                raise DataError(f"{self.sealed.what}: {name} is not an array")
            self._arrays[name] = found
        return self._arrays[name]

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Values of an array.

        Raises:
            DataError: naming the file that is missing, truncated or changed.
        """
        try:
            return np.asarray(self.array(name)[rows])
        except _FAILURES as error:
            self._blame(error)
            raise

    def attributes(self, name: str) -> dict[str, Any]:
        """Attributes of a group within."""
        try:
            return self._group[name].attrs.asdict()
        except _FAILURES as error:
            self._blame(error)
            raise

    def _blame(self, error: Exception) -> None:
        if problems := self.sealed.content_problems():
            raise DataError(f"damaged: {problems[0]}") from error


class Part:
    """One part of a store."""

    def __init__(self, store: Path, entry: PartEntry) -> None:
        """Open nothing yet: the first read checks the files."""
        self.entry = entry
        self.sealed = Sealed(store / entry.folder, entry.sha256, f"part {entry.id}")
        self._zarr = ZarrFolder(self.sealed)

    def column(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """A low-dimensional column."""
        return self._zarr.read(f"step/{name}", rows)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The table of episodes: arrays and lists by name."""
        table: dict[str, Any] = json.loads(self.sealed.read(layout.EPISODES))
        return table | {name: np.array(table[name], dtype) for name, dtype in layout.EPISODE_DTYPES.items()}

    @property
    def end(self) -> Int64[np.ndarray, " E"]:
        """Exclusive last row of each episode."""
        return self.facts["end"]

    def zarr_facts(self) -> dict[str, Any]:
        """The same table from the zarr group."""
        arrays = {name: self._zarr.read(f"episode/{name}") for name in layout.EPISODE_DTYPES}
        return self._zarr.attributes("episode") | arrays

    def image_index(self, camera: str) -> Int32[np.ndarray, " N"]:
        """Row to picture of the part, or to frame number in the row's video file."""
        return self._zarr.read(f"step/image/{camera}/index")

    def image(self, camera: str, episode: int) -> Frames | Video | None:
        """What one episode has of a camera, as it was appended."""
        if camera not in self.entry.cameras:
            return None
        about = self._zarr.attributes(f"step/image/{camera}")
        rows = slice(int(self.end[episode - 1]) if episode else 0, int(self.end[episode]))
        index = self._zarr.read(f"step/image/{camera}/index", rows)
        if about["form"] == "video":
            file = about["file"][episode]
            return None if file == NO_FRAME else Video(self.sealed.folder / about["files"][file], index)
        if not about["present"][episode]:
            return None
        end = self._zarr.read(f"step/image/{camera}/end")
        first, last = int(end[episode - 1]) if episode else 0, int(end[episode])
        pixels = self._zarr.read(f"step/image/{camera}/pixels", slice(first, last))
        return Frames(pixels, np.where(index == NO_FRAME, NO_FRAME, index - first).astype(np.int32))

    def slots(self, camera: str) -> Int64[np.ndarray, " N"]:
        """Row to place among the part's decoded pictures, NO_FRAME where it has none."""
        index = self.image_index(camera).astype(np.int64)
        if self.entry.cameras[camera]["form"] == "pixels":
            return index
        keys, present = self._video_keys(camera, index)
        slots = np.full(len(index), NO_FRAME, np.int64)
        slots[present] = np.unique(keys[present], return_inverse=True)[1]
        return slots

    def _video_keys(self, camera: str, index: Int64[np.ndarray, " N"]) -> tuple[np.ndarray, np.ndarray]:
        """One number per row for file and frame, and where there is a frame."""
        files = np.array(self._zarr.attributes(f"step/image/{camera}")["file"], np.int64)
        lengths = np.diff(self.end, prepend=0)
        return np.repeat(files, lengths) << 32 | np.maximum(index, 0), index != NO_FRAME

    def video_frames(self, camera: str) -> dict[Path, int]:
        """Frames that each video file must have for what refers to it."""
        keys, present = self._video_keys(camera, self.image_index(camera).astype(np.int64))
        names = self._zarr.attributes(f"step/image/{camera}")["files"]
        last = {
            int(number): int((keys[present & (keys >> 32 == number)] & 0xFFFFFFFF).max())
            for number in np.unique(keys[present] >> 32)
        }
        return {self.sealed.folder / names[number]: frame + 1 for number, frame in last.items()}

    def pictures(self, camera: str, size: tuple[int, int] | None) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Decode every picture of a camera in slot order, in bounded memory."""
        yield from self.some_pictures(camera, np.arange(self.entry.cameras[camera]["frames"]), size)

    def some_pictures(
        self, camera: str, slots: Int64[np.ndarray, " n"], size: tuple[int, int] | None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Decode the pictures in ascending slots."""
        if self.entry.cameras[camera]["form"] == "pixels":
            yield from self._stored_pictures(camera, slots, size)
            return
        keys, present = self._video_keys(camera, self.image_index(camera).astype(np.int64))
        wanted = np.unique(keys[present])[slots]
        names = self._zarr.attributes(f"step/image/{camera}")["files"]
        for number in np.unique(wanted >> 32):
            frames = wanted[wanted >> 32 == number] & 0xFFFFFFFF
            yield from video.decode(self.sealed.folder / names[number], frames, size)

    def _stored_pictures(
        self, camera: str, slots: Int64[np.ndarray, " n"], size: tuple[int, int] | None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        about = self.entry.cameras[camera]
        most = max(1, _READ_BYTES // max(1, about["height"] * about["width"] * 3))
        for run in _runs(slots, most):
            first = int(run[0])
            pixels = self._zarr.read(f"step/image/{camera}/pixels", slice(first, int(run[-1]) + 1))
            for slot in run:
                yield video.resize(pixels[slot - first], size)


def _runs(slots: Int64[np.ndarray, " n"], most: int) -> Iterator[Int64[np.ndarray, " _"]]:
    """Cut ascending slots into ranges worth reading at once: no wide gaps, no more than `most` frames."""
    start = 0
    for i in range(1, len(slots) + 1):
        if i == len(slots) or slots[i] - slots[i - 1] > _GAP_FRAMES or slots[i] - slots[start] >= most:
            yield slots[start:i]
            start = i
