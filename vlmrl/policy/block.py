"""Networks run on blocks of one size, so that a row's result does not depend on how many rows come with it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from vlmrl.errors import DataError
from vlmrl.nn import Normaliser
from vlmrl.sight import PREFIX, Sight, named
from vlmrl.store.video import resize
from vlmrl.vision import Eyes

BLOCK = 16
"""Observations in one matrix product: its last bits depend on how many there are, and an action must not."""


def in_blocks(
    function: Callable[..., Tensor], *columns: Float[np.ndarray, "B ..."], block: int = BLOCK
) -> Float[np.ndarray, "B ..."]:
    """The function over rows of all columns, `block` rows at a time, the last filled with zeros; 0: as they come."""
    count, parts = len(columns[0]), list[np.ndarray]()
    block = block or count
    for k in range(0, count, block):
        rows = [column[k : k + block] for column in columns]
        full = [np.zeros((block, *part.shape[1:]), np.float32) for part in rows]
        for whole, part in zip(full, rows, strict=True):
            whole[: len(part)] = part
        parts.append(function(*map(torch.from_numpy, full)).numpy()[: len(rows[0])])
    return np.concatenate(parts)


def seen(
    observations: Mapping[str, np.ndarray],
    keys: Sequence[str],
    observation: Normaliser,
    eyes: Eyes | None,
    *,
    who: str,
) -> Float32[np.ndarray, "B D"]:
    """What a network looks at: numbers of the named observations, and features of pictures, side by side.

    Those of several times stand one after the other.

    Raises:
        DataError: if one is missing or no picture, or the numbers at one time are not those of the network.
    """
    wanted = [named(key) for key in keys]
    pictures = [f"{PREFIX}{camera}" for camera in eyes.cameras] if eyes else []
    if missing := [name for name in (*(name for name, _ in wanted), *pictures) if name not in observations]:
        raise DataError(f"{who} needs observations {missing}; have: {', '.join(observations)}")
    columns = [observations[name][..., part] for name, part in wanted]
    found = sum(column.shape[-1] for column in columns)
    if found != (width := len(observation.shift) - (eyes.features if eyes else 0)):
        raise DataError(f"{who} takes {width} numbers, found {found}")
    if eyes:
        columns.append(_features(eyes, [observations[name] for name in pictures], who=who))
    obs = np.concatenate(columns, -1, dtype=np.float32)
    return obs.reshape(len(obs), -1)


@torch.inference_mode()
def _features(eyes: Eyes, pictures: Sequence[np.ndarray], *, who: str) -> Float32[np.ndarray, "B *T F"]:
    """Of the centres of pictures, which come as the cameras give them."""
    if wrong := [one.shape for one in pictures if one.dtype != np.uint8 or one.ndim < 4 or one.shape[-1] != 3]:
        raise DataError(f"{who} looks at uint8 RGB pictures (robots, height, width, 3), found {wrong[0]}")
    around = pictures[0].shape[:-3]
    each = [[centred(one, eyes.sight) for one in own.reshape(-1, *own.shape[-3:])] for own in pictures]
    pixels = np.concatenate([np.stack(own).reshape(len(own), -1) for own in each], 1).astype(np.float32)
    # One by one: convolutions of one picture keep a processor busy, and a block would be filled with zeros.
    return in_blocks(eyes, pixels, block=1).reshape(*around, -1)


def centred(picture: UInt8[np.ndarray, "_ _ 3"], sight: Sight) -> UInt8[np.ndarray, "h w 3"]:
    """The centre of a picture that is brought to size as a store does it."""
    height, width = sight.cropped
    whole = resize(picture, sight.size)
    top, left = (whole.shape[0] - height) // 2, (whole.shape[1] - width) // 2
    return whole[top : top + height, left : left + width]
