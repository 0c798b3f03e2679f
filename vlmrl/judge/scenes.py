"""Pictures to learn from: graded episodes of a Meta-World task, seen by many cameras in many colours and lights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mujoco
import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8

from vlmrl.judge.curriculum import Lesson
from vlmrl.sim.render import Renderer
from vlmrl.sim.task import Camera, Physics, Render, Task
from vlmrl.sim.tasks.metaworld import Sawyer, ScriptedPolicy

SIDE = 128
"""Pixels of a picture's side."""
HORIZON = 160
"""Control steps an episode."""
NOISE = (0.0, 0.15, 0.3, 0.5, 0.7)
"""Share of random actions, in turn."""
_HIDDEN = 0.5
"""Share of views without the robot."""
_STOCK_LOOK = 0.5
"""Share of views in the scene's own colours and light."""


@dataclass(frozen=True)
class View:
    """How a scene is seen: a camera, and factors on the colours and lights of the model."""

    camera: Camera
    colours: Float64[np.ndarray, "M 3"] | None = None
    """Factor for each material, then for each geom; None: as they are."""
    light: float = 1.0


@dataclass(frozen=True)
class Pictures:
    """Frames of one task."""

    pixels: UInt8[np.ndarray, "N S S 3"]
    progress: Float32[np.ndarray, " N"]
    """0 at the start of the episode, 1 at the goal; below 0 when further away than at the start."""
    view: Int32[np.ndarray, " N"]
    episode: Int32[np.ndarray, " N"]
    row: Int32[np.ndarray, " N"]


class Studio:
    """One Meta-World task, played and photographed."""

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson
        self._world = Sawyer(_task(lesson.name))
        self._policy = ScriptedPolicy(lesson.name)
        model = self._world.model
        self._original = (model.mat_rgba.copy(), model.geom_rgba.copy(), model.light_diffuse.copy())
        self._sites = {model.site(i).name for i in range(model.nsite)}
        for i in range(model.nsite):
            if model.site(i).name != "goal":
                model.site_rgba[i, 3] = 0

    def centre(self, generator: np.random.Generator) -> Float64[np.ndarray, " 3"]:
        """Where things happen: midway between the object and its target, of a few starts; metres."""
        found = []
        for _ in range(8):
            self._world.reset(generator)
            place = self._world.objects[self.lesson.measure == "second"]
            found.append((np.asarray(place) + self._world.target) / 2)
        return np.mean(found, axis=0)

    def surfaces(self) -> int:
        """Materials and geoms whose colours can be changed."""
        return self._world.model.nmat + self._world.model.ngeom

    def stock_cameras(self) -> dict[str, Camera]:
        """The scene's own cameras."""
        model = self._world.model
        found: dict[str, Camera] = {}
        for i in range(model.ncam):
            axes = model.cam_mat0[i].reshape(3, 3)
            found[model.camera(i).name] = Camera(
                position=tuple(map(float, model.cam_pos[i])),
                xyaxes=(*map(float, axes[:, 0]), *map(float, axes[:, 1])),
                fovy=float(model.cam_fovy[i]),
            )
        return found

    def shoot(
        self, views: Sequence[View], *, episodes: int, views_each: int, rows: int, generator: np.random.Generator
    ) -> Pictures:
        """Play episodes and take pictures of `rows` states of each, from `views_each` of the views."""
        cameras = {str(i): view.camera for i, view in enumerate(views)}
        renderer = Renderer(self._world.model, cameras, render=Render(sites=self.lesson.marker), robot_bodies=("base",))
        pixels: list[UInt8[np.ndarray, "S S 3"]] = []
        facts: list[tuple[float, int, int, int]] = []
        for episode in range(episodes):
            states, progress = self._play(NOISE[episode % len(NOISE)], generator)
            chosen = _rows(progress, rows, generator)
            for v in generator.choice(len(views), min(views_each, len(views)), replace=False):
                self._dress(views[v])
                for row in chosen:
                    self._world.data.qpos[:] = states[row]
                    mujoco.mj_forward(self._world.model, self._world.data)
                    pixels.append(renderer.frame(self._world.data, str(v)))
                    facts.append((float(progress[row]), int(v), episode, int(row)))
            self._dress(View(views[0].camera))
        renderer.close()
        values, view, number, row = zip(*facts, strict=True)
        return Pictures(
            np.stack(pixels),
            np.asarray(values, np.float32),
            *(np.asarray(x, np.int32) for x in (view, number, row)),
        )

    def _play(
        self, noise: float, generator: np.random.Generator
    ) -> tuple[Float64[np.ndarray, "T Q"], Float64[np.ndarray, " T"]]:
        """States of one episode and how far along each is."""
        world = self._world
        world.reset(generator)
        if self.lesson.marker and "goal" in self._sites:
            world.model.site("goal").pos[:] = world.target
        states, distances = [], []
        for _ in range(HORIZON):
            state = world.observe().copy()
            state[36:] = world.target
            action = self._policy.action({"state": state})
            if generator.random() < noise:
                action = generator.uniform(-1, 1, len(action)).astype(np.float32)
            world.step(action)
            states.append(world.data.qpos.copy())
            distances.append(self._distance())
        distance = np.asarray(distances)
        return np.asarray(states), 1 - distance / max(distance[0], 1e-6)

    def _distance(self) -> float:
        if self.lesson.measure == "distance":
            return self._world.to_target
        place = self._world.objects[self.lesson.measure == "second"]
        return float(np.linalg.norm(place - self._world.target))

    def _dress(self, view: View) -> None:
        model = self._world.model
        materials, geoms, lights = self._original
        model.mat_rgba[:], model.geom_rgba[:], model.light_diffuse[:] = materials, geoms, lights * view.light
        if view.colours is not None:
            model.mat_rgba[:, :3] *= view.colours[: model.nmat]
            model.geom_rgba[:, :3] *= view.colours[model.nmat :]
            np.clip(model.mat_rgba, 0, 1, out=model.mat_rgba)
            np.clip(model.geom_rgba, 0, 1, out=model.geom_rgba)


def random_view(centre: Float64[np.ndarray, " 3"], surfaces: int, generator: np.random.Generator) -> View:
    """A camera on a dome, turned to where things happen, and with even chances other colours and light."""
    target = centre + generator.uniform(-0.1, 0.1, 3)
    azimuth, elevation = generator.uniform(0, 2 * np.pi), np.radians(generator.uniform(12, 65))
    distance = generator.uniform(0.5, 1.2)
    away = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    right = np.cross(-away, [0, 0, 1])
    right /= np.linalg.norm(right)
    right, up = _rolled(right, np.cross(right, -away), generator.normal(0, 0.06))
    camera = Camera(
        position=tuple(map(float, target + distance * away)),
        xyaxes=(*map(float, right), *map(float, up)),
        fovy=float(generator.uniform(32, 55)),
    )
    return _seen_by(camera, surfaces, generator)


def near_view(camera: Camera, surfaces: int, generator: np.random.Generator) -> View:
    """A camera a hand's breadth and a few degrees from the one given, and with even chances other colours and light."""
    right, up = np.asarray(camera.xyaxes[:3], float), np.asarray(camera.xyaxes[3:], float)
    right /= np.linalg.norm(right)
    up -= (up @ right) * right
    back = np.cross(right, up / np.linalg.norm(up)) + generator.normal(0, 0.05, 3)
    back /= np.linalg.norm(back)
    right -= (right @ back) * back
    right /= np.linalg.norm(right)
    right, up = _rolled(right, np.cross(back, right), generator.normal(0, 0.04))
    near = replace(
        camera,
        position=tuple(map(float, np.asarray(camera.position) + generator.normal(0, 0.05, 3))),
        xyaxes=(*map(float, right), *map(float, up)),
        fovy=float(camera.fovy * generator.uniform(0.85, 1.15)),
    )
    return _seen_by(near, surfaces, generator)


def _rolled(
    right: Float64[np.ndarray, " 3"], up: Float64[np.ndarray, " 3"], roll: float
) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 3"]]:
    return np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right


def _seen_by(camera: Camera, surfaces: int, generator: np.random.Generator) -> View:
    """With or without the robot, in the scene's own colours and light or in others."""
    camera = replace(camera, robot=bool(generator.random() >= _HIDDEN), height=SIDE, width=SIDE)
    if generator.random() < _STOCK_LOOK:
        return View(camera)
    return View(camera, generator.uniform(0.3, 1.5, (surfaces, 3)), float(generator.uniform(0.5, 1.6)))


def _rows(progress: Float64[np.ndarray, " T"], count: int, generator: np.random.Generator) -> Int32[np.ndarray, " n"]:
    """Half evenly in time, half evenly in progress (long waits would fill the pictures otherwise)."""
    times = np.linspace(0, len(progress) - 1, count // 2) + generator.uniform(-3, 3, count // 2)
    levels = generator.uniform(progress.min(), progress.max(), count - count // 2)
    nearest = np.abs(progress[None] - levels[:, None]).argmin(axis=1)
    return np.concatenate([np.clip(times, 0, len(progress) - 1).round(), nearest]).astype(np.int32)


def _task(name: str) -> Task:
    return Task(name, name, Physics("metaworld", name), HORIZON, 80, {}, {}, {})
