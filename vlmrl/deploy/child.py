"""Processes beside the control loop: the node's own has one thread, and nothing else holds Python's lock when it wakes.

A thread of ordinary priority that holds the lock while the kernel runs something else keeps the loop waiting, whatever
the loop's own priority is. A process that hangs or dies does not: what it does not take is kept here, what it has said
in part is not waited for.
"""

import fcntl
import os
import select
import signal
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol, cast, runtime_checkable

from vlmrl.deploy.clock import now

_PRELOAD = [f"vlmrl.deploy.{name}" for name in ("cameras", "inference", "recorder")]


_HEADER, _LONG = struct.Struct("!i"), struct.Struct("!Q")
"""Of a message of `multiprocessing.connection`, as the child has them: its length, or -1 and a longer one."""
_PIECE = 1 << 20


class Child:
    """A process at the other end of two pipes, neither of which is ever waited for, but by `hear` and `wait`."""

    def __init__(self, work: Callable[..., None], *arguments: object) -> None:
        """Start `work(pipe, *arguments)`; a server that has imported what they all need makes it in a moment."""
        context = get_context("forkserver")
        context.set_forkserver_preload(_PRELOAD)
        (theirs, self._down), (self._up, back) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(theirs, back, work, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        back.close()
        for end in (self._down, self._up):
            os.set_blocking(end.fileno(), False)
            with suppress(OSError):  # more than the user may have: then the usual 64 kB
                fcntl.fcntl(end.fileno(), fcntl.F_SETPIPE_SZ, _PIECE)
        self._out, self._in = deque[memoryview](), bytearray()
        self._slow_since: float | None = None
        self.dead = False

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid or 0

    def send(self, message: object) -> None:
        """Tell it something, unless it has died; what it does not take at once goes with the next calls."""
        content = memoryview(ForkingPickler.dumps(message))
        short = len(content) < 2**31
        header = _HEADER.pack(len(content)) if short else _HEADER.pack(-1) + _LONG.pack(len(content))
        self._out += [memoryview(header), content]
        self._push()

    @property
    def behind_s(self) -> float:
        """How long it has not taken all that it was told, s."""
        return 0.0 if self._slow_since is None else now() - self._slow_since

    def hear(self, wait_s: float = 0.0) -> Any:
        """What it says, if it does within a time; None where it does not, or has died."""
        until = now() + wait_s
        while not self.dead:
            self._push()
            if (message := self._whole()) is not None:
                return message
            writes = [self._down] if self._out else []
            if not any(select.select([self._up], writes, [], max(0.0, until - now()))[:2]):
                return None
            self._pull()
            if now() >= until:
                return self._whole()
        return None

    def _push(self) -> None:
        """Write what the pipe takes."""
        try:
            while self._out:
                written = os.write(self._down.fileno(), self._out[0][:_PIECE])
                self._out[0] = self._out[0][written:]
                if not self._out[0]:
                    self._out.popleft()
            self._slow_since = None
        except BlockingIOError:
            self._slow_since = now() if self._slow_since is None else self._slow_since
        except OSError:
            self.dead = True

    def _pull(self) -> None:
        """Read what there is."""
        try:
            while piece := os.read(self._up.fileno(), _PIECE):
                self._in += piece
            self.dead = True
        except BlockingIOError:
            return
        except OSError:
            self.dead = True

    def _whole(self) -> Any:
        """The first message that has come whole; None where there is none."""
        begin = _HEADER.size
        if len(self._in) < begin:
            return None
        (length,) = _HEADER.unpack_from(self._in)
        if length == -1:
            begin += _LONG.size
            if len(self._in) < begin:
                return None
            (length,) = _LONG.unpack_from(self._in, _HEADER.size)
        if len(self._in) < begin + length:
            return None
        message = cast("Any", ForkingPickler).loads(memoryview(self._in)[begin : begin + length].tobytes())
        del self._in[: begin + length]
        return message

    def wait(self, seconds: float) -> Any:
        """What it says first; None where it dies or says nothing in time."""
        until = now() + seconds
        while not self.dead and now() < until:
            if (said := self.hear(0.1)) is not None:
                return said
        return None

    def close(self, patience_s: float = 5.0) -> None:
        """Let it end by itself, at the end of its pipe; kill it where it does not."""
        until = now() + patience_s
        while self._out and not self.dead and now() < until:
            self._push()
            select.select([], [self._down], [], 0.1)
        self._down.close()
        self._process.join(timeout=max(0.0, until - now()))
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._up.close()
        self.dead = True


@runtime_checkable
class Wire(Protocol):
    """What a child hears and speaks through."""

    def recv(self) -> Any:
        """Wait for what it is told next."""
        ...

    def poll(self, timeout: float | None = 0.0, /) -> bool:
        """Whether it is told something within a time, s."""
        ...

    def send(self, obj: Any, /) -> None:
        """Say something."""
        ...


@dataclass
class _Both:
    """The child's two ends as one."""

    down: Connection
    up: Connection

    def recv(self) -> Any:
        """Wait for what it is told next."""
        return self.down.recv()

    def poll(self, timeout: float | None = 0.0, /) -> bool:
        """Whether it is told something within a time, s."""
        return self.down.poll(timeout)

    def send(self, obj: Any, /) -> None:
        """Say something."""
        self.up.send(obj)


def _work(down: Connection, up: Connection, work: Callable[..., None], *arguments: object) -> None:
    # Ctrl-C reaches the node too, which ends this process when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work(_Both(down, up), *arguments)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # The node is gone.
        return
