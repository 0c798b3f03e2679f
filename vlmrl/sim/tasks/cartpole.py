"""Cart-pole as in RL-VLM-F's `envs/cartpole.py`: continuous force, no early end, the pole stops at 30 degrees.

One difference: there, a pole or cart at its stop keeps gathering speed; here the stop takes the speed away, unless the
task says `windup`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float32, Float64

from vlmrl.content import find
from vlmrl.errors import ConfigError
from vlmrl.sim.task import Task, parsed

_STOPS = np.array([0.8 * 2.4, math.radians(30)])
"""Of the cart (m) and the pole (rad)."""

_GAINS = np.array([0.857, 1.049, 6.95, 1.671])
"""Linear-quadratic regulator at 50 Hz, state cost diag(1, 0.1, 10, 0.1), action cost 1 (one is 10 N)."""


@dataclass(frozen=True)
class Options:
    """What a task may say about its cart-pole."""

    windup: bool = False
    """Whether speed goes on growing at a stop, as in RL-VLM-F."""


class CartPole:
    """Cart (m, m/s) and pole (rad, rad/s), both positive towards the right of the picture."""

    control_hz = 50.0
    action_names = ("force",)
    action_units = ("10 N",)
    state_names = ("cart_position", "cart_velocity", "pole_angle", "pole_velocity")
    state_units = ("m", "m/s", "rad", "rad/s")

    def __init__(self, task: Task) -> None:
        path = (find("tasks", task.physics.name) if task.physics.name else task.folder) / "scene.xml"
        if not path.is_file():
            raise ConfigError(f"task {task.name!r}: {path} is missing")
        self.model = mujoco.MjModel.from_xml_path(str(path))
        self.data = mujoco.MjData(self.model)
        self._spread = task.resets.spread
        self._windup = parsed(Options, task).windup
        self.high = np.array([_STOPS[0], 100, _STOPS[1], 100], np.float32)
        self.low = -self.high

    def reset(self, generator: np.random.Generator) -> None:
        """Draw a start near the middle, nearly upright."""
        mujoco.mj_resetData(self.model, self.data)
        start = generator.uniform(-self._spread, self._spread, 4)
        self.data.qpos[:], self.data.qvel[:] = start[[0, 2]], start[[1, 3]]
        mujoco.mj_forward(self.model, self.data)

    def step(self, action: Float32[np.ndarray, " A"]) -> float:
        """Push for one step; the reward is minus the angle in degrees."""
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data)
        outside = np.abs(self.data.qpos) >= _STOPS
        if not self._windup:
            self.data.qvel[outside & (self.data.qpos * self.data.qvel > 0)] = 0
        self.data.qpos[:] = np.clip(self.data.qpos, -_STOPS, _STOPS)
        mujoco.mj_forward(self.model, self.data)
        return -abs(math.degrees(self.data.qpos[1]))

    def observe(self) -> Float32[np.ndarray, " D"]:
        """Positions and velocities."""
        q, v = self.data.qpos, self.data.qvel
        return np.clip(np.array([q[0], v[0], q[1], v[1]], np.float32), self.low, self.high)

    def signals(self) -> Mapping[str, float]:
        """Nothing that the joints do not say."""
        return {}

    def memory(self) -> Float64[np.ndarray, " M"]:
        """Nothing."""
        return np.empty(0)

    def remember(self, memory: Float64[np.ndarray, " M"]) -> None:
        """Nothing to put back."""
        del memory


class Regulator:
    """Linear state feedback."""

    def __init__(self, gains: Float64[np.ndarray, "4"]) -> None:
        self._gains = gains

    def reset(self, seed: int) -> None:
        """Nothing to forget."""
        del seed

    def action(self, observation: Mapping[str, np.ndarray]) -> Float32[np.ndarray, " A"]:
        """Push against the tilt."""
        return np.clip([self._gains @ observation["state"]], -1, 1).astype(np.float32)


def build(task: Task) -> CartPole:
    """Load the cart-pole scene of a task's folder."""
    return CartPole(task)


def build_expert(task: Task) -> Regulator:
    """Make the linear-quadratic regulator of the cart-pole."""
    del task
    return Regulator(_GAINS)
