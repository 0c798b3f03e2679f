"""What moves a scene: one protocol, and the table of families that implement it."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Protocol, cast, runtime_checkable

import mujoco
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from vlmrl.errors import VlmrlError, unknown
from vlmrl.sim.task import Task


class Diverged(VlmrlError):
    """The simulation has left physics (numbers that explode, cloth that tears): the episode is worth nothing."""


@runtime_checkable
class Dynamics(Protocol):
    """A MuJoCo model with its resets, its actions, its low-dimensional state and its own dense reward."""

    model: mujoco.MjModel
    data: mujoco.MjData
    control_hz: float
    action_names: tuple[str, ...]
    action_units: tuple[str, ...]
    """What 1 stands for in each action, as `0.0125 m`."""
    state_names: tuple[str, ...]
    state_units: tuple[str, ...]
    """`1` where a number has no unit."""
    low: Float32[np.ndarray, " D"]
    high: Float32[np.ndarray, " D"]
    """Bounds of the state."""

    def reset(self, generator: np.random.Generator) -> None:
        """Start an episode: the same start for the same generator state, whatever happened before."""
        ...

    def step(self, action: Float32[np.ndarray, " A"]) -> float:
        """Advance one control step with an action in [-1, 1]; return the ground-truth reward.

        Raises:
            Diverged: if the family's own guards say that the state means nothing any more.
        """
        ...

    def observe(self) -> Float32[np.ndarray, " D"]:
        """The state as learners see it."""
        ...

    def signals(self) -> Mapping[str, float]:
        """Named truths of the present state, for predicates, measures and `info`; the names never change."""
        ...

    def memory(self) -> Float64[np.ndarray, " M"]:
        """What the next steps depend on besides MuJoCo's own state; the length is fixed."""
        ...

    def remember(self, memory: Float64[np.ndarray, " M"]) -> None:
        """Put `memory` back; called after MuJoCo's state was set, before kinematics are computed."""
        ...


@runtime_checkable
class Shows(Protocol):
    """Dynamics that show more than the state."""

    shown: Mapping[str, tuple[int, ...]]
    """Shape of each further observation, float32."""

    def show(self) -> Mapping[str, Float32[np.ndarray, "..."]]:
        """The further observations of the present state."""
        ...


@runtime_checkable
class Draws(Protocol):
    """Dynamics whose memory holds random generators, in which starts differ that are alike."""

    def start(self) -> Float64[np.ndarray, " N"]:
        """What of the memory differs to the eye or to physics."""
        ...


@runtime_checkable
class Paints(Protocol):
    """Dynamics that draw themselves: an environment that MuJoCo does not move."""

    def paint(self, height: int, width: int) -> UInt8[np.ndarray, "H W 3"]:
        """A picture of the present state, RGB, top row first."""
        ...


@runtime_checkable
class Expert(Protocol):
    """A scripted policy; graded data comes from replacing some of its actions outside."""

    def reset(self, seed: int) -> None:
        """Start an episode."""
        ...

    def action(self, observation: Mapping[str, np.ndarray]) -> Float32[np.ndarray, " A"]:
        """The action for one observation, in [-1, 1]."""
        ...


@runtime_checkable
class Family(Protocol):
    """A module of `vlmrl.sim.tasks`."""

    def build(self, task: Task) -> Dynamics:
        """Load the scene of a task."""
        ...

    def build_expert(self, task: Task) -> Expert:
        """Make the scripted expert of a task."""
        ...


def _lazy(module: str) -> Callable[[], Family]:
    return lambda: cast("Family", import_module(f"vlmrl.sim.tasks.{module}"))


FAMILIES: Mapping[str, Callable[[], Family]] = {
    "cartpole": _lazy("cartpole"),
    "cloth": _lazy("cloth"),
    "dress": _lazy("dress"),
    "gymnasium": _lazy("gym_id"),
    "humanoid": _lazy("humanoid"),
    "metaworld": _lazy("metaworld"),
    "mountaincar": _lazy("mountaincar"),
    "robosuite": _lazy("robosuite"),
    "robot": _lazy("robot"),
    "rope": _lazy("rope"),
    "water": _lazy("water"),
}


def family(task: Task) -> Family:
    """Return the family that moves a task.

    Raises:
        ConfigError: if the task names none that exists, or its optional dependency is missing.
    """
    if task.physics.family not in FAMILIES:
        raise unknown("physics family", task.physics.family, FAMILIES)
    return FAMILIES[task.physics.family]()
