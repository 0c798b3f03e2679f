"""Writing a part: checks episodes at the border, then lays them out in a folder that nothing names yet."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from vlmrl.errors import DataError
from vlmrl.store import disk, layout
from vlmrl.store.video import FrameTable, frame_table
from vlmrl.types import NO_FRAME, Episode, Frames, Video

DTYPES = {
    "action": "float32",
    "action_requested": "float32",
    "intervention": "uint8",
    "time": "float64",
    "has_action": "bool",
    "has_next": "bool",
    "sim_state": "float64",
}
"""Of the columns whose name fixes it; `obs/*` and `truth/*` are float32."""
RANKS = {
    "action": 2,
    "action_requested": 2,
    "intervention": 1,
    "time": 1,
    "has_action": 1,
    "has_next": 1,
    "sim_state": 2,
}


@dataclass
class PartWriter:
    """One part in the making."""

    folder: Path
    episodes: Sequence[Episode]
    attributes: Mapping[str, Mapping[str, Any]]
    """By column, as in the manifest."""
    committed: Sequence[Path] = ()
    """Folders of parts, whose videos are linked instead of copied again."""
    columns: dict[str, list[int]] = field(default_factory=dict)
    cameras: dict[str, dict[str, Any]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    """Sha256 of the video files within the part, by relative path."""
    _videos: dict[Path, tuple[str, FrameTable]] = field(default_factory=dict)

    def write(self) -> None:
        """Write everything that does not depend on what else the store holds.

        Raises:
            DataError: if an episode is not as its type says, or episodes do not fit each other.
        """
        self.columns = common_columns(self.episodes)
        root = layout.create(self.folder)
        steps = root.create_group("step")
        per_episode = [layout.columns(e) for e in self.episodes]
        for name in self.columns:
            layout.write_array(steps, name, np.concatenate([c[name] for c in per_episode]), self.attributes.get(name))
        for camera in dict.fromkeys(c for e in self.episodes for c in e.images):
            layout.check_name("camera", camera)
            self.cameras[camera] = self._write_camera(steps.create_group(f"image/{camera}"), camera)

    def _write_camera(self, group: zarr.Group, camera: str) -> dict[str, Any]:
        images = [e.images.get(camera) for e in self.episodes]
        forms = {type(i) for i in images if i is not None}
        if len(forms) > 1:
            raise DataError(f"camera {camera!r}: some episodes hold pictures, others video; append them separately")
        if forms == {Frames}:
            return _write_frames(group, camera, images, [len(e) for e in self.episodes])
        return self._write_videos(group, camera, images)

    def _write_videos(self, group: zarr.Group, camera: str, images: Sequence[Frames | Video | None]) -> dict[str, Any]:
        names: list[str] = []
        file = [NO_FRAME] * len(images)
        index = [np.full(len(e), NO_FRAME, np.int32) for e in self.episodes]
        seen: set[tuple[int, int]] = set()
        sizes: set[tuple[int, int]] = set()
        for i, video in enumerate(images):
            if not isinstance(video, Video):
                continue
            name, table = self._adopt(video.path, camera)
            check_index(video.index, len(table), f"camera {camera!r}, video {video.path}")
            names += [] if name in names else [name]
            file[i], index[i] = names.index(name), video.index
            seen |= {(file[i], int(f)) for f in video.index if f != NO_FRAME}
            sizes.add((table.height, table.width))
        if len(sizes) > 1:
            raise DataError(f"camera {camera!r}: videos of different sizes {sorted(sizes)}; append them separately")
        layout.write_array(group, "index", np.concatenate(index))
        group.attrs.update({"form": "video", "files": names, "file": file})
        (height, width), *_ = sizes
        return {"form": "video", "height": height, "width": width, "frames": len(seen)}

    def _adopt(self, source: Path, camera: str) -> tuple[str, FrameTable]:
        """Copy a video into the part once, named by its content."""
        if source not in self._videos:
            table = frame_table(source)
            self._videos[source] = (disk.file_digest(source), table)
        sha, table = self._videos[source]
        name = f"video/{camera}/{sha[:16]}{source.suffix}"
        target = self.folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            twin = next((folder / name for folder in self.committed if (folder / name).exists()), None)
            _link(twin, target) if twin else shutil.copyfile(source, target)
            if disk.file_digest(target) != sha:
                raise DataError(f"{twin or source} changed while it was copied, or is damaged")
            self.digests[name] = sha
        return name, table

    def write_episodes(self, ids: Sequence[str]) -> None:
        """Write the table of episodes, whose ids are only known under the store's lock."""
        group, episodes = layout.create(self.folder).create_group("episode"), self.episodes
        end = np.cumsum([len(e) for e in episodes]).tolist()
        numbers = {k: [getattr(e, k) for e in episodes] for k in layout.EPISODE_DTYPES if k != "end"} | {"end": end}
        for name, dtype in layout.EPISODE_DTYPES.items():
            layout.write_array(group, name, np.array(numbers[name], dtype))
        # zarr 3 has no stable string type yet: texts are attributes
        texts = {k: [getattr(e, k) for e in episodes] for k in layout.EPISODE_TEXTS} | {"id": list(ids)}
        group.attrs.update(texts)
        (self.folder / layout.EPISODES).write_bytes(disk.canonical(numbers | texts))


def _link(source: Path, target: Path) -> None:
    """Share a file of another part; copy where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write_frames(group: zarr.Group, camera: str, images: Sequence[Any], rows: Sequence[int]) -> dict[str, Any]:
    sizes = {i.pixels.shape[1:] for i in images if i is not None}
    if len(sizes) > 1:
        raise DataError(f"camera {camera!r}: pictures of different sizes {sorted(sizes)}; append them separately")
    index: list[np.ndarray] = []
    end: list[int] = []
    total = 0
    for image, count in zip(images, rows, strict=True):
        if image is None:
            index.append(np.full(count, NO_FRAME, np.int32))
        else:
            check_index(image.index, len(image.pixels), f"camera {camera!r}")
            index.append(np.where(image.index == NO_FRAME, NO_FRAME, image.index + total).astype(np.int32))
            total += len(image.pixels)
        end.append(total)
    layout.write_array(group, "index", np.concatenate(index))
    layout.write_array(group, "end", np.array(end, np.int64))
    layout.write_pixels(group, "pixels", (i.pixels for i in images if i is not None), total)
    group.attrs.update({"form": "pixels", "present": [i is not None for i in images]})
    (height, width, _), *_ = sizes
    return {"form": "pixels", "height": height, "width": width, "frames": total}


def check_index(index: np.ndarray, frames: int, what: str) -> None:
    """An image index names existing frames."""
    if index.dtype != np.int32:
        raise DataError(f"{what}: image index has dtype {index.dtype}, int32 wanted")
    if len(index) and (index.min() < NO_FRAME or index.max() >= frames):
        worst = int(index.min() if index.min() < NO_FRAME else index.max())
        raise DataError(f"{what} has {frames} frames, but a row refers to frame {worst}")


def common_columns(episodes: Sequence[Episode]) -> dict[str, list[int]]:
    """Shape of one row by column name, after checking every episode against its type and the first one."""
    shapes: dict[str, list[int]] = {}
    for i, episode in enumerate(episodes):
        found = {name: _checked(name, values) for name, values in layout.columns(episode).items()}
        _check_pixels(episode)
        if i and found != shapes:
            keys = sorted(k for k in shapes.keys() | found.keys() if shapes.get(k) != found.get(k))
            wanted, got = ({k: s.get(k) for k in keys} for s in (shapes, found))
            raise DataError(f"episode {i} of {len(episodes)} does not fit the first: row shapes {got}, {wanted} wanted")
        shapes = found
    return shapes


def _checked(name: str, values: np.ndarray) -> list[int]:
    dtype = DTYPES.get(name, "float32")
    rank = RANKS.get(name, 2 if name.startswith("obs/") else 1)
    if "/" in name:
        layout.check_name(name.split("/")[0], name.split("/", 1)[1])
    if values.dtype != np.dtype(dtype) or values.ndim != rank:
        raise DataError(f"{name} has dtype {values.dtype} and {values.ndim} axes, {dtype} and {rank} wanted")
    return list(values.shape[1:])


def _check_pixels(episode: Episode) -> None:
    for camera, image in episode.images.items():
        if isinstance(image, Frames) and (
            image.pixels.dtype != np.uint8 or image.pixels.ndim != 4 or image.pixels.shape[3] != 3
        ):
            raise DataError(
                f"camera {camera!r}: pixels are {image.pixels.dtype} {image.pixels.shape}, uint8 (M, H, W, 3) wanted"
            )


def content_id(episode: Episode) -> str:
    """An id that equal episodes share, so that two runs of one seed make the same store."""
    sha = hashlib.sha256()
    facts = {
        k: getattr(episode, k)
        for k in ("terminated", "truncated", "task", "instruction", "source", "robot", "seed", "success")
    }
    sha.update(disk.canonical(facts))
    for name, values in sorted(layout.columns(episode).items()):
        sha.update(f"{name}{values.shape}".encode() + np.ascontiguousarray(values).data)
    for camera, image in sorted(episode.images.items()):
        sha.update(camera.encode() + np.ascontiguousarray(image.index).data)
        sha.update(
            np.ascontiguousarray(image.pixels).data
            if isinstance(image, Frames)
            else disk.file_digest(image.path).encode()
        )
    return sha.hexdigest()[:16]
