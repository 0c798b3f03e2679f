"""Pictures by row: finds the part, the slot in its decoded cache, and copies them out."""

import logging
from collections.abc import Callable

import numpy as np
from jaxtyping import Int64, UInt8

from vlmrl.errors import DataError, unknown
from vlmrl.store.cache import FrameCache
from vlmrl.store.part import Part
from vlmrl.store.snapshot import Snapshot
from vlmrl.types import NO_FRAME

_log = logging.getLogger(__name__)


def read_frames(
    store: Snapshot, cache: FrameCache, camera: str, rows: Int64[np.ndarray, " n"], size: tuple[int, int] | None
) -> UInt8[np.ndarray, "n H W 3"]:
    """Pictures of global rows, resized to (height, width), decoding each part once into the cache."""
    shape = size or _common_size(store, camera)
    if not cache.fits(_decoded_bytes(store, camera, shape)):
        _log.warning("frames of %r at %s exceed the cache limit and are decoded again at every call", camera, shape)
        return decode_frames(store, camera, rows, shape)
    return _gather(store, camera, rows, shape, lambda part, slots: _cached(cache, part, camera, shape)[slots])


def decode_frames(
    store: Snapshot, camera: str, rows: Int64[np.ndarray, " n"], size: tuple[int, int] | None
) -> UInt8[np.ndarray, "n H W 3"]:
    """Pictures of a few global rows, decoding these only and keeping nothing."""
    shape = size or _common_size(store, camera)
    return _gather(store, camera, rows, shape, lambda part, slots: _decoded(part, camera, slots, shape))


def latest(store: Snapshot, camera: str) -> Int64[np.ndarray, " N"]:
    """For every global row the row of the latest picture of its episode so far; NO_FRAME before the first."""
    slots, table = store.slots(camera), store.episodes
    rows = np.arange(len(slots))
    found = np.maximum.accumulate(np.where(slots != NO_FRAME, rows, NO_FRAME))
    return np.where(found >= table.start[table.of_row(rows)], found, NO_FRAME).astype(np.int64)


def _gather(
    store: Snapshot,
    camera: str,
    rows: Int64[np.ndarray, " n"],
    shape: tuple[int, int],
    take: Callable[[Part, Int64[np.ndarray, " _"]], UInt8[np.ndarray, "_ H W 3"]],
) -> UInt8[np.ndarray, "n H W 3"]:
    slots = store.slots(camera)
    _check_rows(slots, rows, camera)
    out = np.empty((len(rows), *shape, 3), np.uint8)
    part_of = np.searchsorted(store.part_start, rows, side="right") - 1
    for index in np.unique(part_of):
        at = np.flatnonzero(part_of == index)
        out[at] = take(store.parts[index], slots[rows[at]])
    return out


def _check_rows(slots: Int64[np.ndarray, " N"], rows: Int64[np.ndarray, " n"], camera: str) -> None:
    if len(rows) and (rows.min() < 0 or rows.max() >= len(slots)):
        raise DataError(f"rows {int(rows.min())} to {int(rows.max())} wanted, but the store has {len(slots)}")
    if np.any(missing := slots[rows] == NO_FRAME):
        row = int(rows[missing][0])
        raise DataError(f"row {row} has no frame of camera {camera!r}; frame_rows({camera!r}) lists those that have")


def _common_size(store: Snapshot, camera: str) -> tuple[int, int]:
    if camera not in store.cameras:
        raise unknown("camera", camera, store.cameras)
    sizes = {(c["height"], c["width"]) for e in store.manifest.parts if (c := e.cameras.get(camera))}
    if len(sizes) > 1:
        raise DataError(f"camera {camera!r} has pictures of sizes {sorted(sizes)}: ask for one size")
    return next(iter(sizes))


def _decoded_bytes(store: Snapshot, camera: str, shape: tuple[int, int]) -> int:
    frames = sum(e.cameras[camera]["frames"] for e in store.manifest.parts if camera in e.cameras)
    return frames * shape[0] * shape[1] * 3


def _cached(cache: FrameCache, part: Part, camera: str, shape: tuple[int, int]) -> UInt8[np.ndarray, "M H W 3"]:
    key = f"{part.entry.sha256[:16]}-{camera}-{shape[0]}x{shape[1]}"
    pictures = cache.get(key)
    if pictures is None:
        pictures = cache.fill(key, part.pictures(camera, shape), part.entry.cameras[camera]["frames"])
    return pictures


def _decoded(
    part: Part, camera: str, slots: Int64[np.ndarray, " n"], shape: tuple[int, int]
) -> UInt8[np.ndarray, "n H W 3"]:
    wanted, inverse = np.unique(slots, return_inverse=True)
    out = np.empty((len(wanted), *shape, 3), np.uint8)
    for i, picture in enumerate(part.some_pictures(camera, wanted, shape)):
        out[i] = picture
    return out[inverse]
