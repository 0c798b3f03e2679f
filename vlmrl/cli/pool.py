"""Runs side by side, one process and one thread each: products of small networks do not split well over threads."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def side_by_side(function: Callable[[T], Any], items: Sequence[T], *, workers: int = 0) -> Iterator[T]:
    """Call `function` on every item, yielding each as it is done; `workers` 0: as many as there are processors."""
    count = min(workers or len(os.sched_getaffinity(0)), len(items))
    if count <= 1:
        before = torch.get_num_threads()
        _one_thread()
        try:
            for item in items:
                function(item)
                yield item
        finally:
            torch.set_num_threads(before)
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        futures = {pool.submit(function, item): item for item in items}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            # What has not begun would only delay the message.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    torch.set_num_threads(1)
