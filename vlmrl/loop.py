"""The one training loop: rewards and learners hand it an update and a stream of batches."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar, runtime_checkable

import torch
from tqdm import tqdm

from vlmrl.errors import VlmrlError

BatchT = TypeVar("BatchT")
Info = Mapping[str, torch.Tensor]


@runtime_checkable
class Writer(Protocol):
    """Where metrics go."""

    def write(self, name: str, step: int, values: Mapping[str, float]) -> None:
        """Record `values` of the series `name` at `step`."""
        ...


def fit(
    update: Callable[[BatchT], Info],
    batches: Iterable[BatchT],
    *,
    updates: int,
    name: str,
    metrics: Writer,
    every: int = 1000,
    at: Callable[[int], Mapping[str, float] | None] | None = None,
    save: Callable[[int], None] | None = None,
    start: int = 0,
    quiet: bool = False,
) -> None:
    """Run updates up to the number `updates`, writing mean metrics each `every`.

    `at(updates done)` may measure before they are written, `save(updates done)` may keep the state after that; `start`
    is how many a kept state had done. Metrics stay tensors between writes, so that no update waits for a device.

    Raises:
        VlmrlError: if a metric stops being finite; what diverged is named.
    """
    sums: dict[str, torch.Tensor] = {}
    seen, began = 0, time.perf_counter()
    bar = tqdm(
        total=updates, initial=start, desc=name, unit="update", disable=quiet, mininterval=0.5, dynamic_ncols=True
    )
    for step, batch in zip(range(start + 1, updates + 1), batches, strict=False):
        for key, value in update(batch).items():
            sums[key] = sums[key] + value if key in sums else value
        seen += 1
        if step % every and step < updates:
            continue
        means = {key: float(value) / seen for key, value in sums.items()}
        _check(name, step, means)
        extra = at(step) if at is not None else None
        metrics.write(name, step, {**means, **(extra or {}), "seconds": time.perf_counter() - began})
        if save is not None:
            save(step)
        bar.update(seen)
        sums, seen = {}, 0
    bar.close()


def _check(name: str, step: int, means: Mapping[str, float]) -> None:
    bad = [key for key, value in means.items() if not abs(value) < float("inf")]
    if bad:
        raise VlmrlError(
            f"{name} diverged by update {step}: {', '.join(bad)} not finite; lower the learning rate or reward scale"
        )
