"""The wire: a pseudo-terminal on which simulated servos answer, with the faults of real wires."""

import os
import select
import time
import tty
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from vlmrl.deploy.bus import dynamixel, feetech
from vlmrl.deploy.bus.plant import Plant
from vlmrl.deploy.bus.registers import Layout, Servo
from vlmrl.errors import unknown

PROTOCOLS: dict[str, tuple[ModuleType, Layout]] = {
    "feetech": (feetech, feetech.STS3215),
    "dynamixel": (dynamixel, dynamixel.XL430),
}
"""Make to protocol and servo."""

_IDLE_S = 0.002
_SILENCE_S = 0.02
"""After so long a pause what has arrived so far was no packet."""
_STEPS = 8
"""Physics steps between two looks at the wire: on a busy computer time slows down rather than answers."""


@dataclass
class Faults:
    """What goes wrong, changeable while the line runs."""

    delay_s: float = 0.0
    """Before every answer."""
    drop: float = 0.0
    """Share of answers that never come."""
    corrupt: float = 0.0
    """Share of answers with a flipped bit."""
    silent: set[int] = field(default_factory=set[int])
    """Servos that do not answer, by id."""
    unplugged: bool = False
    """Nothing comes through at all."""


class Line:
    """A bus of simulated servos, one a joint, ids from 1.

    It belongs into a process of its own: a vendor's SDK waits for answers in a loop that leaves a thread beside it no
    time to give them.
    """

    def __init__(self, plant: Plant, make: str, *, seed: int = 0) -> None:
        """Open a pseudo-terminal; `port` is what a driver opens.

        Raises:
            ConfigError: if the make is unknown.
        """
        if make not in PROTOCOLS:
            raise unknown("servo make", make, PROTOCOLS)
        self._protocol, layout = PROTOCOLS[make]
        self.plant, self.faults = plant, Faults()
        self.servos = {k + 1: Servo(layout, plant, k, k + 1) for k in range(len(plant.spec.joints))}
        self._generator = np.random.default_rng(seed)
        self._own, self._other = os.openpty()
        tty.setraw(self._own)
        tty.setraw(self._other)
        self.port = os.ttyname(self._other)
        self._buffer, self._heard = bytearray(), 0.0
        self.handled = 0
        """Instructions understood."""

    def serve(self, commands: int | None = None, hear: Callable[[str], bool] = lambda _: True) -> None:
        """Answer until `hear` says no to a line that came in on the file descriptor `commands`, or it is closed."""
        ends, line = [self._own] + ([] if commands is None else [commands]), b""
        while True:
            ready, _, _ = select.select(ends, [], [], _IDLE_S)
            if self._own in ready:
                for reply in self._hear(os.read(self._own, 4096)):
                    self._say(reply)
            self.plant.catch_up(most=_STEPS)
            if commands is not None and commands in ready:
                line += (read := os.read(commands, 4096))
                *whole, line = line.split(b"\n")
                if not read or not all([hear(one.decode(errors="replace").strip()) for one in whole]):
                    return

    def close(self) -> None:
        """Take the bus away, as if unplugged."""
        for end in (self._own, self._other):
            os.close(end)

    def _hear(self, data: bytes) -> list[bytes]:
        if self.faults.unplugged:
            return []
        if time.monotonic() - self._heard > _SILENCE_S:
            self._buffer.clear()
        self._heard = time.monotonic()
        self._buffer += data
        heard = {i: servo for i, servo in self.servos.items() if i not in self.faults.silent}
        replies: list[bytes] = []
        for packet in self._protocol.packets(self._buffer):
            self.handled += 1
            replies += self._protocol.answer(packet, heard)
        return replies

    def _say(self, reply: bytes) -> None:
        faults = self.faults
        if faults.delay_s:
            time.sleep(faults.delay_s)
        if faults.drop and self._generator.random() < faults.drop:
            return
        if faults.corrupt and self._generator.random() < faults.corrupt:
            damaged = bytearray(reply)
            damaged[self._generator.integers(len(damaged))] ^= 1 << int(self._generator.integers(8))
            reply = bytes(damaged)
        os.write(self._own, reply)
