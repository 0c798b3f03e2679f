"""How the scene of one episode looks: cameras elsewhere, other light and colours, things that do not matter."""

import colorsys
import math
from collections.abc import Mapping
from dataclasses import replace

import mujoco
import numpy as np
from jaxtyping import Bool, Float64

from vlmrl.sim.render import Prop
from vlmrl.sim.task import Camera
from vlmrl.sim.variation import Variation, spread, stream

_SHAPES = (
    mujoco.mjtGeom.mjGEOM_BOX,
    mujoco.mjtGeom.mjGEOM_SPHERE,
    mujoco.mjtGeom.mjGEOM_CYLINDER,
    mujoco.mjtGeom.mjGEOM_ELLIPSOID,
)
_TRIES = 200
"""For a place beside those that stand already; a full place is filled over them."""

LIT = ("light_ambient", "light_diffuse", "light_specular")
COLOURED = ("mat_rgba", "geom_rgba", "flex_rgba", "skin_rgba")


def cameras(given: Mapping[str, Camera], values: Mapping[str, float], episode: int) -> dict[str, Camera]:
    """The cameras where they stand in this episode."""
    distance_m, angle_rad = values.get("camera_position_m", 0.0), values.get("camera_rotation_rad", 0.0)
    return {name: _moved(c, distance_m, angle_rad, stream(episode, f"camera {name}")) for name, c in given.items()}


def _moved(camera: Camera, distance_m: float, angle_rad: float, generator: np.random.Generator) -> Camera:
    away, axis = _direction(generator), _direction(generator)
    axes = [_turned(np.asarray(camera.xyaxes[k : k + 3], np.float64), axis, angle_rad) for k in (0, 3)]
    position = np.asarray(camera.position) + distance_m * away
    return replace(camera, position=tuple(map(float, position)), xyaxes=tuple(map(float, np.hstack(axes))))


def _direction(generator: np.random.Generator) -> Float64[np.ndarray, "3"]:
    vector = generator.normal(size=3)
    return vector / np.linalg.norm(vector)


def _turned(
    vector: Float64[np.ndarray, "3"], axis: Float64[np.ndarray, "3"], angle_rad: float
) -> Float64[np.ndarray, "3"]:
    """Rodrigues' rotation."""
    cosine, sine = math.cos(angle_rad), math.sin(angle_rad)
    return cosine * vector + sine * np.cross(axis, vector) + (1 - cosine) * (axis @ vector) * axis


def light(model: mujoco.MjModel, factor: float) -> None:
    """Make every lamp, and the headlight, this much brighter."""
    for name in LIT:
        getattr(model, name)[:] *= factor
    headlight = model.vis.headlight
    for kind in (headlight.ambient, headlight.diffuse, headlight.specular):
        kind[:] *= factor


def colour(model: mujoco.MjModel, variation: Variation, episode: int) -> None:
    """Multiply red, green and blue of every material and of every geom, flex and skin that has a colour of its own."""
    generator = stream(episode, "colours")
    for name in COLOURED:
        rgba = getattr(model, name)
        factors = spread(variation.colour_factor, (len(rgba), 3), generator)
        own = _coloured(model) if name == "geom_rgba" else np.ones(len(rgba), np.bool_)
        rgba[own, :3] = np.clip(rgba[own, :3] * factors[own], 0, 1)


def _coloured(model: mujoco.MjModel) -> Bool[np.ndarray, " G"]:
    """Geoms without a material, or with a colour that replaces its: MuJoCo's default grey does not."""
    return (model.geom_matid < 0) | (model.geom_rgba != np.array([0.5, 0.5, 0.5, 1], np.float32)).any(axis=1)


def props(variation: Variation, count: int, episode: int) -> list[Prop]:
    """Boxes, balls, cylinders and eggs of any colour that stand in the task's places, beside each other."""
    generator = stream(episode, "props")
    places = np.array(variation.distractor_places).reshape(-1, 5)
    found: list[Prop] = []
    for _ in range(count):
        size_m = float(generator.uniform(variation.distractor_size_m[0], variation.distractor_size_m[1]))
        shape, place = generator.choice(len(_SHAPES)), places[generator.choice(len(places))]
        size = _size(_SHAPES[shape], size_m, generator)
        spot = _spot(place, size, found, generator)
        angle = generator.uniform(0, 2 * math.pi)
        turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
        rgb = colorsys.hsv_to_rgb(generator.random(), generator.uniform(0.5, 1), generator.uniform(0.5, 1))
        found.append(Prop(_SHAPES[shape], size, spot, turn, (*rgb, 1.0)))
    return found


def _size(shape: mujoco.mjtGeom, size_m: float, generator: np.random.Generator) -> Float64[np.ndarray, "3"]:
    """Half-extents as MuJoCo gives them for each shape."""
    other, height = size_m * generator.uniform(0.5, 1), size_m * generator.uniform(0.5, 2)
    match shape:
        case mujoco.mjtGeom.mjGEOM_SPHERE:
            return np.full(3, size_m)
        case mujoco.mjtGeom.mjGEOM_CYLINDER:
            return np.array([size_m, height, height])
        case _:
            return np.array([size_m, other, height])


def _spot(
    place: Float64[np.ndarray, "5"],
    size: Float64[np.ndarray, "3"],
    others: list[Prop],
    generator: np.random.Generator,
) -> Float64[np.ndarray, "3"]:
    spot = np.zeros(3)
    for _ in range(_TRIES):
        x, y = generator.uniform(place[[0, 2]], place[[1, 3]])
        spot = np.array([x, y, place[4] + size[2]])
        if all(np.linalg.norm((spot - o.position)[:2]) > 1.2 * (max(size[:2]) + max(o.size[:2])) for o in others):
            break
    return spot
