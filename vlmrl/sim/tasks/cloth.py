"""Folding a cloth along its diagonal in one move: RL-VLM-F's `ClothFoldDiagonal` in MuJoCo.

As there: the picker holds the top left corner, the action says where to put it, the episode is that one action, the
reward is -10 times the mean distance (m) of the vertices from the folded cloth, success a mean distance of at most a
tenth of the first. Different: 15 x 15 vertices over 0.3 m instead of 40 x 40 over 0.25 m; the folded cloth is the
geometric one, not the outcome of a fold; the picker follows half an ellipse and lets go; the cloth starts shifted and
turned. Layers do not collide with each other (that would cost a factor of four): the upper one lies in the lower one
and is drawn above it.
"""

import math
from collections.abc import Mapping

import mujoco
import numpy as np
from jaxtyping import Float32, Float64

from vlmrl.sim.dynamics import Diverged
from vlmrl.sim.soft import HIDDEN, check_speed, check_warnings, compiled, glide, ranges
from vlmrl.sim.task import Task

SIDE = 0.3
"""m."""
_N, _RADIUS = 15, 0.004
_CORNER, _OPPOSITE = _N - 1, _N * (_N - 1)
"""Vertices of the top left and bottom right corners. Vertex i * _N + j is column i from the left, row j from below."""
_REACH = 0.22
"""m from the middle of the table, on each axis, that a target can be."""
_MOVE, _SETTLE = 160, 90
"""Physics steps of a fold and after it."""
_LIFT = 0.42
"""Height of the picker's half ellipse over its length: the cloth is laid over, not dragged."""
_DRAG = 0.004
"""N s/m of air on a vertex; without it, folds of nearly equal targets differ by centimetres."""
_FASTEST = 20.0
"""m/s; a fold reaches 2."""
_STRETCH = 1.5
"""Of an edge; folds stay within 4 %."""
_KEY = np.linspace(0, _N - 1, 6).round().astype(int)
_POINTS = (_KEY[:, None] * _N + _KEY).ravel()


class Cloth:
    """A cloth on a table, and a picker that takes its top left corner somewhere in one step."""

    control_hz = 0.8
    action_names = ("target_x", "target_y")
    action_units = (f"{_REACH} m",) * 2
    state_names = (
        *(f"point_{i}_{j}_{axis}" for i in range(6) for j in range(6) for axis in "xyz"),
        *(f"picker_{axis}" for axis in "xyz"),
    )
    """Points i from the left and j from below, evenly over the cloth with its edges; then the picker."""
    state_units = ("m",) * (3 * 36 + 3)

    def __init__(self, task: Task) -> None:
        self.model = compiled("cloth", option=_OPTION, bodies=_bodies(), more=_skins() + _GRASP)
        self.model.dof_damping[:] = _DRAG
        self.data = mujoco.MjData(self.model)
        self._ranges = ranges(task, {"x": (-0.03, 0.03), "y": (-0.03, 0.03), "rotation": (-0.3, 0.3)})
        self._flat = _flat()
        self._pose = np.zeros(3)
        self.low, self.high = (np.full(len(self.state_names), bound, np.float32) for bound in (-1, 1))

    def reset(self, generator: np.random.Generator) -> None:
        """Lay the cloth flat, shifted and turned."""
        mujoco.mj_resetData(self.model, self.data)
        self._pose = np.array([generator.uniform(*self._ranges[k]) for k in ("x", "y", "rotation")])
        self.data.qpos[:] = (self._start() - self._flat).ravel()
        self.data.mocap_pos[0] = self._start()[_CORNER]
        for _ in range(20):
            mujoco.mj_step(self.model, self.data)
        mujoco.mj_forward(self.model, self.data)

    def step(self, action: Float32[np.ndarray, " A"]) -> float:
        """Take the corner to a place, let go, let the cloth settle; the reward is -10 times the mean distance (m)."""
        held = self.model.equality("hold").id
        self.data.mocap_pos[0] = self._vertices()[_CORNER]
        self.data.eq_active[held] = 1
        for i in glide(
            self.data, self.model, _ellipse(self.data.mocap_pos[0].copy(), _REACH * action.astype(np.float64))
        ):
            if i % 20 == 0:
                self._check()
        self.data.eq_active[held] = 0
        for _ in range(_SETTLE):
            mujoco.mj_step(self.model, self.data)
        mujoco.mj_forward(self.model, self.data)
        self._check()
        return -10 * self._distance(self._vertices())

    def observe(self) -> Float32[np.ndarray, " D"]:
        """Key points and picker."""
        state = np.concatenate([self._vertices()[_POINTS].ravel(), self.data.mocap_pos[0]])
        return np.clip(state.astype(np.float32), self.low, self.high)

    def signals(self) -> Mapping[str, float]:
        """Mean distance of the vertices from the folded cloth (m), the share of it that is gone, the corner's (m)."""
        vertices, first = self._vertices(), self._distance(self._start())
        distance = self._distance(vertices)
        corner = float(np.linalg.norm(vertices[_CORNER] - self._start()[_OPPOSITE]))
        return {"distance": distance, "folded": 1 - distance / first, "corner": corner}

    def memory(self) -> Float64[np.ndarray, " M"]:
        """Where the cloth lay: its shift (m) and turn (rad)."""
        return self._pose.copy()

    def remember(self, memory: Float64[np.ndarray, " M"]) -> None:
        """Put it back."""
        self._pose = memory.copy()

    def _vertices(self) -> Float64[np.ndarray, "225 3"]:
        return self.data.flexvert_xpos.reshape(-1, 3)

    def _start(self) -> Float64[np.ndarray, "225 3"]:
        x, y, angle = self._pose
        cos, sin = math.cos(angle), math.sin(angle)
        turned = self._flat @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        return turned + np.array([x, y, 0])

    def _distance(self, vertices: Float64[np.ndarray, "225 3"]) -> float:
        return float(np.linalg.norm(vertices - folded(self._start()), axis=1).mean())

    def _check(self) -> None:
        check_warnings(self.data)
        check_speed(self.data, _FASTEST)
        stretch = self.data.flexedge_length / self.model.flexedge_length0
        if not (stretch.min() > 1 / _STRETCH and stretch.max() < _STRETCH):
            raise Diverged(f"an edge of the cloth is at {stretch.min():.2f} to {stretch.max():.2f} of its length")


class Folder:
    """Puts the corner upon the opposite one, a little beyond to make up for the slack of the crease."""

    def reset(self, seed: int) -> None:
        """Nothing to forget."""
        del seed

    def action(self, observation: Mapping[str, np.ndarray]) -> Float32[np.ndarray, " A"]:
        """Aim at the bottom right corner, the last column's first key point."""
        points = np.asarray(observation["state"][:-3], np.float64).reshape(6, 6, 3)
        corner, opposite = points[0, 5, :2], points[5, 0, :2]
        way = opposite - corner
        target = opposite + 0.005 * way / max(float(np.linalg.norm(way)), 1e-6)
        return np.clip(target / _REACH, -1, 1).astype(np.float32)


def folded(flat: Float64[np.ndarray, "225 3"]) -> Float64[np.ndarray, "225 3"]:
    """The flat cloth's vertices after its upper left half was mirrored upon the lower right one."""
    grid = flat.reshape(_N, _N, 3)
    upper = np.triu(np.ones((_N, _N), bool), 1)
    return np.where(upper[:, :, None], grid.transpose(1, 0, 2), grid).reshape(-1, 3)


def build(task: Task) -> Cloth:
    """Make the cloth, its table and its picker."""
    return Cloth(task)


def build_expert(task: Task) -> Folder:
    """Make the policy that lays one corner upon the other."""
    del task
    return Folder()


def _flat() -> Float64[np.ndarray, "225 3"]:
    line = np.linspace(-SIDE / 2, SIDE / 2, _N)
    x, y = np.meshgrid(line, line, indexing="ij")
    return np.stack([x, y, np.full_like(x, _RADIUS)], axis=2).reshape(-1, 3)


def _ellipse(start: Float64[np.ndarray, "3"], target: Float64[np.ndarray, "2"]) -> Float64[np.ndarray, "160 1 3"]:
    """Half an ellipse over the table that starts and ends slowly."""
    phase = np.arange(1, _MOVE + 1) / _MOVE
    angle = math.pi * phase**2 * (3 - 2 * phase)
    way = target - start[:2]
    height = start[2] + _LIFT * float(np.linalg.norm(way)) * np.sin(angle)
    flat = start[:2] + np.outer((1 - np.cos(angle)) / 2, way)
    return np.column_stack([flat, height])[:, None]


_OPTION = 'solver="CG" iterations="20" ls_iterations="20" tolerance="1e-6"'
"""CG: Newton is five times slower. 20 iterations are enough only while layers do not collide."""

_GRASP = f"""
  <equality>
    <connect name="hold" body1="cloth_{_CORNER}" body2="picker" anchor="0 0 0" solref="0.01 1" active="false"/>
  </equality>
"""


def _bodies() -> str:
    # A plane: a box would collide triangle by triangle, three times slower.
    gap = SIDE / (_N - 1)
    corner = " ".join(map(str, _flat()[_CORNER]))
    return f"""
    <geom name="table" type="plane" size="3 3 3" condim="3" friction="1" solref="0.01 1" rgba="0.8 0.8 0.78 1"/>
    <flexcomp name="cloth" type="grid" dim="2" count="{_N} {_N} 1" spacing="{gap} {gap} {gap}" pos="0 0 {_RADIUS}"
        mass="0.1" radius="{_RADIUS}" group="{HIDDEN}">
      <edge equality="true" solref="0.01 1"/>
      <contact condim="3" friction="1" solref="0.01 1" solimp="0.95 0.99 0.001" selfcollide="none" internal="false"/>
    </flexcomp>
    <body name="picker" mocap="true" pos="{corner}">
      <geom type="sphere" size="0.012" contype="0" conaffinity="0" rgba="0.85 0.2 0.2 1"/>
    </body>
    """


def _skins() -> str:
    """What is drawn: the cloth's two sides in two colours, so that a fold is seen."""
    flat = _flat()
    i, j = np.divmod(np.arange(_N * _N), _N)
    # The nearer to the corner that is folded over, the higher: of two layers at one height the right one is seen.
    drawn = flat + np.outer((j - i + _N - 1) / (2 * _N - 2), (0, 0, 0.012))
    first = (np.arange(_N - 1)[:, None] * _N + np.arange(_N - 1)).ravel()
    # Triangles as the flex has them: the crease runs along their edges.
    faces = np.concatenate([first[:, None] + (0, _N, _N + 1), first[:, None] + (0, _N + 1, 1)])
    return (
        "<deformable>"
        + _skin("above", drawn, faces, "0.13 0.3 0.85 1")
        + _skin("below", drawn, faces[:, ::-1], "1 0.75 0.15 1")
        + "</deformable>"
    )


def _skin(name: str, vertices: np.ndarray, faces: np.ndarray, rgba: str) -> str:
    bones = "".join(
        f'<bone body="cloth_{v}" bindpos="{_text(place)}" bindquat="1 0 0 0" vertid="{v}" vertweight="1"/>'
        for v, place in enumerate(_flat())
    )
    return f'<skin name="{name}" rgba="{rgba}" vertex="{_text(vertices)}" face="{_text(faces)}">{bones}</skin>'


def _text(numbers: np.ndarray) -> str:
    return " ".join(f"{x:g}" for x in np.asarray(numbers).ravel())
