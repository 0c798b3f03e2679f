"""Decoded frames in memory-mapped files, keyed by content, bounded: the least recently used go first."""

import contextlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vlmrl.store import disk
from vlmrl.store.lock import Owner, abandoned

LIMIT_BYTES = 8 << 30
"""Of the files of one cache folder, unless its `limit.json` says otherwise."""
_OPEN_FILES = 256
_log = logging.getLogger(__name__)


def folder_for(store: Path) -> Path:
    """Beside the store where it can be written, else the user's cache."""
    if os.access(store, os.W_OK):
        return store / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlmrl" / "frames"


@dataclass
class FrameCache:
    """Decoded pictures by key; several processes may share a folder."""

    folder: Path
    limit: int | None = None
    """Bytes; None takes the folder's recorded limit."""
    _open: OrderedDict[str, UInt8[np.ndarray, "M H W 3"]] = field(default_factory=OrderedDict)

    def limit_bytes(self) -> int:
        """The bound in force; given limits are recorded in the folder for everyone who uses it."""
        record = self.folder / "limit.json"
        recorded = json.loads(record.read_bytes())["bytes"] if record.exists() else None
        wanted = self.limit if self.limit is not None else recorded if recorded is not None else LIMIT_BYTES
        if wanted != recorded:
            self.folder.mkdir(parents=True, exist_ok=True)
            disk.publish(record, disk.canonical({"bytes": wanted}))
        return wanted

    def get(self, key: str) -> UInt8[np.ndarray, "M H W 3"] | None:
        """The pictures under a key, memory-mapped, read-only; None where they are not cached."""
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        path = self.folder / f"{key}.npy"
        try:
            pictures = np.load(path, mmap_mode="r", allow_pickle=False)
            os.utime(path)
        except (FileNotFoundError, ValueError):
            # another process may evict at any time
            return None
        self._keep(key, pictures)
        return pictures

    def fits(self, size_bytes: int) -> bool:
        """Whether pictures of that many bytes, together, stay within the limit."""
        return size_bytes <= self.limit_bytes()

    def fill(
        self, key: str, pictures: Iterator[UInt8[np.ndarray, "H W 3"]], frames: int
    ) -> UInt8[np.ndarray, "M H W 3"]:
        """Write pictures one by one under a key, after making room for them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        first = next(pictures)
        self._make_room(first.nbytes * frames)
        path = self.folder / f"{key}.npy"
        temporary = self.folder / f"{Owner.current().token}{disk.NEW}"
        try:
            with temporary.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (frames, *first.shape)}
                np.lib.format.write_array_header_1_0(file, header)
                file.write(first.tobytes())
                for picture in pictures:
                    file.write(picture.tobytes())
            found = np.load(temporary, mmap_mode="r", allow_pickle=False)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._keep(key, found)
        return found

    def _keep(self, key: str, pictures: UInt8[np.ndarray, "M H W 3"]) -> None:
        self._open[key] = pictures
        while len(self._open) > _OPEN_FILES:
            self._open.popitem(last=False)

    def _make_room(self, size_bytes: int) -> None:
        for torn in self.folder.glob(f"*{disk.NEW}"):
            if abandoned(torn.name):
                torn.unlink(missing_ok=True)
        found = sorted(_used(self.folder))
        total = sum(size for _, size, _ in found)
        for _, size, path in found:
            if total + size_bytes <= self.limit_bytes():
                return
            self._open.pop(path.stem, None)
            path.unlink(missing_ok=True)
            total -= size
            _log.info("evicted %s from the frame cache", path.name)


def _used(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Time of last use, size and path of each file; other processes may remove some meanwhile."""
    for path in folder.glob("*.npy"):
        with contextlib.suppress(FileNotFoundError):
            about = path.stat()
            yield about.st_mtime, about.st_size, path
