"""Passing a container of water along a line: RL-VLM-F's `PassWater1D` in MuJoCo.

As there: the action moves the container, the reward is -10 times the share of the water that is spilled minus the
distance from the goal. Different: the water is 120 smooth balls of unequal size instead of FleX's fluid, under gravity
of 4 m/s², because balls do not slosh as water does; the way is half of theirs, so the distance counts twice and the
start is worth -1.2 as there; the container is always of one size, and its start and the goal vary.
"""

from collections.abc import Mapping

import mujoco
import numpy as np
from jaxtyping import Bool, Float32, Float64

from vlmrl.errors import ConfigError
from vlmrl.sim.dynamics import Diverged
from vlmrl.sim.soft import HIDDEN, check_speed, check_warnings, compiled, ranges
from vlmrl.sim.task import Task

BALLS = 120
_RADIUS, _SPREAD = 0.012, 0.12
"""m; equal balls would stay the crystal in which they are poured."""
_DRAWN = 1.35
"""Times a ball's radius: balls that overlap look more like water."""
_INSIDE = np.array([0.16, 0.12, 0.085])
"""m: length, width and height of the container's inside."""
_FLOOR = 0.012
"""m: top of the container's floor above the table."""
_SPEED = 1.0
"""m/s of the container at full action; it changes at once."""
_SUBSTEPS = 10
_TRIES = 20
"""Of pouring."""
_LOW, _HIGH = -0.1, 0.8
"""m: where the container's middle can be sent."""
_SPILLED, _AWAY = 10.0, 2.0
"""The reward's weights: of the share of the water spilled, and of the distance (1/m)."""
_FASTEST = 20.0
"""m/s; random actions reach 3."""
_LOST = 0.05
"""m between the container and where it is sent."""


class Water:
    """A container of water on a rail, and a red circle beside the rail."""

    control_hz = 20.0
    action_names = ("container_dx",)
    action_units = (f"{_SPEED * 0.05:g} m",)
    state_names = (
        "container_x",
        "container_velocity",
        "goal_x",
        "water_height",
        "water_offset",
        "water_velocity",
        "inside",
        "spilled",
    )
    """Of the water inside: its highest ball above the container's floor, and its middle relative to the container's."""
    state_units = ("m", "m/s", "m", "m", "m", "m/s", "1", "1")

    def __init__(self, task: Task) -> None:
        self.model = compiled("water", option=_OPTION, bodies=_bodies(), more=_ACTUATOR)
        self.model.vis.quality.numslices, self.model.vis.quality.numstacks = 16, 5
        self.data = mujoco.MjData(self.model)
        self._ranges = ranges(task, {"start": (-0.05, 0.05), "goal": (0.5, 0.7)})
        self.low = np.array([-1, -10, -1, -1, -1, -10, 0, 0], np.float32)
        self.high = np.array([2, 10, 2, 1, 1, 10, 1, 1], np.float32)

    def reset(self, generator: np.random.Generator) -> None:
        """Pour the water and let it settle; again, should a ball have jumped out."""
        for _ in range(_TRIES):
            mujoco.mj_resetData(self.model, self.data)
            start, goal = (generator.uniform(*self._ranges[k]) for k in ("start", "goal"))
            self.data.mocap_pos[0, 0] = goal
            self.data.qpos[0] = self.data.ctrl[0] = start
            self.data.qpos[1:] = (_poured(generator) + np.array([start, 0, 0])).ravel()
            for _ in range(20 * _SUBSTEPS):
                mujoco.mj_step(self.model, self.data)
            mujoco.mj_forward(self.model, self.data)
            if self._inside().all():
                return
        raise ConfigError(
            f"the water left its container in {_TRIES} tries, from resets start {list(self._ranges['start'])}, "
            f"goal {list(self._ranges['goal'])}; wanted numbers (m) nearer to [-0.05, 0.05] and [0.5, 0.7]"
        )

    def step(self, action: Float32[np.ndarray, " A"]) -> float:
        """Move the container."""
        start = float(self.data.ctrl[0])
        target = min(max(start + _SPEED / self.control_hz * float(action[0]), _LOW), _HIGH)
        for i in range(1, _SUBSTEPS + 1):
            self.data.ctrl[0] = start + (target - start) * i / _SUBSTEPS
            mujoco.mj_step(self.model, self.data)
        mujoco.mj_forward(self.model, self.data)
        self._check()
        return self.signals()["performance"]

    def observe(self) -> Float32[np.ndarray, " D"]:
        """Container, goal, and the water in it."""
        x, speed, inside = self.data.qpos[0], self.data.qvel[0], self._inside()
        balls, speeds = self._balls()[inside], self.data.qvel[1:].reshape(-1, 3)[inside]
        water = (0.0, 0.0, 0.0)
        if inside.any():
            water = (balls[:, 2].max() - _FLOOR, balls[:, 0].mean() - x, speeds[:, 0].mean() - speed)
        share = inside.mean()
        state = np.array([x, speed, self.data.mocap_pos[0, 0], *water, share, 1 - share], np.float32)
        return np.clip(state, self.low, self.high)

    def signals(self) -> Mapping[str, float]:
        """Distance of the container from the goal (m), share of the water spilled, and what both are worth."""
        distance = abs(float(self.data.qpos[0] - self.data.mocap_pos[0, 0]))
        spilled = 1 - float(self._inside().mean())
        return {"distance": distance, "spilled": spilled, "performance": -_SPILLED * spilled - _AWAY * distance}

    def memory(self) -> Float64[np.ndarray, " M"]:
        """Nothing."""
        return np.empty(0)

    def remember(self, memory: Float64[np.ndarray, " M"]) -> None:
        """Nothing to put back."""
        del memory

    def _balls(self) -> Float64[np.ndarray, "120 3"]:
        return self.data.qpos[1:].reshape(-1, 3)

    def _inside(self) -> Bool[np.ndarray, "120"]:
        """Balls over the container's floor and between its walls; one on its way over the edge still counts."""
        balls = self._balls()
        across = np.abs(balls[:, :2] - (self.data.qpos[0], 0)) < _INSIDE[:2] / 2
        return across.all(axis=1) & (balls[:, 2] > _FLOOR)

    def _check(self) -> None:
        check_warnings(self.data)
        check_speed(self.data, _FASTEST)
        lost = abs(float(self.data.qpos[0] - self.data.ctrl[0]))
        if lost > _LOST:
            raise Diverged(f"the container is {lost:.3f} m away from where it was sent")


class Carrier:
    """Gains and loses speed gently, and goes slowly."""

    _FAST, _GAIN, _CHANGE = 0.35, 2.5, 0.04
    """m/s; 1/s; m/s a control step."""

    def reset(self, seed: int) -> None:
        """Nothing to forget."""
        del seed

    def action(self, observation: Mapping[str, np.ndarray]) -> Float32[np.ndarray, " A"]:
        """Go on towards the goal."""
        x, speed, goal = (float(v) for v in observation["state"][:3])
        wanted = np.clip(self._GAIN * (goal - x), -self._FAST, self._FAST)
        return np.array([np.clip(wanted, speed - self._CHANGE, speed + self._CHANGE) / _SPEED], np.float32)


def build(task: Task) -> Water:
    """Make the container, its water and the goal."""
    return Water(task)


def build_expert(task: Task) -> Carrier:
    """Make the policy that carries gently."""
    del task
    return Carrier()


def _poured(generator: np.random.Generator) -> Float64[np.ndarray, "120 3"]:
    """Balls in layers of 5 x 4 above the container's floor, shaken."""
    layer, place = np.divmod(np.arange(BALLS), 20)
    column, row = np.divmod(place, 4)
    grid = np.stack([0.029 * (column - 2), 0.028 * (row - 1.5), _FLOOR + 0.015 + 0.028 * layer], axis=1)
    return grid + generator.uniform(-0.002, 0.002, grid.shape)


_OPTION = 'gravity="0 0 -4" solver="CG" iterations="15" ls_iterations="10" tolerance="1e-6"'

_ACTUATOR = '<actuator><position joint="rail" kp="4000" dampratio="1" ctrlrange="-1 2"/></actuator>'

_SMOOTH = 'condim="1" solref="0.012 1" solimp="0.9 0.95 0.001"'


def _bodies() -> str:
    # The balls' own generator: the scene is the same in every episode and process.
    sizes = _RADIUS * np.random.default_rng(0).uniform(1 - _SPREAD, 1 + _SPREAD, BALLS)
    # Three slides instead of a free joint: smooth balls have no reason to turn.
    slides = "".join(f'<joint type="slide" axis="{axis}"/>' for axis in ("1 0 0", "0 1 0", "0 0 1"))
    balls = "\n".join(
        f'<body name="ball{i}">{slides}'
        f'<geom type="sphere" group="{HIDDEN}" size="{r:.5f}" density="1000" {_SMOOTH}/>'
        f'<geom type="sphere" size="{_DRAWN * r:.5f}" {_LOOKS} mass="0" rgba="0.2 0.58 1 1"/></body>'
        for i, r in enumerate(sizes)
    )
    return f"""
    <geom name="table" type="plane" size="4 4 4" contype="0" conaffinity="1" condim="3" friction="1"
        rgba="0.95 0.93 0.9 1"/>
    <body name="goal" mocap="true" pos="0.6 -0.17 0.001">
      <geom type="cylinder" size="0.05 0.001" {_LOOKS} rgba="0.9 0.08 0.08 1"/>
    </body>
    <body name="container">
      <joint name="rail" type="slide" axis="1 0 0"/>
      {_container()}
    </body>
    {balls}
    """


def _container() -> str:
    """Walls that collide, thick so that no ball passes, and thin ones that are drawn."""
    parts: list[str] = []
    length, width, height = _INSIDE
    middle = _FLOOR + height / 2
    for thick, look in ((0.02, f'group="{HIDDEN}" contype="0" conaffinity="1" mass="0.2" {_SMOOTH}'), (0.006, _GLASS)):
        for sign in (-1, 1):
            x, y = sign * (length + thick) / 2, sign * (width + thick) / 2
            parts.append(_box((thick / 2, width / 2 + thick, height / 2), (x, 0.0, middle), look))
            parts.append(_box((length / 2, thick / 2, height / 2), (0.0, y, middle), look))
        half = min(thick, _FLOOR) / 2
        parts.append(_box((length / 2 + thick, width / 2 + thick, half), (0.0, 0.0, _FLOOR - half), look))
    return "\n".join(parts)


_LOOKS = 'contype="0" conaffinity="0"'
_GLASS = f'{_LOOKS} mass="0" rgba="0.75 0.9 0.95 0.3"'


def _box(size: tuple[float, ...], place: tuple[float, ...], look: str) -> str:
    numbers = (" ".join(f"{x:g}" for x in triple) for triple in (size, place))
    return '<geom type="box" size="{}" pos="{}" {}/>'.format(*numbers, look)
