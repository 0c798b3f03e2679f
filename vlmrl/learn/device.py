"""Where a learner computes: its networks and batches go to a GPU; chance and data stay with the processor."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from vlmrl.learn.checkpoint import walk

BatchT = TypeVar("BatchT")


def move(state: Any, device: torch.device) -> None:
    """Bring a learner's state to a device; parameters stay who they are, so that fresh optimisers go with them."""
    for owner, field, _, part in walk(state):
        if isinstance(part, nn.Module):
            part.to(device)
        elif isinstance(part, Tensor) and part.requires_grad and part.is_leaf:
            part.data = part.data.to(device)
        elif isinstance(part, Tensor):
            setattr(owner, field, part.to(device))


def carried(batches: Iterator[BatchT], device: torch.device) -> Iterator[BatchT]:
    """The batches on a device."""
    return batches if device.type == "cpu" else (_moved(batch, device) for batch in batches)


def _moved(batch: Any, device: torch.device) -> Any:
    """Of a dataclass every tensor, and those of the dataclasses in it."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple):
        return tuple(_moved(part, device) for part in batch)
    if not is_dataclass(batch):
        return batch
    return replace(
        cast("Any", batch), **{field.name: _moved(getattr(batch, field.name), device) for field in fields(batch)}
    )
