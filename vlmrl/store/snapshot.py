"""What one manifest commits, read once into RAM: a store holds the newest snapshot, readers may keep an older one."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from vlmrl.errors import DataError, unknown
from vlmrl.store import manifest
from vlmrl.store.disk import Sealed
from vlmrl.store.manifest import Manifest
from vlmrl.store.part import Part, ZarrFolder
from vlmrl.store.table import EpisodeTable, read_table
from vlmrl.types import NO_FRAME

REWARD_KINDS = ("mean", "std")


class Snapshot:
    """The parts and columns of one manifest."""

    def __init__(self, path: Path, committed: Manifest, earlier: "Snapshot | None" = None) -> None:
        """Reuse what `earlier` has read of the same parts."""
        self.path = path
        self.manifest = committed
        known = {part.entry.sha256: part for part in earlier.parts} if earlier else {}
        self.parts = [known.get(entry.sha256) or Part(path, entry) for entry in committed.parts]
        # pieces already read by name, with the number of leading parts that they cover
        kept = earlier is not None and self.parts[: len(earlier.parts)] == earlier.parts
        columns = earlier._columns if earlier and kept else {}
        # an embedding is continued: what was read before its last piece came lacks it
        current = {k: v for k, v in columns.items() if earlier and self.pieces(k) == earlier.pieces(k)}
        self._columns: dict[str, tuple[int, np.ndarray]] = current
        self._slots: dict[str, tuple[int, np.ndarray]] = dict(earlier._slots) if earlier and kept else {}

    def refreshed(self) -> "Snapshot":
        """The newest one; this very object where nothing was committed since."""
        found = manifest.load(self.path)
        return self if found == self.manifest else Snapshot(self.path, found, self)

    @cached_property
    def episodes(self) -> EpisodeTable:
        """All episodes."""
        return read_table(self.parts)

    @cached_property
    def part_start(self) -> Int64[np.ndarray, " P"]:
        """First global row of each part."""
        return np.cumsum([0, *(entry.rows for entry in self.manifest.parts)], dtype=np.int64)[:-1]

    @property
    def rows(self) -> int:
        """Of all parts."""
        return sum(entry.rows for entry in self.manifest.parts)

    @property
    def cameras(self) -> list[str]:
        """Every camera of any part."""
        return list(dict.fromkeys(camera for entry in self.manifest.parts for camera in entry.cameras))

    @property
    def column_names(self) -> list[str]:
        """Columns of any part, and those added beside the parts."""
        own = dict.fromkeys(name for entry in self.manifest.parts for name in entry.columns)
        rewards = [f"reward/{name}/{kind}" for name in self.rewards() for kind in REWARD_KINDS]
        return [*own, *rewards, *(f"embedding/{name}" for name in self.embeddings())]

    def column(self, name: str) -> np.ndarray:
        """A low-dimensional column over all rows, read once, read-only.

        Raises:
            DataError: if a part lacks it, has another row shape, or is damaged.
        """
        if name not in self.column_names:
            raise unknown("column", name, self.column_names)
        have, values = self._columns.get(name, (0, None))
        if values is None or have < len(self.parts):
            new = [self._part_column(name, i) for i in range(have, len(self.parts))]
            shapes = {v.shape[1:] for v in new} | ({values.shape[1:]} if values is not None else set())
            if len(shapes) > 1:
                raise DataError(f"column {name!r} has rows of shapes {sorted(shapes)} in different parts")
            values = np.concatenate(new if values is None else [values, *new])
            values.flags.writeable = False
            self._columns[name] = (len(self.parts), values)
        return values

    def _part_column(self, name: str, index: int) -> np.ndarray:
        part = self.parts[index]
        if name.startswith("reward/"):
            return self._reward_column(name, part)
        if name.startswith("embedding/"):
            return self._embedding_column(name, part)
        if name not in part.entry.columns:
            raise DataError(f"{part.sealed.what} has no column {name!r}; have: {', '.join(part.entry.columns)}")
        return part.column(name)

    def _reward_column(self, name: str, part: Part) -> np.ndarray:
        """NaN where the part came after the column."""
        column, _, kind = name.rpartition("/")
        if part.entry.id not in self.manifest.columns[column].parts:
            return np.full(part.entry.rows, np.nan, np.float32)
        return self.added(column).read(f"{part.entry.id}/{kind}")

    def _embedding_column(self, name: str, part: Part) -> np.ndarray:
        """NaN where no piece covers the part."""
        pieces = self.pieces(name)
        for piece in pieces:
            if part.entry.id in self.manifest.columns[piece].parts:
                return self.added(piece).read(f"{part.entry.id}/values")
        return np.full((part.entry.rows, self.manifest.columns[pieces[0]].attributes["dim"]), np.nan, np.float16)

    def pieces(self, name: str) -> list[str]:
        """Added columns that together are the column `embedding/<encoder>/<camera>`."""
        return [key for key in self.manifest.columns if key.rpartition("/")[0] == name]

    def added(self, column: str) -> ZarrFolder:
        """The folder of a column beside the parts."""
        about = self.manifest.columns[column]
        return ZarrFolder(Sealed(self.path / about.folder, about.sha256, f"column {column}"))

    def slots(self, camera: str) -> Int64[np.ndarray, " N"]:
        """Place of every global row among the decoded pictures of its part, NO_FRAME where it has none."""
        if camera not in self.cameras:
            raise unknown("camera", camera, self.cameras)
        have, known = self._slots.get(camera, (0, np.empty(0, np.int64)))
        if have < len(self.parts):
            known = np.concatenate([known, *(_part_slots(part, camera) for part in self.parts[have:])])
            self._slots[camera] = (len(self.parts), known)
        return known

    def place(self, id: str) -> tuple[Part, int, slice]:
        """Where an episode lies: its part, its number there, and its rows there."""
        place, table = self.episodes.index(id), self.episodes
        index = int(table.part[place])
        first = int(table.start[place] - self.part_start[index])
        within = place - int(np.searchsorted(table.part, index))
        return self.parts[index], within, slice(first, first + int(table.length[place]))

    def rewards(self) -> dict[str, dict[str, Any]]:
        """Attributes of each reward column, with its coverage."""
        return {
            name.removeprefix("reward/"): column.attributes | {"coverage": column.coverage}
            for name, column in self.manifest.columns.items()
            if name.startswith("reward/")
        }

    def embeddings(self) -> dict[str, dict[str, Any]]:
        """Attributes of each embedding column, by `<encoder>/<camera>`."""
        return {
            name.removeprefix("embedding/").rpartition("/")[0]: column.attributes
            for name, column in self.manifest.columns.items()
            if name.startswith("embedding/")
        }


def _part_slots(part: Part, camera: str) -> Int64[np.ndarray, " n"]:
    if camera in part.entry.cameras:
        return part.slots(camera)
    return np.full(part.entry.rows, NO_FRAME, np.int64)
