"""Import of LeRobot data sets, versions 2.0, 2.1 and 3.0, without the lerobot package.

Every row has an action, the last has no next row. Videos stay videos. `next.success` on the last row means that the
episode terminated; without it the recording just stopped, and the last row bootstraps. `next.reward` of row i becomes
`truth/reward` of row i+1, the row that it judges.
"""

import hashlib
import io
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8
from PIL import Image, UnidentifiedImageError

from vlmrl.errors import DataError
from vlmrl.store import manifest
from vlmrl.store.importers import Report, append_all
from vlmrl.store.lerobot_meta import Clip, Dataset, Entry, load, read_parquet
from vlmrl.store.store import Store
from vlmrl.store.video import FrameTable, frame_table
from vlmrl.types import Episode, Frames, Video

_LISTS = ("list<", "large_list<", "fixed_size_list<")


@dataclass(frozen=True)
class Config:
    """Import a LeRobot data set."""

    source: str
    """Folder that holds `meta/info.json`."""
    out: str
    """Store to write; an existing one is continued."""
    task: str = ""
    """Task name to record; the folder's name where empty."""
    batch: int = 16
    """Episodes committed at a time."""


def run(config: Config, progress: Callable[[int], None] | None = None) -> Report:
    """Import into a store, new or half filled; `progress` is told how many episodes were committed.

    Raises:
        DataError: naming what is wrong with the source; the episodes before it are kept.
    """
    dataset = load(Path(config.source))
    out = Path(config.out)
    if (out / manifest.NAME).exists():
        store = Store.open(out)
    else:
        store = Store.create(out, names=dataset.names(), meta={"fps": dataset.fps})
    added = import_lerobot(config.source, store, task=config.task, batch=config.batch, progress=progress)
    return Report(store, added, len(dataset.episodes) - len(added), dataset.left_out)


def import_lerobot(
    source: Path | str,
    store: Store,
    *,
    task: str = "",
    batch: int = 16,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Append every episode that the store lacks; returns their ids.

    Episodes are recognised by content: an interrupted import goes on where it was, and a second one adds nothing.

    Raises:
        DataError: as `read`; the episodes before it are kept.
    """
    return append_all(store, read(source, skip=store.episodes, task=task), batch=batch, progress=progress)


def read(source: Path | str, *, skip: Container[str] = (), task: str = "") -> Iterator[Episode]:
    """Yield the episodes of a data set, without those whose id is in `skip`.

    Raises:
        DataError: naming the file, if one is missing or unreadable, or counts disagree.
    """
    dataset = load(Path(source))
    missing = sorted({path for entry in dataset.episodes for path in entry.files if not path.is_file()})
    if missing:
        raise DataError(f"{missing[0]} is missing" + (f", and {len(missing) - 1} more files" if missing[1:] else ""))
    tables, videos = lru_cache(maxsize=1)(read_parquet), lru_cache(maxsize=8)(frame_table)
    for entry in dataset.episodes:
        rows = _Rows(dataset, entry, _own_rows(tables(entry.table), entry))
        episode = rows.episode(task or dataset.root.resolve().name)
        if episode.id not in skip:
            yield replace(episode, images=rows.pictures() | rows.clips(videos))


def _own_rows(table: Any, entry: Entry) -> Any:
    """The rows of one episode in a file of several."""
    if "episode_index" not in table.column_names:
        raise DataError(f"{entry.table} has no column episode_index")
    own = np.flatnonzero(table.column("episode_index").to_numpy() == entry.index)
    if len(own) != entry.length:
        raise DataError(
            f"{entry.table} has {len(own)} rows of episode {entry.index}, but the metadata counts {entry.length}"
        )
    return table.take(own)


@dataclass(frozen=True)
class _Rows:
    """One episode's rows."""

    dataset: Dataset
    entry: Entry
    table: Any

    def episode(self, task: str) -> Episode:
        """Everything but the pictures."""
        rows, features = self.entry.length, self.dataset.features
        action = self.matrix("action")
        obs = {short: self.matrix(key) for key, short in self.dataset.observations.items()}
        time = self.vector("timestamp")
        success = bool(self.vector("next.success")[-1]) if "next.success" in features else None
        truth: dict[str, Float32[np.ndarray, " T"]] = {}
        if "next.reward" in features:
            truth["reward"] = np.append(np.float32(np.nan), self.vector("next.reward")[:-1]).astype(np.float32)
        instruction = self.instruction()
        return Episode(
            action=action,
            obs=obs,
            time=time - time[0],
            has_action=np.ones(rows, bool),
            has_next=np.arange(rows) < rows - 1,
            terminated=bool(success),
            truncated=not success,
            task=task,
            instruction=instruction,
            source=f"lerobot {task}/{self.entry.index}",
            truth=truth,
            robot=self.dataset.robot,
            success=-1 if success is None else int(success),
            id=_episode_id(self.entry.index, instruction, action, time, obs),
        )

    def _column(self, key: str) -> Any:
        if key not in self.table.column_names:
            have = ", ".join(self.table.column_names)
            raise DataError(f"{self.entry.table} has no column {key}; have: {have}")
        column = self.table.column(key).combine_chunks()
        if column.null_count:
            raise DataError(f"{self.entry.table}: {key} has {column.null_count} empty rows")
        return column

    def _numbers(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """A numeric column, checked against the type that the metadata declares."""
        column = self._column(key)
        values = column.flatten() if str(column.type).startswith(_LISTS) else column
        kind = {"f": "float", "i": "int", "u": "int", "b": "bool"}.get(_numpy_kind(values), "")
        declared = str(self.dataset.features.get(key, {}).get("dtype", kind or "numbers"))
        what = f"{self.entry.table}: {key}"
        if not kind or not declared.startswith(kind) or values.null_count:
            raise DataError(f"{what} holds {column.type} with {values.null_count} empty entries, {declared} wanted")
        if len(values) != int(np.prod(shape)):
            raise DataError(f"{what} has {len(values)} numbers in {shape[0]} rows, {list(shape[1:])} a row wanted")
        return values.to_numpy(zero_copy_only=False).reshape(shape)

    def matrix(self, key: str) -> Float32[np.ndarray, "T D"]:
        """A column of vectors."""
        width = int(self.dataset.features[key]["shape"][0])
        return np.ascontiguousarray(self._numbers(key, (self.entry.length, width)), np.float32)

    def vector(self, key: str) -> Float64[np.ndarray, " T"]:
        """A column of numbers."""
        return self._numbers(key, (self.entry.length,)).astype(np.float64)

    def instruction(self) -> str:
        """The sentence; several are joined in order."""
        if "task_index" not in self.table.column_names:
            return ""
        indices = dict.fromkeys(int(i) for i in self.vector("task_index"))
        if unknown := [i for i in indices if i not in self.dataset.tasks]:
            raise DataError(f"{self.entry.table}: task_index {unknown[0]} is not in the data set's table of tasks")
        return "; ".join(self.dataset.tasks[i] for i in indices)

    def pictures(self) -> dict[str, Frames]:
        """Cameras whose pictures lie in the table, as encoded bytes or as paths."""
        index = np.arange(self.entry.length, dtype=np.int32)
        return {
            camera: Frames(np.stack([self._picture(key, cell) for cell in self._column(key).to_pylist()]), index)
            for key, camera in self.dataset.images.items()
        }

    def _picture(self, key: str, cell: Any) -> UInt8[np.ndarray, "H W 3"]:
        try:
            source = io.BytesIO(cell["bytes"]) if cell["bytes"] else self.dataset.root / cell["path"]
            with Image.open(source) as picture:
                return np.asarray(picture.convert("RGB"))
        except (OSError, UnidentifiedImageError, TypeError, KeyError) as error:
            raise DataError(f"{self.entry.table}: a picture of {key} cannot be read: {error}") from error

    def clips(self, tables: Callable[[Path], FrameTable]) -> dict[str, Video]:
        """Cameras kept as video."""
        time = self.vector("timestamp")
        found = {key: (clip, tables(clip.path)) for key, clip in self.entry.clips.items()}
        index = {key: self._frame_numbers(clip, frames, time) for key, (clip, frames) in found.items()}
        return {self.dataset.videos[key]: Video(clip.path, index[key]) for key, (clip, _) in found.items()}

    def _frame_numbers(
        self, clip: Clip, frames: FrameTable, time: Float64[np.ndarray, " T"]
    ) -> Int32[np.ndarray, " T"]:
        """Frame nearest in time to each row, after checking that the clip has as many frames as the episode rows."""
        half = 0.5 / self.dataset.fps
        shown = frames.time - frames.time[0] if len(frames) else frames.time
        inside = np.flatnonzero((shown >= clip.start_s - half) & (shown < clip.stop_s - half))
        if len(inside) != self.entry.length:
            raise DataError(
                f"{clip.path} has {len(inside)} frames for episode {self.entry.index}, "
                f"but {self.entry.table} has {self.entry.length} rows"
            )
        nearest = np.clip(np.round((time + clip.start_s - shown[inside[0]]) * self.dataset.fps), 0, len(inside) - 1)
        number = inside[nearest.astype(np.int64)]
        late = np.abs(shown[number] - time - clip.start_s)
        if late.max() > half:
            row = int(late.argmax())
            raise DataError(f"{clip.path}: no frame at {time[row]:.4f} s (row {row} of episode {self.entry.index})")
        return number.astype(np.int32)


def _numpy_kind(values: Any) -> str:
    """NumPy's kind letter of an Arrow type, 'O' where there is none."""
    try:
        return np.dtype(values.type.to_pandas_dtype()).kind
    except (NotImplementedError, TypeError):
        return "O"


def _episode_id(index: int, instruction: str, action: np.ndarray, time: np.ndarray, obs: dict[str, np.ndarray]) -> str:
    """The same in every version of the format, so that a converted data set is recognised."""
    sha = hashlib.sha256(instruction.encode())
    for values in (action, time, *(obs[key] for key in sorted(obs))):
        sha.update(values.tobytes())
    return f"lerobot-{index:06d}-{sha.hexdigest()[:12]}"
