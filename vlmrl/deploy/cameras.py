"""Cameras beside the control loop: each is read in a thread of its own, and its latest picture is there at any time."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from vlmrl.deploy.scene import Scene
from vlmrl.sim import make


class Source(Protocol):
    """What takes pictures."""

    def grab(self) -> tuple[UInt8[np.ndarray, "H W 3"], object]:
        """One picture, and something that differs from the last time exactly if the camera lives."""
        ...

    def close(self) -> None:
        """Free the device."""
        ...


@dataclass(frozen=True)
class Picture:
    """One, and when it was taken by the monotonic clock."""

    time: float
    pixels: UInt8[np.ndarray, "H W 3"]


class Feed:
    """The latest picture of a source."""

    def __init__(self, name: str, source: Source, *, hz: float) -> None:
        self.name, self._source, self._period = name, source, 1 / hz
        self.latest: Picture | None = None
        self._changed, self._mark = time.monotonic(), object()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"camera {name}", daemon=True)
        self._thread.start()

    def unchanged(self, now: float) -> float:
        """Since the picture last changed, s."""
        return now - self._changed

    def close(self) -> None:
        """End the thread."""
        self._ending.set()
        self._thread.join(timeout=5)

    def _read(self) -> None:
        try:
            while not self._ending.is_set():
                begin = time.monotonic()
                pixels, mark = self._source.grab()
                self.latest = Picture(begin, pixels)
                if mark != self._mark:
                    self._changed, self._mark = begin, mark
                self._ending.wait(max(0.0, begin + self._period - time.monotonic()))
        finally:
            self._source.close()


class Simulated:
    """Looks at a scene from outside the control loop, with a copy of the world and a graphics context of its own."""

    def __init__(self, scene: Scene, camera: str, seen: Callable[[], tuple[np.ndarray, np.ndarray]]) -> None:
        """`seen` gives the joint and mark positions to draw."""
        self._env, self._camera, self._seen = make(scene.task), camera, seen
        self._drawn = 0

    def grab(self) -> tuple[UInt8[np.ndarray, "H W 3"], object]:
        """Draw the present state."""
        import mujoco

        self._env.data.qpos[:], self._env.data.mocap_pos[:] = self._seen()
        mujoco.mj_kinematics(self._env.model, self._env.data)
        self._drawn += 1
        return self._env.frame(self._camera), self._drawn

    def close(self) -> None:
        """Free the graphics context."""
        self._env.close()
