"""Pictures of an episode, and what is known of them brought to every row: the reward of row i is judged on row i+1."""

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from vlmrl.errors import DataError
from vlmrl.types import NO_FRAME, Episode, Frames


def shown(episode: Episode, camera: str) -> tuple[Int64[np.ndarray, " M"], UInt8[np.ndarray, "M H W 3"]]:
    """Rows that have a picture of a camera, and the pictures.

    Raises:
        DataError: if there is none.
    """
    frames = episode.images.get(camera)
    if not isinstance(frames, Frames):
        raise DataError(f"episode {episode.id!r} has no pictures of camera {camera!r}; have: {list(episode.images)}")
    rows = np.flatnonzero(frames.index != NO_FRAME)
    if not len(rows):
        raise DataError(f"episode {episode.id!r} has no picture of camera {camera!r}: nothing to judge")
    return rows, frames.pixels[frames.index[rows]]


def on_next_row(
    rows: Int64[np.ndarray, " M"], values: Float[np.ndarray, "M K"], has_next: Bool[np.ndarray, " T"]
) -> Float[np.ndarray, "T K"]:
    """Values of some rows, interpolated linearly between them where the camera is slower than the robot, one row on.

    NaN where there is no next row.
    """
    at = np.arange(len(has_next)) + 1
    found = np.stack([np.interp(at, rows, column) for column in values.T], axis=1)
    found[~has_next] = np.nan
    return found
