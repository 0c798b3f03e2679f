"""Validation: reads everything a store holds and says in one line each what is wrong."""

from collections.abc import Iterator

import numpy as np

from vlmrl.errors import DataError
from vlmrl.store import video, write
from vlmrl.store.part import Part
from vlmrl.store.snapshot import Snapshot
from vlmrl.types import NO_FRAME


def problems(store: Snapshot) -> list[str]:
    """Checksums, then shapes and dtypes of what passed them."""
    lines: list[str] = []
    for part in store.parts:
        lines += _guarded(part)
    for name in store.manifest.columns:
        try:
            lines += store.added(name).sealed.content_problems()
        except DataError as error:
            lines.append(str(error))
    if not lines:
        lines += list(_table(store))
        lines += list(_rewards(store))
        lines += list(_embeddings(store))
    return lines


def _guarded(part: Part) -> list[str]:
    try:
        return part.sealed.content_problems() or list(_part(part))
    except DataError as error:
        return [str(error)]


def _part(part: Part) -> Iterator[str]:
    what, entry = part.sealed.what, part.entry
    end = part.end
    if len(end) != entry.episodes or (len(end) and int(end[-1]) != entry.rows) or np.any(np.diff(end, prepend=0) < 1):
        yield f"{what}: episodes end at rows {end.tolist()}, {entry.episodes} episodes in {entry.rows} rows wanted"
        return
    for name, shape in entry.columns.items():
        values = part.column(name)
        dtype = write.DTYPES.get(name, "float32")
        if values.shape != (entry.rows, *shape) or values.dtype != np.dtype(dtype):
            yield f"{what}: {name} is {values.dtype} {values.shape}, {dtype} {(entry.rows, *shape)} wanted"
    again = part.zarr_facts()
    if differing := [name for name, value in part.facts.items() if not np.array_equal(value, again[name])]:
        yield f"{what}: episodes.json and the group episode differ in {', '.join(differing)}"
    last = part.column("has_next")[end - 1]
    if last.any():
        yield f"{what}: the last row of episode {int(np.flatnonzero(last)[0])} claims a next row"
    for camera in entry.cameras:
        yield from _camera(part, camera)


def _camera(part: Part, camera: str) -> Iterator[str]:
    index, about = part.image_index(camera), part.entry.cameras[camera]
    if len(index) != part.entry.rows or (len(index) and index.min() < NO_FRAME):
        yield f"{part.sealed.what}: camera {camera} has an index of {len(index)} rows, {part.entry.rows} wanted"
    if about["form"] == "pixels":
        if len(index) and index.max() >= about["frames"]:
            yield f"{part.sealed.what}: camera {camera} refers to frame {int(index.max())} of {about['frames']}"
        return
    for path, frames in part.video_frames(camera).items():
        have = len(video.frame_table(path))
        if frames > have:
            yield f"{part.sealed.what}: {path} has {have} frames, but frame {frames - 1} is referred to"


def _table(store: Snapshot) -> Iterator[str]:
    ids = store.episodes.id
    if len(set(ids)) != len(ids):
        twice = sorted({i for i in ids if ids.count(i) > 1})
        yield f"episode ids used more than once: {', '.join(twice)}"


def _rewards(store: Snapshot) -> Iterator[str]:
    for name in store.rewards():
        mean = store.column(f"reward/{name}/mean")
        if (~np.isnan(mean) & ~store.column("has_next")).any():
            yield f"reward {name}: has values on rows without a next row"


def _embeddings(store: Snapshot) -> Iterator[str]:
    for name in store.embeddings():
        camera = name.partition("/")[2]
        if (~np.isnan(store.column(f"embedding/{name}")[:, 0]) & (store.slots(camera) == NO_FRAME)).any():
            yield f"embedding {name}: has vectors on rows without a picture"
