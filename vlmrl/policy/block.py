"""Networks run on blocks of one size, so that a row's result does not depend on how many rows come with it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from vlmrl.errors import DataError

BLOCK = 16
"""Observations in one matrix product: its last bits depend on how many there are, and an action must not."""


def in_blocks(function: Callable[..., Tensor], *columns: Float[np.ndarray, "B ..."]) -> Float[np.ndarray, "B ..."]:
    """The function over rows of all columns, BLOCK rows at a time, the last block filled with zeros."""
    count, parts = len(columns[0]), list[np.ndarray]()
    for k in range(0, count, BLOCK):
        rows = [column[k : k + BLOCK] for column in columns]
        full = [np.zeros((BLOCK, *part.shape[1:]), np.float32) for part in rows]
        for whole, part in zip(full, rows, strict=True):
            whole[: len(part)] = part
        parts.append(function(*map(torch.from_numpy, full)).numpy()[: len(rows[0])])
    return np.concatenate(parts)


def flat(
    observations: Mapping[str, np.ndarray], keys: Sequence[str], width: int, *, who: str
) -> Float32[np.ndarray, "B D"]:
    """The named observations side by side, those of several times one after the other.

    Raises:
        DataError: if one is missing, or the numbers at one time are not `width`.
    """
    missing = [key for key in keys if key not in observations]
    if missing:
        raise DataError(f"{who} needs observations {missing}; have: {', '.join(observations)}")
    obs = np.concatenate([observations[key] for key in keys], -1, dtype=np.float32)
    if obs.shape[-1] != width:
        raise DataError(f"{who} takes {width} numbers, found {obs.shape[-1]}")
    return obs.reshape(len(obs), -1)
