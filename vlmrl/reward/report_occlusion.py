"""What a reward looks at: how much it loses where a patch of the picture is hidden (Zeiler and Fergus 2014)."""

import dataclasses
from itertools import product

import numpy as np
from jaxtyping import Float64, UInt8

from vlmrl.types import Episode, Frames, Rewarder

CELLS = 16
"""Of the map, along each side."""
PATCH = 4
"""Cells that are hidden at once, along each side."""
STEP = 2
"""Cells from one patch to the next."""


def occlusion(
    rewarder: Rewarder, episode: Episode, row: int, camera: str, picture: UInt8[np.ndarray, "H W 3"]
) -> Float64[np.ndarray, "16 16"]:
    """Loss of reward where each cell is hidden: positive where the reward rests on it, negative where it disturbs.

    The mean over the patches that cover a cell, each filled with the picture's mean colour. `picture` has the size that
    the rewarder sees; all else that it may read is that of `row`.
    """
    places = list(product(range(0, CELLS - PATCH + 1, STEP), repeat=2))
    hidden = [_hidden(picture, top, left) for top, left in places]
    judged = rewarder.reward(_still(episode, row, camera, np.stack([picture, picture, *hidden])))[0][:-1]
    loss, total, count = float(judged[0]) - judged[1:], np.zeros((CELLS, CELLS)), np.zeros((CELLS, CELLS))
    for (top, left), value in zip(places, loss, strict=True):
        total[top : top + PATCH, left : left + PATCH] += value
        count[top : top + PATCH, left : left + PATCH] += 1
    return total / count


def _hidden(picture: UInt8[np.ndarray, "H W 3"], top: int, left: int) -> UInt8[np.ndarray, "H W 3"]:
    height, width = picture.shape[:2]
    down, along = (
        slice(round(start * side / CELLS), round((start + PATCH) * side / CELLS))
        for start, side in ((top, height), (left, width))
    )
    out = picture.copy()
    out[down, along] = picture.mean((0, 1)).round().astype(np.uint8)
    return out


def _still(episode: Episode, row: int, camera: str, pictures: UInt8[np.ndarray, "M H W 3"]) -> Episode:
    """An episode in which nothing but the picture changes: the reward of row i judges picture i + 1."""
    rows = len(pictures)
    inner = np.arange(rows) < rows - 1
    return dataclasses.replace(
        episode,
        action=np.repeat(episode.action[row : row + 1], rows, axis=0),
        obs={key: np.repeat(value[row : row + 1], rows, axis=0) for key, value in episode.obs.items()},
        time=np.arange(rows, dtype=np.float64),
        has_action=inner,
        has_next=inner.copy(),
        images={camera: Frames(pictures, np.arange(rows, dtype=np.int32))},
        truth={},
        sim_state=None,
    )
