"""How arrays lie in a part: names, chunks and codecs of the zarr format 3 groups."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import UInt8
from zarr.codecs import ZstdCodec

from vlmrl.errors import DataError
from vlmrl.types import Episode

CHUNK_FRAMES = 16
SHARD_BYTES = 64 << 20
"""Pixels held in memory while writing."""
SHARD_FRAMES = 1024
EPISODES = "episodes.json"
"""The table of a part's episodes once more, in one file: a store of a thousand parts opens in a second, not in ten."""
EPISODE_DTYPES = {"end": "int64", "terminated": "bool", "truncated": "bool", "success": "int8", "seed": "int64"}
EPISODE_TEXTS = ("id", "task", "robot", "instruction", "source")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def check_name(kind: str, name: str) -> None:
    """Names become folders: letters, digits, dot, dash and underscore."""
    if not _NAME.fullmatch(name):
        raise DataError(f"{kind} name {name!r}: letters, digits, '.', '_' and '-' wanted, not starting with '.' or '-'")


def columns(episode: Episode) -> dict[str, np.ndarray]:
    """The low-dimensional columns of an episode, by the names that `Store.column` takes."""
    fixed = {
        "action": episode.action,
        "time": episode.time,
        "has_action": episode.has_action,
        "has_next": episode.has_next,
    }
    optional = {
        "sim_state": episode.sim_state,
        "action_requested": episode.requested,
        "intervention": episode.intervention,
    }
    given = {name: values for name, values in optional.items() if values is not None}
    obs = {f"obs/{key}": value for key, value in episode.obs.items()}
    return fixed | obs | given | {f"truth/{key}": value for key, value in episode.truth.items()}


def create(folder: Path) -> zarr.Group:
    """A new group; its folder may exist."""
    return zarr.open_group(folder, mode="a", zarr_format=3)


def write_array(group: zarr.Group, name: str, values: np.ndarray, attributes: Mapping[str, Any] | None = None) -> None:
    """Write a low-dimensional array as one chunk."""
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=tuple(max(1, n) for n in values.shape),
        compressors=ZstdCodec(level=3, checksum=True),
        attributes=dict(attributes or {}),
        # a chunk that equals the fill value would not be written, and -0.0 equals 0.0
        config={"write_empty_chunks": True},
    )
    array[...] = values


def write_pixels(group: zarr.Group, name: str, blocks: Iterable[UInt8[np.ndarray, "_ H W 3"]], frames: int) -> None:
    """Write blocks of pictures one after the other, a shard at a time."""
    blocks = iter(blocks)
    first = next(blocks)
    shape = first.shape[1:]
    shard = _shard_frames(frames, int(np.prod(shape)))
    array = group.create_array(
        name,
        shape=(frames, *shape),
        dtype="uint8",
        chunks=(CHUNK_FRAMES, *shape),
        shards=(shard, *shape),
        compressors=ZstdCodec(level=3, checksum=True),
    )
    buffer, filled, start = np.empty((shard, *shape), np.uint8), 0, 0
    for block in (first, *blocks):
        taken = 0
        while taken < len(block):
            count = min(shard - filled, len(block) - taken)
            buffer[filled : filled + count] = block[taken : taken + count]
            filled, taken = filled + count, taken + count
            if filled == shard:
                array[start : start + shard] = buffer
                start, filled = start + shard, 0
    if filled:
        array[start : start + filled] = buffer[:filled]


def _shard_frames(frames: int, frame_bytes: int) -> int:
    """A multiple of the chunk that fits the data and SHARD_BYTES."""
    chunks = min(SHARD_FRAMES, frames, max(1, SHARD_BYTES // max(1, frame_bytes)))
    return CHUNK_FRAMES * max(1, -(-chunks // CHUNK_FRAMES))
