"""Pictures out of video files with PyAV, by frame number, in bounded memory.

A frame's number is its place in presentation order; files with B-frames, edit lists or a start time other than zero are
read right, because packets are listed first and frames are matched to them by presentation time stamp.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64, UInt8
from PIL import Image

from vlmrl.errors import DataError

_SEEK_FRAMES = 32
"""Decoding this many unwanted frames is cheaper than a seek."""


def _av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise DataError("reading video needs PyAV: pip install 'vlmrl[video]'") from error
    return av


@dataclass(frozen=True)
class FrameTable:
    """The frames of one video file in presentation order."""

    stamp: Int64[np.ndarray, " F"]
    """Presentation time stamps in the stream's time base."""
    time: Float64[np.ndarray, " F"]
    """s."""
    key: Bool[np.ndarray, " F"]
    """Where decoding can start."""
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.stamp)


def frame_table(path: Path) -> FrameTable:
    """List the frames of a video without decoding them.

    Raises:
        DataError: naming the file, if it cannot be read.
    """
    av = _av()
    if not path.is_file():
        raise DataError(f"video file {path} is missing")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path} holds no video stream")
            stream = container.streams.video[0]
            found = sorted(
                (p.pts, p.is_keyframe) for p in container.demux(stream) if p.pts is not None and not p.is_discard
            )
            base, height, width = float(stream.time_base), stream.codec_context.height, stream.codec_context.width
    except av.error.FFmpegError as error:
        raise DataError(f"video file {path} cannot be read: {error}") from error
    stamp = np.array([s for s, _ in found], np.int64)
    return FrameTable(stamp, stamp * base, np.array([k for _, k in found], bool), height, width)


def decode(
    path: Path, frames: Sequence[int] | Int[np.ndarray, " n"], size: tuple[int, int] | None = None
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Yield the pictures with the given ascending frame numbers, resized to (height, width).

    Raises:
        DataError: naming the file, if a frame is missing or cannot be decoded.
    """
    av, table = _av(), frame_table(path)
    wanted = np.asarray(frames, np.int64)
    if len(wanted) and (wanted[0] < 0 or wanted[-1] >= len(table)):
        worst = int(wanted[0] if wanted[0] < 0 else wanted[-1])
        raise DataError(f"{path} has {len(table)} frames, but frame {worst} is wanted")
    try:
        with av.open(str(path)) as container:
            for run in _runs(wanted, table.key):
                yield from _decode_run(container, table, run, path, size)
    except av.error.FFmpegError as error:
        raise DataError(f"video file {path} cannot be decoded: {error}") from error


def _runs(wanted: Int64[np.ndarray, " n"], key: Bool[np.ndarray, " F"]) -> list[Int64[np.ndarray, " _"]]:
    """Split where seeking to the next key frame skips more than it costs."""
    if not len(wanted):
        return []
    last_key = np.maximum.accumulate(np.where(key, np.arange(len(key)), 0))
    gaps = last_key[wanted[1:]] - wanted[:-1]
    return np.split(wanted, np.flatnonzero(gaps > _SEEK_FRAMES) + 1)


def _decode_run(
    container: Any, table: FrameTable, run: Int64[np.ndarray, " n"], path: Path, size: tuple[int, int] | None
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    stream = container.streams.video[0]
    container.seek(int(table.stamp[run[0]]), stream=stream, backward=True)
    stamps = table.stamp[run]
    at = 0
    for frame in container.decode(stream):
        if frame.pts == stamps[at]:
            yield resize(frame.to_ndarray(format="rgb24"), size)
            at += 1
            if at == len(run):
                return
    raise DataError(f"{path} lists frame {int(run[at])}, but it cannot be decoded")


def resize(picture: UInt8[np.ndarray, "_ _ 3"], size: tuple[int, int] | None) -> UInt8[np.ndarray, "H W 3"]:
    """Scale a picture to (height, width), antialiased."""
    if size is None or picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BILINEAR))
