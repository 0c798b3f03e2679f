"""Straightening a rope held at both ends: RL-VLM-F's `RopeFlattenEasy` in MuJoCo.

As there: both ends held throughout, the reward min(distance of the ends, 1.1 lengths), ten key points and two pickers
as the state, a rope of 0.5 m. Different: 25 capsules with ball joints instead of FleX's particles, so that the rope
does not stretch; pickers go 15 mm a step and axis instead of 60, because a faster rope explodes at times; starts are
random smooth curves that do not cross themselves instead of four random picks; a picker at the edge of the workspace
stops by itself, there the whole step is undone.
"""

import math
from collections.abc import Mapping

import mujoco
import numpy as np
from jaxtyping import Float32, Float64

from vlmrl.errors import ConfigError
from vlmrl.sim.dynamics import Diverged
from vlmrl.sim.soft import HIDDEN, check_speed, check_warnings, compiled, glide, ranges
from vlmrl.sim.task import Task

LENGTH = 0.5
"""m."""
_SEGMENTS, _RADIUS = 25, 0.009
"""A segment (20 mm) must be longer than the rope is thick, or second neighbours overlap for good."""
_DRAWN = 0.012
"""m; thicker than it collides, to be seen on 80 pixels."""
_STEP = 0.015
"""m that a picker can move per axis and control step."""
_LOW, _HIGH = np.array([-0.325, -0.325, 0.01]), np.array([0.325, 0.325, 0.12])
"""Workspace of the pickers, m; in the plane that of RL-VLM-F, which keeps everything in the picture."""
_SUBSTEPS = 10
_TRIES = 10_000
"""Of a random curve; in the task's own ranges a few hundred at most are needed."""
_FASTEST = 200.0
"""rad/s and m/s; random actions reach 20, full ones held for a while 45."""
_SLIPPED = 0.05
"""m between a picker and the end that it holds; 15 mm is the most that pulling does."""
_POINTS = 10


class Rope:
    """A rope on a table and two pickers that hold its ends."""

    control_hz = 20.0
    action_names = tuple(f"{side}_d{axis}" for side in ("head", "tail") for axis in "xyz")
    action_units = (f"{_STEP} m",) * 6
    state_names = (
        *(f"point{i}_{axis}" for i in range(_POINTS) for axis in "xyz"),
        *(f"picker_{side}_{axis}" for side in ("head", "tail") for axis in "xyz"),
    )
    """Points evenly along the rope, the first and last its ends; then the pickers."""
    state_units = ("m",) * (3 * _POINTS + 6)

    def __init__(self, task: Task) -> None:
        self.model = compiled("rope", option=_OPTION, bodies=_bodies(), more=_GRASP)
        self.data = mujoco.MjData(self.model)
        self._ranges = ranges(task, {"end_distance": (0.1, 0.3), "centre_x": (-0.05, 0.05), "centre_y": (-0.05, 0.05)})
        self._joints = np.array([self.model.site(f"joint{i}").id for i in range(_SEGMENTS + 1)])
        self._points = self._joints[np.linspace(0, _SEGMENTS, _POINTS).round().astype(int)]
        size = 3 * _POINTS + 6
        self.low, self.high = np.full(size, -1, np.float32), np.full(size, 1, np.float32)

    def reset(self, generator: np.random.Generator) -> None:
        """Lay the rope along a random smooth curve and let it settle."""
        mujoco.mj_resetData(self.model, self.data)
        points = _curve(generator, self._ranges)
        heading = np.unwrap(np.arctan2(*np.diff(points, axis=0).T[::-1]))
        turns = np.diff(heading, prepend=0)
        half = np.stack([np.cos(turns / 2), 0 * turns, 0 * turns, np.sin(turns / 2)], axis=1)
        self.data.qpos[:3] = (*points[0], _RADIUS)
        self.data.qpos[3:] = half.ravel()
        self.data.mocap_pos[:] = np.column_stack([points[[0, -1]], [_RADIUS, _RADIUS]])
        for _ in range(2 * _SUBSTEPS):
            mujoco.mj_step(self.model, self.data)
        mujoco.mj_forward(self.model, self.data)

    def step(self, action: Float32[np.ndarray, " A"]) -> float:
        """Move the pickers; the reward is the distance of the rope's ends (m)."""
        start = self.data.mocap_pos.copy()
        target = _apart(np.clip(start + _STEP * action.reshape(2, 3), _LOW, _HIGH))
        fractions = np.arange(1, _SUBSTEPS + 1)[:, None, None] / _SUBSTEPS
        for _ in glide(self.data, self.model, start + fractions * (target - start)):
            pass
        mujoco.mj_forward(self.model, self.data)
        self._check()
        return min(self.signals()["end_distance"], 1.1 * LENGTH)

    def observe(self) -> Float32[np.ndarray, " D"]:
        """Key points and pickers."""
        state = np.concatenate([self.data.site_xpos[self._points].ravel(), self.data.mocap_pos.ravel()])
        return np.clip(state.astype(np.float32), self.low, self.high)

    def signals(self) -> Mapping[str, float]:
        """Distance of the rope's ends, and how far the rope is from the line between them (m)."""
        points = self.data.site_xpos[self._joints]
        chord = points[-1] - points[0]
        distance = float(np.linalg.norm(chord))
        away = np.linalg.norm(np.cross(points - points[0], chord), axis=1).max() / max(distance, 1e-9)
        return {"end_distance": distance, "sag": float(away)}

    def memory(self) -> Float64[np.ndarray, " M"]:
        """Nothing."""
        return np.empty(0)

    def remember(self, memory: Float64[np.ndarray, " M"]) -> None:
        """Nothing to put back."""
        del memory

    def _check(self) -> None:
        check_warnings(self.data)
        check_speed(self.data, _FASTEST)
        slipped = np.linalg.norm(self.data.site_xpos[self._joints[[0, -1]]] - self.data.mocap_pos, axis=1).max()
        if slipped > _SLIPPED:
            raise Diverged(f"an end of the rope is {slipped:.3f} m away from the picker that holds it")


class Puller:
    """Pulls the ends apart in the direction in which they lie, about a centre from which both stay in the picture."""

    def reset(self, seed: int) -> None:
        """Nothing to forget."""
        del seed

    def action(self, observation: Mapping[str, np.ndarray]) -> Float32[np.ndarray, " A"]:
        """Go straight towards the ends of the straight rope."""
        pickers = np.asarray(observation["state"][-6:], np.float64).reshape(2, 3)
        chord = pickers[1, :2] - pickers[0, :2]
        half = 0.499 * LENGTH * chord / max(float(np.linalg.norm(chord)), 1e-6)
        room = np.maximum(_HIGH[:2] - np.abs(half), 0)
        centre = np.clip(pickers[:, :2].mean(0), -room, room)
        goal = np.column_stack([np.stack([centre - half, centre + half]), [_LOW[2], _LOW[2]]])
        move = (goal - pickers) / _STEP
        return (move / max(float(np.abs(move).max()), 1.0)).astype(np.float32).ravel()


def build(task: Task) -> Rope:
    """Make the rope, its table and its pickers."""
    return Rope(task)


def build_expert(task: Task) -> Puller:
    """Make the policy that pulls the ends apart."""
    del task
    return Puller()


def _apart(pickers: Float64[np.ndarray, "2 3"]) -> Float64[np.ndarray, "2 3"]:
    """Bring pickers that would tear the rope back to its length, about their middle."""
    chord = pickers[1] - pickers[0]
    distance = float(np.linalg.norm(chord))
    if distance <= LENGTH:
        return pickers
    middle, half = pickers.mean(0), chord / distance * LENGTH / 2
    return np.stack([middle - half, middle + half])


def _curve(generator: np.random.Generator, limits: Mapping[str, tuple[float, float]]) -> Float64[np.ndarray, "26 2"]:
    """Joints of a rope that bends smoothly at random, its ends as far apart as wanted, and nowhere crosses itself."""
    along = (np.arange(_SEGMENTS) + 0.5) / _SEGMENTS
    low, high = limits["end_distance"]
    for _ in range(_TRIES):
        phase, amplitude = generator.uniform(0, 2 * math.pi, 3), generator.uniform(-1, 1, 3) * (2.2, 1.3, 0.8)
        waves = np.sin(2 * math.pi * np.outer((0.5, 1, 2), along) + phase[:, None])
        heading = generator.uniform(-math.pi, math.pi) + amplitude @ waves
        steps = LENGTH / _SEGMENTS * np.stack([np.cos(heading), np.sin(heading)], axis=1)
        points = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
        centre = [generator.uniform(*limits["centre_x"]), generator.uniform(*limits["centre_y"])]
        points += centre - (points.min(0) + points.max(0)) / 2
        inside = np.abs(points).max() < _HIGH[0] - _RADIUS
        if inside and low <= np.linalg.norm(points[-1] - points[0]) <= high and _clear(points):
            return points
    found = ", ".join(f"{name} {list(bounds)}" for name, bounds in limits.items())
    raise ConfigError(
        f"no rope of {LENGTH:g} m lies within these resets in {_TRIES} tries: {found}; wanted: ends 0 to {LENGTH:g} "
        f"m apart, all of it within {_HIGH[0] - _RADIUS:g} m of the middle"
    )


def _clear(points: Float64[np.ndarray, "26 2"]) -> bool:
    """Whether parts of the rope that are not neighbours keep more than its thickness apart."""
    middles = (points[1:] + points[:-1]) / 2
    distance = np.linalg.norm(middles[:, None] - middles[None], axis=2)
    far = np.abs(np.subtract.outer(np.arange(_SEGMENTS), np.arange(_SEGMENTS))) > 2
    return bool((distance[far] > 2.2 * _RADIUS + LENGTH / _SEGMENTS / 2).all())


_OPTION = 'solver="Newton" iterations="20" jacobian="dense"'
"""With a sparse Jacobian, MuJoCo's choice at this size, a rope at rest on the table takes twice the time."""

_GRASP = """
  <equality>
    <connect site1="joint0" site2="hold_head" solref="0.01 1"/>
    <connect site1="joint25" site2="hold_tail" solref="0.01 1"/>
  </equality>
"""


def _bodies() -> str:
    segment = LENGTH / _SEGMENTS
    # Spheres collide: a capsule has two contacts with the table, which costs a third of the speed.
    collides = (
        f'<geom type="sphere" group="{HIDDEN}" pos="{segment / 2} 0 0" size="{_RADIUS}" mass="{0.1 / _SEGMENTS}" '
        'condim="3" friction="0.6" solref="0.01 1"/>'
    )
    drawn = (
        f'<geom type="capsule" fromto="0 0 0 {segment} 0 0" size="{_DRAWN}" mass="0" contype="0" conaffinity="0" '
        'rgba="0.1 0.25 0.9 1"/>'
    )
    parts = ['<geom name="table" type="plane" size="3 3 3" friction="0.6" solref="0.01 1" rgba="0.86 0.82 0.75 1"/>']
    for i in range(_SEGMENTS):
        joint = "<freejoint/>" if i == 0 else '<joint type="ball" damping="6e-3" armature="1e-4"/>'
        site = f'<site name="joint{i}" size="0.002"/>'
        parts.append(f'<body name="segment{i}" pos="{segment if i else 0} 0 0">{joint}{collides}{drawn}{site}')
    parts.append(f'<site name="joint{_SEGMENTS}" pos="{segment} 0 0" size="0.002"/>' + "</body>" * _SEGMENTS)
    for side in ("head", "tail"):
        parts.append(
            f'<body name="picker_{side}" mocap="true"><site name="hold_{side}" size="0.002"/>'
            '<geom type="sphere" size="0.018" contype="0" conaffinity="0" rgba="0.95 0.55 0.1 1"/></body>'
        )
    return "\n".join(parts)
