"""Processes beside the control loop: the node's own has one thread, and nothing else holds Python's lock when it wakes.

A thread of ordinary priority that holds the lock while the kernel runs something else keeps the loop waiting, whatever
the loop's own priority is. A process that hangs or dies does not.
"""

import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, cast

from vlmrl.deploy.clock import now

_PRELOAD = [f"vlmrl.deploy.{name}" for name in ("cameras", "inference", "recorder")]


class Child:
    """A process at the other end of a pipe."""

    def __init__(self, work: Callable[..., None], *arguments: object) -> None:
        """Start `work(pipe, *arguments)`; a server that has imported what they all need makes it in a moment."""
        context = get_context("forkserver")
        context.set_forkserver_preload(_PRELOAD)
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, work, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.dead = False

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid or 0

    def send(self, message: object) -> None:
        """Tell it something, unless it has died."""
        try:
            self._pipe.send(message)
        except OSError:
            self.dead = True

    def hear(self, wait_s: float = 0.0) -> Any:
        """What it says, if it does within a time; None where it does not, or has died."""
        try:
            return self._pipe.recv() if not self.dead and self._pipe.poll(wait_s) else None
        except (EOFError, OSError):
            self.dead = True
            return None

    def wait(self, seconds: float) -> Any:
        """What it says first; None where it dies or says nothing in time."""
        until = now() + seconds
        while not self.dead and now() < until:
            if (said := self.hear(0.1)) is not None:
                return said
        return None

    def close(self, patience_s: float = 5.0) -> None:
        """Let it end by itself, at the end of its pipe; kill it where it does not."""
        self._pipe.close()
        self._process.join(timeout=patience_s)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.dead = True


def _work(pipe: Connection, work: Callable[..., None], *arguments: object) -> None:
    # Ctrl-C reaches the node too, which ends this process when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work(cast("Any", pipe), *arguments)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # The node is gone.
        return
