"""The same function in several processes, results in the order of their items, however many processes there are.

A worker lives no longer than the process that started it, also where that is killed: it meets a closed pipe.
"""

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import Any, TypeVar

from vlmrl.errors import VlmrlError

T = TypeVar("T")
R = TypeVar("R")
Make = Callable[[], AbstractContextManager[Callable[[T], R]]]
"""Sets a worker up; what it gives is called on items until it closes. It is sent to other processes."""


def in_order(make: Make[T, R], items: Sequence[T], *, workers: int = 0) -> Iterator[R]:
    """Yield the result of every item, in their order; `workers` 0: as many as there are processors.

    Arithmetic runs in one thread a worker, however many there are, so that results are equal to the bit.

    Raises:
        VlmrlError: that the function raised, or if a worker was killed.
    """
    count = min(workers or len(os.sched_getaffinity(0)), len(items))
    if count > 1:
        yield from _side_by_side(make, items, count)
        return
    if items:
        with make() as function, _one_thread():
            for item in items:
                yield function(item)


def _side_by_side(make: Make[T, R], items: Sequence[T], count: int) -> Iterator[R]:
    # Workers end first, so that a thread that waits for one does not wait in vain.
    with ThreadPoolExecutor(count) as threads, _workers(make, count) as free:
        # Bounded, since results hold pictures: as many wait to be taken as there are workers.
        pending: deque[Future[R]] = deque()
        for item in items:
            pending.append(threads.submit(_ask, free, item))
            if len(pending) > 2 * count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _ask(free: "SimpleQueue[tuple[SpawnProcess, Connection]]", item: Any) -> Any:
    process, connection = free.get()
    try:
        connection.send(item)
        done, result = connection.recv()
    except (EOFError, OSError) as error:
        process.join(5)
        raise VlmrlError(
            f"a worker ended before its work was done (exit code {process.exitcode}; -9 often means too little memory: "
            "try workers=1); what is stored is kept, and the same command goes on from there"
        ) from error
    finally:
        free.put((process, connection))
    if not done:
        raise result
    return result


@contextmanager
def _workers(make: Make[Any, Any], count: int) -> Generator["SimpleQueue[tuple[SpawnProcess, Connection]]"]:
    context, free, started = get_context("spawn"), SimpleQueue[tuple[SpawnProcess, Connection]](), list[SpawnProcess]()
    try:
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, make), daemon=True)
            process.start()
            there.close()
            started.append(process)
            free.put((process, here))
        yield free
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.join()


def _serve(connection: Connection, make: Make[Any, Any]) -> None:
    # The terminal interrupts the whole group; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        _answer(connection, make)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _answer(connection: Connection, make: Make[Any, Any]) -> None:
    item = connection.recv()
    try:
        with make() as function, _one_thread():
            while True:
                connection.send((True, function(item)))
                item = connection.recv()
    except VlmrlError as error:
        connection.send((False, error))


@contextmanager
def _one_thread() -> Generator[None]:
    """One thread for torch, which is not imported for this: many workers do without it, and it takes seconds."""
    if "torch" not in sys.modules:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
