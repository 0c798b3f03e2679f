"""Metadata of LeRobot data sets: where each episode's rows and frames lie, for versions 2.0, 2.1 and 3.0.

Source: huggingface/lerobot `datasets/`. Version 2 keeps an episode a file and lists them in `meta/episodes.jsonl`;
version 3 packs many episodes into one file and keeps offsets in `meta/episodes/**/*.parquet`.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from vlmrl.errors import DataError

VERSIONS = ("v2.0", "v2.1", "v3.0")


@dataclass(frozen=True)
class Clip:
    """Where the video of one episode lies."""

    path: Path
    start_s: float
    stop_s: float
    """Exclusive; infinite where the file holds nothing else."""


@dataclass(frozen=True)
class Entry:
    """What the metadata says of one episode."""

    index: int
    length: int
    table: Path
    """Parquet file with its rows, perhaps among others'."""
    clips: Mapping[str, Clip]
    """By camera feature."""

    @property
    def files(self) -> list[Path]:
        """Everything that must exist."""
        return [self.table, *(clip.path for clip in self.clips.values())]


@dataclass(frozen=True)
class Dataset:
    """The metadata of a data set."""

    root: Path
    version: str
    fps: float
    robot: str
    features: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[int, str]
    """Sentence by task index."""
    episodes: Sequence[Entry]

    @property
    def observations(self) -> dict[str, str]:
        """Low-dimensional observations: feature to short name."""
        found = {k: f for k, f in self.features.items() if k.startswith("observation.")}
        return {k: _short(k) for k, f in found.items() if f["dtype"] in ("float32", "float64") and len(f["shape"]) == 1}

    @property
    def videos(self) -> dict[str, str]:
        """Cameras kept as video: feature to camera name."""
        return {k: _short(k) for k, f in self.features.items() if f["dtype"] == "video" and not _is_depth(f)}

    @property
    def images(self) -> dict[str, str]:
        """Cameras whose pictures lie in the tables: feature to camera name."""
        return {k: _short(k) for k, f in self.features.items() if f["dtype"] == "image"}

    @property
    def left_out(self) -> list[str]:
        """Features that a store has no place for."""
        read = {*self.observations, *self.videos, *self.images, "action", "timestamp", "next.reward", "next.success"}
        return sorted(
            self.features.keys() - read - {"frame_index", "episode_index", "index", "task_index", "next.done"}
        )

    def names(self) -> dict[str, list[str]]:
        """Names of the entries of observations and actions, by store column, where the data set gives one for each."""
        columns = {f"obs/{short}": self.features[key] for key, short in self.observations.items()}
        columns["action"] = self.features["action"]
        found = {column: _flat(feature.get("names")) for column, feature in columns.items()}
        return {column: value for column, value in found.items() if [len(value)] == list(columns[column]["shape"])}


def _short(key: str) -> str:
    return key.removeprefix("observation.").removeprefix("images.")


def _is_depth(feature: Mapping[str, Any]) -> bool:
    about = feature.get("info") or {}
    return bool(about.get("video.is_depth_map") or about.get("is_depth_map"))


def _flat(value: Any) -> list[str]:
    """Names come as a list, a list in a list, or a dictionary of lists."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list):
        return []
    return [name for part in value for name in (_flat(part) if isinstance(part, list) else [str(part)])]


def parquet() -> ModuleType:
    """`pyarrow.parquet`, of the video extra."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("reading LeRobot data sets needs pyarrow: pip install 'vlmrl[video]'") from error
    return pyarrow.parquet


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> Any:
    """A parquet file as an Arrow table.

    Raises:
        DataError: naming the file.
    """
    reader = parquet()
    try:
        return reader.read_table(path, columns=None if columns is None else list(columns), partitioning=None)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"parquet file {path} cannot be read: {error}") from error


def load(root: Path) -> Dataset:
    """Read and check the metadata.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    path = root / "meta" / "info.json"
    info = _json(path)
    version = str(info.get("codebase_version"))
    if version not in VERSIONS:
        raise DataError(f"{path}: codebase_version {version!r} is not known; have: {', '.join(VERSIONS)}")
    missing = [k for k in ("fps", "features", "data_path") if k not in info]
    missing += [] if "action" in info.get("features", {}) else ["features.action"]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}")
    features: dict[str, dict[str, Any]] = info["features"]
    videos = [k for k, f in features.items() if f["dtype"] == "video" and not _is_depth(f)]
    new = version == "v3.0"
    tasks = _tasks_v3(root) if new else _tasks_v2(root)
    entries = list(_entries_v3(root, info, videos) if new else _entries_v2(root, info, videos))
    _check_total(path, info, entries)
    return Dataset(root, version, float(info["fps"]), str(info.get("robot_type") or ""), features, tasks, entries)


def _check_total(path: Path, info: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    episodes, rows = len(entries), sum(e.length for e in entries)
    wanted = int(info.get("total_episodes", episodes)), int(info.get("total_frames", rows))
    if wanted != (episodes, rows):
        raise DataError(
            f"{path} counts {wanted[0]} episodes and {wanted[1]} rows, but meta/episodes lists {episodes} and {rows}"
        )


def _entries_v2(root: Path, info: Mapping[str, Any], videos: Sequence[str]) -> Iterator[Entry]:
    for about in _lines(root / "meta/episodes.jsonl"):
        index = int(about["episode_index"])
        chunk = index // int(info.get("chunks_size", 1000))
        place = {"episode_chunk": chunk, "episode_index": index}
        clips = {
            key: Clip(root / _template(root, info, "video_path").format(**place, video_key=key), 0.0, math.inf)
            for key in videos
        }
        yield Entry(index, int(about["length"]), root / _template(root, info, "data_path").format(**place), clips)


def _entries_v3(root: Path, info: Mapping[str, Any], videos: Sequence[str]) -> Iterator[Entry]:
    paths = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not paths:
        raise DataError(f"{root / 'meta' / 'episodes'} holds no parquet file")
    offsets = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    columns = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    columns += [f"videos/{key}/{name}" for key in videos for name in offsets]
    for path in paths:
        schema = _columns(path)
        if lacking := [c for c in columns if c not in schema]:
            raise DataError(f"{path} lacks the columns {', '.join(lacking)}")
        for row in read_parquet(path, columns).to_pylist():
            table = _template(root, info, "data_path").format(
                chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
            )
            clips: dict[str, Clip] = {}
            for key in videos:
                chunk, file, start, stop = (row[f"videos/{key}/{name}"] for name in offsets)
                where = _template(root, info, "video_path").format(video_key=key, chunk_index=chunk, file_index=file)
                clips[key] = Clip(root / where, float(start), float(stop))
            yield Entry(int(row["episode_index"]), int(row["length"]), root / table, clips)


def _tasks_v2(root: Path) -> dict[int, str]:
    return {int(about["task_index"]): str(about["task"]) for about in _lines(root / "meta" / "tasks.jsonl")}


def _tasks_v3(root: Path) -> dict[int, str]:
    path = root / "meta" / "tasks.parquet"
    table = read_parquet(path)
    # pandas keeps the sentences as the index, whose column name depends on the writer
    texts = [name for name in table.column_names if name != "task_index"]
    if "task_index" not in table.column_names or not texts:
        raise DataError(f"{path} has the columns {table.column_names}, task_index and the sentences wanted")
    pairs = zip(table.column("task_index").to_pylist(), table.column(texts[0]).to_pylist(), strict=True)
    return {int(index): str(text) for index, text in pairs}


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: a LeRobot data set is a folder that holds it") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except ValueError as error:
        raise DataError(f"{path} is not one JSON object a line: {error}") from error


def _template(root: Path, info: Mapping[str, Any], key: str) -> str:
    if key not in info:
        raise DataError(f"{root / 'meta/info.json'} lacks {key!r}; have: {', '.join(sorted(info))}")
    return str(info[key])


def _columns(path: Path) -> list[str]:
    """Names of a parquet file's columns."""
    try:
        return list(parquet().read_schema(path).names)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no readable parquet file: {error}") from error
