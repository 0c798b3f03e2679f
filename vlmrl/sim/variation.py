"""Variation of a task's looks, dynamics and senses from episode to episode; train and held-out ranges are kept apart.

What an episode gets is decided by one number, which is part of the simulator's state: a stored state is drawn, and goes
on, as it did. That number has a stream of its own, so that the objects of a seed start where they start without
variation.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import get_args

import mujoco
import numpy as np
from jaxtyping import Float32, Float64

from vlmrl.errors import unknown
from vlmrl.sim.ranges import Split, Variation
from vlmrl.sim.task import Camera, Task

BURST = 10
"""Control steps that a push lasts; one starts on average every three bursts."""
_SHAPES = (mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_CYLINDER)
_STREAM: Mapping[str, int] = {"episode": 3, "noise": 4, "drop": 5, "push": 6}
"""Second words of the seeds, so that no two kinds of chance are the same numbers."""


def varied(task: Task, split: str) -> Task:
    """The task with the variation of a split.

    Raises:
        ConfigError: if there is no such split.
    """
    if split not in get_args(Split):
        raise unknown("split", split, get_args(Split))
    return replace(task, variation=getattr(task.variations, split))


@dataclass(frozen=True)
class Draw:
    """What one episode has."""

    number: int
    """From which everything follows."""
    camera_m: float = 0.0
    camera_turn: float = 0.0
    light: float = 1.0
    colour: float = 0.0
    distractors: int = 0
    mass: float = 1.0
    friction: float = 1.0
    delay_steps: int = 0
    noise: float = 0.0
    drop: float = 0.0
    push: float = 0.0


def draw(variation: Variation, number: int) -> Draw:
    """Draw every quantity evenly from its range; numbers of things and steps as whole numbers, both ends included."""
    generator = np.random.default_rng([number, _STREAM["episode"]])
    found: dict[str, float | int] = {}
    for field in fields(Variation):
        low, high = getattr(variation, field.name)
        # Drawn for every field, so that one kind of variation does not change what another draws.
        even, whole = generator.uniform(low, high), int(generator.integers(round(low), round(high) + 1))
        found[field.name] = whole if field.name in ("distractors", "delay_steps") else float(even)
    return Draw(number, **found)  # type: ignore[arg-type]


class Look:
    """Colours, light, masses and friction of a model, and where cameras and distractors are, in one episode."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._stock = {name: getattr(model, name).copy() for name in _VARIED}
        self._headlight = (model.vis.headlight.diffuse.copy(), model.vis.headlight.ambient.copy())
        self._changed = False

    def apply(self, drawn: Draw, data: mujoco.MjData) -> None:
        """Bring the model to what an episode has; `data` is scratch and must be reset or set afterwards."""
        model, generator = self._model, np.random.default_rng([drawn.number, _STREAM["episode"], 1])
        for name, stock in self._stock.items():
            getattr(model, name)[:] = stock
        # The draws do not depend on the amounts, so that a stronger variation is more of the same.
        for name in ("mat_rgba", "geom_rgba", "skin_rgba", "flex_rgba"):
            rgba = getattr(model, name)
            factor = 1 + drawn.colour * generator.uniform(-1, 1, (len(rgba), 3))
            rgba[:, :3] = np.clip(rgba[:, :3] * factor, 0, 1)
        model.light_diffuse[:] *= drawn.light
        for kind, stock in zip(("diffuse", "ambient"), self._headlight, strict=True):
            getattr(model.vis.headlight, kind)[:] = stock * drawn.light
        model.body_mass[:] *= drawn.mass
        model.body_inertia[:] *= drawn.mass
        model.geom_friction[:, 0] *= drawn.friction
        moved = drawn.mass != 1
        if moved or self._changed:
            mujoco.mj_setConst(model, data)
        self._changed = moved

    def camera(self, camera: Camera, drawn: Draw) -> Camera:
        """The camera, shifted and turned about its own place."""
        generator = np.random.default_rng([drawn.number, _STREAM["episode"], 2])
        shift, axis = (_unit(generator) for _ in range(2))
        right, up = (np.asarray(camera.xyaxes[k : k + 3], np.float64) for k in (0, 3))
        turn = np.zeros(9)
        mujoco.mju_axisAngle2Quat(quaternion := np.zeros(4), axis, drawn.camera_turn * np.radians(camera.fovy))
        mujoco.mju_quat2Mat(turn, quaternion)
        axes = [turn.reshape(3, 3) @ v for v in (right, up)]
        return replace(
            camera,
            position=tuple(map(float, np.asarray(camera.position) + drawn.camera_m * shift)),
            xyaxes=tuple(float(x) for v in axes for x in v),
        )

    def distractors(self, drawn: Draw, data: mujoco.MjData, camera: Camera) -> list["Thing"]:
        """Things that are only drawn, on whatever lies behind the outer part of the unvaried camera's picture."""
        generator = np.random.default_rng([drawn.number, _STREAM["episode"], 3])
        things: list[Thing] = []
        for _ in range(8 * drawn.distractors):
            thing = _thing(self._model, data, camera, generator)
            if thing is not None and len(things) < drawn.distractors:
                things.append(thing)
        return things


@dataclass(frozen=True)
class Thing:
    """A distractor: drawn, and nothing else."""

    kind: int
    size_m: Float64[np.ndarray, "3"]
    place_m: Float64[np.ndarray, "3"]
    rgba: Float32[np.ndarray, "4"]

    def add(self, scene: mujoco.MjvScene) -> None:
        """Put it into an abstract scene."""
        if scene.ngeom < scene.maxgeom:
            geom = scene.geoms[scene.ngeom]
            mujoco.mjv_initGeom(geom, self.kind, self.size_m, self.place_m, np.eye(3).ravel(), self.rgba)
            scene.ngeom += 1


def _thing(model: mujoco.MjModel, data: mujoco.MjData, camera: Camera, generator: np.random.Generator) -> Thing | None:
    """One thing where a ray through the picture's outer part meets a surface that faces up; None where it does not."""
    # A fixed number of draws, so that the next thing does not depend on this one.
    edge, angle = generator.uniform(0.55, 0.95), generator.uniform(0, 2 * np.pi)
    size, kind, colour = (
        generator.uniform(0.02, 0.045),
        generator.integers(len(_SHAPES)),
        generator.uniform(0.1, 0.95, 3),
    )
    across, along = edge * np.array([np.cos(angle), np.sin(angle)]) / max(abs(np.cos(angle)), abs(np.sin(angle)))
    right, up = (np.asarray(camera.xyaxes[k : k + 3], np.float64) for k in (0, 3))
    right, up = right / np.linalg.norm(right), up / np.linalg.norm(up)
    half = np.tan(np.radians(camera.fovy) / 2)
    ray = np.cross(up, right) + half * (across * right * camera.width / camera.height + along * up)
    ray /= np.linalg.norm(ray)
    position = np.asarray(camera.position, np.float64)
    if camera.follow:
        position = position + data.body(camera.follow).xpos
    distance = _standing(model, data, position, ray)
    if distance is None:
        return None
    height = size * (1 if _SHAPES[kind] == mujoco.mjtGeom.mjGEOM_SPHERE else generator.uniform(0.6, 1.8))
    # Stands on what the ray met, and seen from far it is as large in the picture as near.
    scale = distance * half / 0.25
    place = position + distance * ray + np.array([0, 0, height * scale])
    return Thing(int(_SHAPES[kind]), np.array([size, size, height]) * scale, place, np.float32([*colour, 1]))


def _standing(
    model: mujoco.MjModel, data: mujoco.MjData, position: Float64[np.ndarray, "3"], ray: Float64[np.ndarray, "3"]
) -> float | None:
    """Distance along a ray to the first surface that never moves; None where there is none near."""
    geom, gone = np.zeros(1, np.int32), 0.0
    for _ in range(20):
        step = mujoco.mj_ray(model, data, position + gone * ray, ray, None, 1, -1, geom)
        gone += step
        if step < 0 or gone > 20:
            return None
        if gone > 0.05 and model.body_weldid[model.geom_bodyid[geom[0]]] == 0:
            return gone
        gone += 1e-4
    return None


def _unit(generator: np.random.Generator) -> Float64[np.ndarray, "3"]:
    direction = generator.normal(size=3)
    return direction / np.linalg.norm(direction)


_VARIED = (
    *("mat_rgba", "geom_rgba", "skin_rgba", "flex_rgba", "light_diffuse"),
    *("body_mass", "body_inertia", "geom_friction"),
)
"""Arrays of the model that an episode may change; whatever a family's reset writes is not among them."""


class Senses:
    """What stands between a policy and the scene: late actions, pushes, noise and lost observations."""

    def __init__(self, variation: Variation, actions: int, numbers: int) -> None:
        self._longest, self._actions, self._numbers = round(variation.delay_steps[1]), actions, numbers
        self._waiting: deque[Float32[np.ndarray, " A"]] = deque()
        self._shown = np.zeros(numbers, np.float32)
        self.start(Draw(0))

    def start(self, drawn: Draw) -> None:
        """An episode begins: zero actions are on their way."""
        self._drawn = drawn
        self._waiting = deque(np.zeros(self._actions, np.float32) for _ in range(drawn.delay_steps))

    def act(self, action: Float32[np.ndarray, " A"], step: int) -> Float32[np.ndarray, " A"]:
        """What reaches the scene at a control step."""
        self._waiting.append(action)
        late = self._waiting.popleft()
        return np.clip(late + self._push(step), -1, 1).astype(np.float32)

    def _push(self, step: int) -> Float64[np.ndarray, " A"]:
        generator = np.random.default_rng([self._drawn.number, _STREAM["push"], step // BURST])
        felt, direction = generator.random() < 1 / 3, generator.uniform(-1, 1, self._actions)
        return self._drawn.push * felt * direction

    def see(self, state: Float32[np.ndarray, " D"], step: int) -> Float32[np.ndarray, " D"]:
        """What the policy gets to see after a control step; the first observation always arrives."""
        lost = np.random.default_rng([self._drawn.number, _STREAM["drop"], step]).random() < self._drawn.drop
        if step == 0 or not lost:
            noise = np.random.default_rng([self._drawn.number, _STREAM["noise"], step]).normal(size=len(state))
            self._shown = (state + self._drawn.noise * noise).astype(np.float32)
        return self._shown.copy()

    def memory(self) -> Float64[np.ndarray, " M"]:
        """Actions on their way and what was shown last; the length is fixed."""
        waiting = np.zeros((self._longest, self._actions))
        waiting[: len(self._waiting)] = list(self._waiting) or np.empty((0, self._actions))
        return np.concatenate([waiting.ravel(), self._shown])

    def remember(self, drawn: Draw, memory: Float64[np.ndarray, " M"]) -> None:
        """Put them back."""
        self._drawn = drawn
        waiting = memory[: self._longest * self._actions].reshape(-1, self._actions).astype(np.float32)
        self._waiting = deque(waiting[: drawn.delay_steps].copy())
        self._shown = memory[self._longest * self._actions :].astype(np.float32)
