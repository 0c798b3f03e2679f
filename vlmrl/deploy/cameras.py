"""Cameras beside the control loop: each is read in a process of its own, and its latest picture is always at hand.

Simulated ones are here, real ones in `v4l2.py`.
"""

from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from vlmrl.deploy.child import Child, Wire
from vlmrl.sim import Task, make

Still = tuple[np.ndarray, np.ndarray]
"""Joint and mark positions of a scene, which a simulated camera draws."""


@dataclass(frozen=True)
class Picture:
    """One, and when it was taken, by the clock of the control loop."""

    time: float
    pixels: UInt8[np.ndarray, "H W 3"]


@runtime_checkable
class Feed(Protocol):
    """One camera, as the control loop knows it."""

    name: str
    latest: Picture | None

    @property
    def failed(self) -> str:
        """Why it gives no picture any more, empty while it does."""
        ...

    def show(self, still: Still, now: float) -> None:
        """Take what has come, and where it is time ask for the next picture; never waits."""
        ...

    def forget(self) -> None:
        """What it has shown so far was of another scene."""
        ...

    def unchanged(self, now: float) -> float:
        """Since the picture last changed, s."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class SimulatedFeed:
    """Looks at a copy of the task's world, kept where the robot is."""

    def __init__(self, name: str, task: Task, *, hz: float = 10.0) -> None:
        self.name, self._period = name, 1 / hz
        self.latest: Picture | None = None
        self._asked = self._changed = -np.inf
        self._busy = self._stale = False
        self._child = Child(_draw, task, name)

    @property
    def failed(self) -> str:
        """Whether its process has died."""
        return f"camera {self.name!r}: its process has ended" if self._child.dead else ""

    def show(self, still: Still, now: float) -> None:
        """Take what has come, and where it is time ask for the next picture; never waits."""
        if (pixels := self._child.hear()) is not None:
            # A drawn picture may look like the last: what counts is that one came.
            self._busy, self._changed = False, now
            self.latest = None if self._stale else Picture(self._asked, pixels)
            self._stale = False
        if not self._busy and now - self._asked >= self._period and not self._child.dead:
            self._asked, self._busy = now, True
            self._child.send(still)

    def forget(self) -> None:
        """What it has drawn, or draws now, is of another scene; it draws the new one at once."""
        self.latest, self._stale, self._asked = None, self._busy, -np.inf

    def unchanged(self, now: float) -> float:
        """Since the picture last changed, s."""
        return now - self._changed

    def close(self) -> None:
        """End the process."""
        self._child.close()


def _draw(pipe: Wire, task: Task, camera: str) -> None:
    """Draw every scene that comes."""
    import mujoco

    env = make(task)
    try:
        while True:
            env.data.qpos[:], env.data.mocap_pos[:] = cast("Still", pipe.recv())
            mujoco.mj_kinematics(env.model, env.data)
            pipe.send(env.frame(camera))
    finally:
        env.close()
