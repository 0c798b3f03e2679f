"""The digital twin of any robot: its own model behind the same interface, in real time or in lock step."""

import time
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float64

from vlmrl.deploy.bus.plant import Plant
from vlmrl.robot import Observed, RobotSpec


@dataclass(frozen=True)
class Config:
    """Settings of the twin."""

    real_time: bool = True
    """Whether time passes by itself; else each command advances it by one control period."""


class Twin:
    """A simulated robot."""

    def __init__(
        self, spec: RobotSpec, config: Config, scene: tuple[mujoco.MjModel, mujoco.MjData] | None = None
    ) -> None:
        """`scene` is a world to be in; without one the robot is alone."""
        self.spec, self._real = spec, config.real_time
        self.plant = Plant(spec, scene=scene, clock=time.monotonic if config.real_time else None)
        self._steps = 0

    def connect(self) -> None:
        """Nothing to open."""

    def enable(self) -> None:
        """Switch torque on."""
        for k in range(len(self.spec.joints)):
            self.plant.enable(k, True)

    def now(self) -> float:
        """The twin's own time, s: in lock step that of its commands."""
        return time.monotonic() if self._real else self._steps * self.spec.period

    def release(self) -> None:
        """Torque off."""
        for k in range(len(self.spec.joints)):
            self.plant.enable(k, False)

    def observe(self) -> Observed:
        """The joints of the model."""
        self.plant.catch_up()
        if self._real:
            self.plant.look()
        joints = range(len(self.spec.joints))
        return Observed(
            self.now(),
            np.array([self.plant.position(k) for k in joints]),
            np.array([self.plant.velocity(k) for k in joints]),
        )

    def command(self, position: Float64[np.ndarray, " J"]) -> Float64[np.ndarray, " J"]:
        """Set the actuators' goals."""
        for k, one in enumerate(position):
            self.plant.goal(k, float(one))
        if not self._real:
            self.plant.advance(self.spec.period)
            self.plant.look()
            self._steps += 1
        return position.copy()

    def stop(self) -> None:
        """Hold where it is."""
        for k in range(len(self.spec.joints)):
            self.plant.goal(k, self.plant.position(k))

    def close(self) -> None:
        """Nothing to give back."""


def build(spec: RobotSpec, config: Config) -> Twin:
    """The twin of a robot."""
    return Twin(spec, config)
