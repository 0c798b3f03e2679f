"""Mountain car as in Gymnasium's MountainCarContinuous-v0, drawn so that it is recognised, after VLM-RM.

MuJoCo only draws: the car's place follows from the classic equations (Moore 1990). Two differences from Gymnasium:
numbers are float64, and the flag is absorbing (the car stands there, and is paid for every step) instead of an end.
"""

import math
from collections.abc import Mapping, Sequence

import mujoco
import numpy as np
from jaxtyping import Float, Float32, Float64

from vlmrl.errors import ConfigError, unknown
from vlmrl.sim.task import Task

_LEFT, _RIGHT, _FLAG, _FASTEST = -1.2, 0.6, 0.45, 0.07
_POWER, _GRAVITY = 0.0015, 0.0025
_PAID, _FUEL = 100.0, 0.1
"""Reward of a step that ends at the flag, and cost of a squared action."""

_EDGE = 0.35
"""How far the mountain goes on beyond both ends of the track."""

_DEPTH, _GRASS = 0.3, 0.035
"""Of the mountain, and of the grass upon it."""


def height(x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Of the mountain's surface."""
    return 0.45 * np.sin(3 * x) + 0.55


class MountainCar:
    """A car too weak to climb out of the valley without a run-up."""

    action_names = ("force",)
    action_units = ("0.0015 per step squared",)
    state_names = ("position", "velocity")
    state_units = ("1", "1 per step")

    def __init__(self, task: Task) -> None:
        path = task.folder / "scene.xml"
        if not path.is_file():
            raise ConfigError(f"task {task.name!r}: {path} is missing")
        spec = mujoco.MjSpec.from_file(str(path))
        _raise_mountain(spec)
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.control_hz = 1 / self.model.opt.timestep
        self._starts = _starts(task)
        self.high = np.array([_RIGHT, _FASTEST], np.float32)
        self.low = np.array([_LEFT, -_FASTEST], np.float32)

    def reset(self, generator: np.random.Generator) -> None:
        """Stand somewhere in the valley."""
        mujoco.mj_resetData(self.model, self.data)
        self._put(generator.uniform(*self._starts), 0.0)

    def step(self, action: Float32[np.ndarray, " A"]) -> float:
        """Push; the reward is Gymnasium's."""
        force, (position, velocity) = float(action[0]), self._now()
        if position < _FLAG:
            velocity += force * _POWER - _GRAVITY * math.cos(3 * position)
            velocity = min(max(velocity, -_FASTEST), _FASTEST)
            position = min(max(position + velocity, _LEFT), _FLAG)
            if position in (_LEFT, _FLAG):
                velocity = max(velocity, 0.0) * (position == _LEFT)
        self.data.time += self.model.opt.timestep
        self._put(position, velocity)
        return _PAID * (position >= _FLAG) - _FUEL * force**2

    def observe(self) -> Float32[np.ndarray, " D"]:
        """Where it is, and how fast."""
        return np.clip(np.array(self._now(), np.float32), self.low, self.high)

    def signals(self) -> Mapping[str, float]:
        """Nothing that the joints do not say."""
        return {}

    def memory(self) -> Float64[np.ndarray, " M"]:
        """Nothing."""
        return np.empty(0)

    def remember(self, memory: Float64[np.ndarray, " M"]) -> None:
        """Nothing to put back."""
        del memory

    def _now(self) -> tuple[float, float]:
        return float(self.data.qpos[0]), float(self.data.qvel[0])

    def _put(self, position: float, velocity: float) -> None:
        slope = 3 * 0.45 * math.cos(3 * position)
        self.data.qpos[:] = position, float(height(np.array([position]))[0]), -math.atan(slope)
        self.data.qvel[:] = velocity, 0, 0
        mujoco.mj_forward(self.model, self.data)


class Pump:
    """Pushes along with the motion, which gathers energy until it is enough."""

    def reset(self, seed: int) -> None:
        """Nothing to forget."""
        del seed

    def action(self, observation: Mapping[str, np.ndarray]) -> Float32[np.ndarray, " A"]:
        """Full force in the direction of travel."""
        return np.array([1.0 if observation["state"][1] >= 0 else -1.0], np.float32)


def build(task: Task) -> MountainCar:
    """Load the scene of a task's folder, and raise the mountain in it."""
    return MountainCar(task)


def build_expert(task: Task) -> Pump:
    """Make the energy-pumping driver."""
    del task
    return Pump()


def _starts(task: Task) -> tuple[float, float]:
    if strange := set(task.resets.ranges) - {"position"}:
        raise ConfigError(f"task {task.name!r}: resets.ranges: {unknown('quantity', min(strange), ['position'])}")
    given: Sequence[float] = task.resets.ranges.get("position", (-0.6, -0.4))
    if len(given) != 2 or not _LEFT <= given[0] <= given[1] < _FLAG:
        raise ConfigError(
            f"task {task.name!r}: resets.ranges.position: [low, high] from {_LEFT} to below {_FLAG} wanted, "
            f"found {list(given)}"
        )
    return given[0], given[1]


def _raise_mountain(spec: mujoco.MjSpec) -> None:
    """Build the mountain from its curve, and plant the flag on it."""
    x = np.linspace(_LEFT - _EDGE, _RIGHT + _EDGE, 161)
    top = height(x)
    for name, low, high in (("rock", np.full_like(x, -0.3), top - _GRASS), ("grass", top - _GRASS, top)):
        vertices, faces = _prism(x, low, high)
        texture = vertices[:, [0, 2]] * 1.5
        spec.add_mesh(
            name=name,
            uservert=vertices.ravel(),
            userface=faces.ravel(),
            usertexcoord=texture.ravel(),
            userfacetexcoord=faces.ravel(),
        )
        spec.worldbody.add_geom(
            name=name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name, material=name, contype=0, conaffinity=0
        )
    spec.body("flag").pos = (_FLAG, 0, float(height(np.array([_FLAG]))[0]))


def _prism(
    x: Float[np.ndarray, " N"], low: Float[np.ndarray, " N"], high: Float[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, "4*N 3"], np.ndarray]:
    """The solid between two curves, `_DEPTH` deep: corners, and triangles seen counter-clockwise from outside."""
    front, back = np.full_like(x, -_DEPTH / 2), np.full_like(x, _DEPTH / 2)
    ring = ((front, low), (front, high), (back, high), (back, low))
    vertices = np.stack([np.column_stack([x, y, z]) for y, z in ring], 1).reshape(-1, 3)
    triangles: list[tuple[int, int, int]] = []
    for k in range(0, 4 * (len(x) - 1), 4):
        for a in range(4):
            b = (a + 1) % 4
            triangles += [(k + a, k + 4 + a, k + 4 + b), (k + a, k + 4 + b, k + b)]
    last = len(vertices) - 4
    triangles += [(0, 1, 2), (0, 2, 3), (last, last + 2, last + 1), (last, last + 3, last + 2)]
    return vertices, np.array(triangles, np.int32)
