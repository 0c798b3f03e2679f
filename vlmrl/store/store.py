"""The store: episodes in immutable parts under one manifest. The format is told in docs/store.md."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Float32, Int, Int64, UInt8

from vlmrl.errors import DataError
from vlmrl.sight import Pictures, Sight, embedding, named
from vlmrl.store import disk, embeddings, manifest, rewards
from vlmrl.store.append import append_part
from vlmrl.store.cache import FrameCache, folder_for
from vlmrl.store.check import problems
from vlmrl.store.frames import latest, read_frames
from vlmrl.store.lock import HOMES, TEMPORARY, Owner
from vlmrl.store.snapshot import Snapshot
from vlmrl.store.table import EpisodeTable
from vlmrl.types import NO_FRAME, Episode, Transitions


class Store:
    """Committed episodes of one folder; what others append is seen after `refresh`."""

    def __init__(self, path: Path, *, cache_bytes: int | None = None) -> None:
        """Use `Store.open` or `Store.create`; `cache_bytes` bounds decoded frames on disk."""
        self.path = path
        self.cache = FrameCache(folder_for(path), cache_bytes)
        self.snapshot = Snapshot(path, manifest.load(path))

    @staticmethod
    def open(path: Path | str, *, cache_bytes: int | None = None) -> "Store":
        """Open an existing store.

        Raises:
            DataError: if there is none, or its manifest is damaged.
        """
        return Store(Path(path), cache_bytes=cache_bytes)

    @staticmethod
    def create(
        path: Path | str,
        *,
        names: Mapping[str, Sequence[str]] | None = None,
        units: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
        cache_bytes: int | None = None,
    ) -> "Store":
        """Make an empty store.

        `names` and `units` describe the entries of columns such as `obs/state` and `action`; `meta` is any JSON that
        belongs to the data, such as render settings.

        Raises:
            DataError: if the folder exists and is not empty.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        attributes = {key: {"names": list(values)} for key, values in (names or {}).items()}
        for key, value in (units or {}).items():
            attributes.setdefault(key, {})["units"] = value
        first = manifest.encode(manifest.Manifest(attributes=attributes, meta=dict(meta or {})))
        if any(p for p in path.iterdir() if not p.name.startswith(".")):
            raise DataError(f"{path} is not empty: a new store wants a new folder (Store.open reads an existing one)")
        for name in (*HOMES, TEMPORARY):
            (path / name).mkdir(exist_ok=True)
        temporary = path / TEMPORARY / f"{Owner.current().token}{disk.NEW}"
        temporary.write_bytes(first)
        disk.sync(temporary)
        try:
            os.link(temporary, path / manifest.NAME)
        except FileExistsError as error:
            raise DataError(f"another process is creating a store at {path}") from error
        finally:
            temporary.unlink()
        disk.sync(path)
        return Store(path, cache_bytes=cache_bytes)

    def refresh(self) -> None:
        """See what was committed since."""
        self.snapshot = self.snapshot.refreshed()

    @property
    def hash(self) -> str:
        """Changes exactly when the content does."""
        return self.snapshot.manifest.hash

    @property
    def data_hash(self) -> str:
        """Of the episodes alone: columns that are added beside them leave it."""
        return disk.digest([part.sha256 for part in self.snapshot.manifest.parts])

    @property
    def meta(self) -> dict[str, Any]:
        """What `create` was given."""
        return self.snapshot.manifest.meta

    @property
    def attributes(self) -> dict[str, dict[str, Any]]:
        """`names` and `units` by column."""
        return self.snapshot.manifest.attributes

    def names(self, column: str) -> list[str] | None:
        """Names of a column's entries, where they were given."""
        return self.snapshot.manifest.attributes.get(column, {}).get("names")

    @property
    def cameras(self) -> list[str]:
        """Every camera of any part."""
        return self.snapshot.cameras

    @property
    def episodes(self) -> EpisodeTable:
        """All committed episodes."""
        return self.snapshot.episodes

    def __len__(self) -> int:
        return self.snapshot.rows

    def __repr__(self) -> str:
        count = sum(entry.episodes for entry in self.snapshot.manifest.parts)
        return f"Store({str(self.path)!r}, episodes={count}, rows={len(self)}, hash={self.hash[:12]})"

    def append(self, episodes: Sequence[Episode]) -> list[str]:
        """Write episodes as one part and commit it; after the return they survive anything.

        Returns the episodes' ids. An empty id is given by content, so that equal runs make equal stores.

        Raises:
            DataError: if an episode does not fit the store, its id is taken, or another owner keeps the lock.
        """
        if not episodes:
            return []
        ids = append_part(self.snapshot, episodes)
        self.refresh()
        return ids

    def episode(self, id: str, images: bool = True) -> Episode:
        """Read one episode as it was appended; `images=False` leaves the cameras out."""
        table, place = self.episodes, self.episodes.index(id)
        part, within, rows = self.snapshot.place(id)
        columns = {name: part.column(name, rows) for name in part.entry.columns}
        found = {c: part.image(c, within) for c in part.entry.cameras} if images else {}
        return Episode(
            action=columns["action"],
            obs={k.removeprefix("obs/"): v for k, v in columns.items() if k.startswith("obs/")},
            time=columns["time"],
            has_action=columns["has_action"],
            has_next=columns["has_next"],
            terminated=bool(table.terminated[place]),
            truncated=bool(table.truncated[place]),
            task=table.task[place],
            instruction=table.instruction[place],
            source=table.source[place],
            images={camera: image for camera, image in found.items() if image is not None},
            truth={k.removeprefix("truth/"): v for k, v in columns.items() if k.startswith("truth/")},
            sim_state=columns.get("sim_state"),
            requested=columns.get("action_requested"),
            intervention=columns.get("intervention"),
            robot=table.robot[place],
            seed=int(table.seed[place]),
            success=int(table.success[place]),
            id=id,
        )

    def columns(self) -> list[str]:
        """Names that `column` takes: of every part, the rewards, and the embeddings."""
        return self.snapshot.column_names

    def column(self, name: str) -> np.ndarray:
        """A low-dimensional column over all rows, read once into RAM and then shared: read-only, copy it to change it.

        Raises:
            DataError: if a part lacks it, has another row shape, or is damaged.
        """
        return self.snapshot.column(name)

    def frame_rows(self, camera: str) -> Int64[np.ndarray, " n"]:
        """Global rows that have a frame of their own."""
        return np.flatnonzero(self.snapshot.slots(camera) != NO_FRAME).astype(np.int64)

    def frames(
        self, camera: str, rows: Int[np.ndarray, " n"] | Sequence[int], size: tuple[int, int] | None = None
    ) -> UInt8[np.ndarray, "n H W 3"]:
        """Pictures of global rows, resized to (height, width), from the decoded cache: the first call decodes.

        Raises:
            DataError: if a row has no frame, or pictures differ in size and none is asked for.
        """
        return read_frames(self.snapshot, self.cache, camera, np.asarray(rows, np.int64), size)

    def transitions(
        self,
        obs: Sequence[str] = ("state",),
        reward: str | None = None,
        *,
        action: str = "action",
        cameras: Sequence[str] = (),
        sight: Sight | None = None,
    ) -> Transitions:
        """Every row with an action and a next row; `reward` names a reward column, None gives zeros.

        `obs` are keys, or parts of keys (`vlmrl.sight.named`). Pictures of `cameras` stay in the store until
        they are wanted; where a row has none, the latest of its episode stands for it. `action` is the column of
        actions: `action_requested` for what a robot's policy or operator asked for, before the safety chain made of it
        what was sent; rows where nothing was asked are left out.

        Raises:
            DataError: if the reward column does not cover every transition, or one has no picture of a camera.
        """
        taken = self.column(action)
        asked = np.isfinite(taken).all(1) | (action == "action")
        rows = np.flatnonzero(self.column("has_action") & self.column("has_next") & asked)
        seen = self._numbers(obs, rows)
        episode = self.episodes.of_row(rows)
        ends = self.episodes.terminated[episode] & (rows + 2 == self.episodes.stop[episode])
        return Transitions(
            obs=seen[rows],
            action=taken[rows],
            reward=rewards.on_rows(self.snapshot, reward, rows),
            mask=np.where(ends, 0, 1).astype(np.float32),
            next_obs=seen[rows + 1],
            episode=episode.astype(np.int32),
            pictures=self._pictures(cameras, sight or Sight(), rows) if cameras else None,
        )

    def _numbers(self, obs: Sequence[str], rows: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "N D"]:
        columns = [np.zeros((len(self), 0), np.float32)]
        for key in obs:
            name, part = named(key)
            frozen = embedding(name)
            column = self._embedding(name, frozen[1], rows) if frozen else self.column(f"obs/{name}")
            if part.stop is not None and part.stop > column.shape[1]:
                raise DataError(f"obs {key!r}: {name!r} has {column.shape[1]} numbers")
            columns.append(column[:, part])
        return np.concatenate(columns, axis=1)

    def _embedding(self, name: str, camera: str, rows: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "N D"]:
        """Where a row has no picture, the latest of its episode stands for it, as with pictures."""
        at = latest(self.snapshot, camera)
        values = np.where((at == NO_FRAME)[:, None], np.nan, self.column(name)[at]).astype(np.float32)
        if (missing := int((np.isnan(values[rows, 0]) | np.isnan(values[rows + 1, 0])).sum())) > 0:
            raise DataError(f"{name!r} covers {len(rows) - missing} of {len(rows)} transitions")
        return values

    def _pictures(self, cameras: Sequence[str], sight: Sight, rows: Int64[np.ndarray, " n"]) -> Pictures:
        shown = {camera: latest(self.snapshot, camera) for camera in cameras}
        for camera, places in shown.items():
            if (blind := rows[(places[rows] == NO_FRAME) | (places[rows + 1] == NO_FRAME)]).size:
                about = self.episodes.id[int(self.episodes.of_row(blind[:1])[0])]
                raise DataError(
                    f"episode {about!r} has no picture of camera {camera!r} at its row {int(blind[0])} of the store, "
                    "nor before it"
                )

        def read(camera: str, wanted: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n H W 3"]:
            return self.frames(camera, shown[camera][wanted], sight.size)

        return Pictures(tuple(cameras), sight, rows, read)

    def spans(self, length: int, *, stride: int = 1) -> Int64[np.ndarray, "S L"]:
        """Global rows of every whole window of consecutive rows inside one episode, a window every `stride` rows."""
        if length < 1 or stride < 1:
            raise DataError(f"spans of {length} rows every {stride} rows: both must be at least 1")
        # a run goes on where the row before has a next row
        starts = np.flatnonzero(np.concatenate([[True], ~self.column("has_next")[:-1]]))
        stops = np.append(starts[1:], len(self))
        first = [np.arange(a, b - length + 1, stride) for a, b in zip(starts, stops, strict=True)]
        return np.concatenate(first).astype(np.int64)[:, None] + np.arange(length)

    def add_reward(
        self,
        name: str,
        mean: Float32[np.ndarray, " N"],
        std: Float32[np.ndarray, " N"],
        attributes: Mapping[str, Any],
    ) -> None:
        """Add a reward column over all rows: row i judged on what row i+1 shows, NaN where it has no next row.

        Raises:
            DataError: if the name is taken, or values and rows do not fit.
        """
        rewards.add(self.snapshot, name, mean, std, attributes)
        self.refresh()

    def rewards(self) -> dict[str, dict[str, Any]]:
        """Attributes of each reward column, with its `coverage`."""
        return self.snapshot.rewards()

    def add_embedding(self, name: str, values: Float16[np.ndarray, "N D"], attributes: Mapping[str, Any]) -> None:
        """Add the column `embedding/<name>`, name being `<encoder>/<camera>`; NaN where a row has no picture.

        Parts that it covers already are left as they are: an encoder never changes its mind.

        Raises:
            DataError: if no part is left to cover, or values and rows do not fit.
        """
        embeddings.add(self.snapshot, name, values, attributes)
        self.refresh()

    def embeddings(self) -> dict[str, dict[str, Any]]:
        """Attributes of each embedding column, by `<encoder>/<camera>`."""
        return self.snapshot.embeddings()

    def validate(self) -> list[str]:
        """Read everything and list what is wrong, one line each; empty where the store is whole."""
        return problems(self.snapshot)
