"""The operator's terminal: single keys are heard between two ticks, and what happens is shown in one line."""

import os
import select
import sys
import termios
import tty
from collections.abc import Generator
from contextlib import contextmanager

from vlmrl.deploy.node import Node
from vlmrl.deploy.pilot import JOGS
from vlmrl.deploy.state import State

HELP = (
    "space stop · enter start, success · n failure · x discard · b pause, resume · z reset · o home · v take over, "
    "give back · Ctrl-D end"
)
WORDS = {" ": "stop", "n": "failure", "x": "discard", "z": "reset", "o": "home", "v": "take", "\x04": "quit"}
_SHOW_EVERY = 10


class Terminal:
    """Reads a terminal's keys."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._count = descriptor, 0

    def attend(self, node: Node) -> None:
        """Pass on what was typed since the last tick, and show where the robot is."""
        while select.select([self._descriptor], [], [], 0)[0] and (typed := os.read(self._descriptor, 64)):
            for key in typed.decode(errors="ignore"):
                node.alive()
                self._do(node, key)
        self._count += 1
        if self._count % _SHOW_EVERY == 0:
            status = node.status
            why = f"  {status.reasons[0]}" if status.reasons else ""
            sys.stdout.write(f"\r\x1b[K{node.state} {status.step}{why}"[:120])
            sys.stdout.flush()

    def _do(self, node: Node, key: str) -> None:
        if key in "\r\n":
            node.say("success" if node.state is State.RUNNING else "start")
        elif key == "b":
            node.say("resume" if node.state is State.PAUSED else "pause")
        elif key in WORDS:
            node.say(WORDS[key])
        elif node.human is not None and node.by_hand:
            node.human.press(key)


@contextmanager
def terminal() -> Generator[Terminal | None]:
    """The terminal that the command was typed in, with keys coming one by one; None where there is none."""
    if not sys.stdin.isatty():
        yield None
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield Terminal(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def jog_help(names: tuple[str, ...]) -> str:
    """Which keys move which joint."""
    return ", ".join(f"{up}/{down} {name}" for (up, down), name in zip(JOGS, names, strict=False))
