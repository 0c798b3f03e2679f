"""Gymnasium's Humanoid (Humanoid-v5) dressed so that people and models recognise it, after VLM-RM's textured one.

Its bodies, joints, motors and collisions are Gymnasium's, to the bit: only colours change, and weightless, untouchable
geoms are added that close the gaps of the trunk and give it a face. Colours are our own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import mujoco

_SKIN, _SHIRT, _TROUSERS, _SHOES = (0.91, 0.71, 0.56), (0.13, 0.36, 0.70), (0.24, 0.25, 0.29), (0.72, 0.16, 0.13)
_HAIR, _EYES = (0.24, 0.15, 0.10), (0.08, 0.08, 0.10)

_COLOURS: Mapping[str, tuple[float, float, float]] = {
    "head": _SKIN,
    **dict.fromkeys(("torso1", "uwaist", "lwaist", "right_uarm1", "left_uarm1"), _SHIRT),
    **dict.fromkeys(("right_larm", "left_larm", "right_hand", "left_hand"), _SKIN),
    **dict.fromkeys(("butt", "right_thigh1", "left_thigh1", "right_shin1", "left_shin1"), _TROUSERS),
    **dict.fromkeys(("right_foot", "left_foot"), _SHOES),
}

_SPHERE, _CAPSULE, _ELLIPSOID = (
    mujoco.mjtGeom.mjGEOM_SPHERE,
    mujoco.mjtGeom.mjGEOM_CAPSULE,
    mujoco.mjtGeom.mjGEOM_ELLIPSOID,
)

_WORN: tuple[tuple[str, Any, tuple[float, ...], tuple[float, ...], tuple[float, float, float]], ...] = (
    ("torso", _ELLIPSOID, (-0.018, 0, 0.218), (0.09, 0.092, 0.085), _HAIR),
    ("torso", _SPHERE, (0.079, -0.034, 0.202), (0.014, 0, 0), _EYES),
    ("torso", _SPHERE, (0.079, 0.034, 0.202), (0.014, 0, 0), _EYES),
    ("torso", _SPHERE, (0.089, 0, 0.175), (0.016, 0, 0), _SKIN),
    ("torso", _CAPSULE, (-0.005, 0, 0.08), (0.042, 0.05, 0), _SKIN),
    ("torso", _ELLIPSOID, (-0.005, 0, -0.075), (0.077, 0.142, 0.15), _SHIRT),
    ("lwaist", _ELLIPSOID, (0, 0, 0.03), (0.064, 0.122, 0.13), _SHIRT),
    ("pelvis", _ELLIPSOID, (-0.012, 0, 0.06), (0.07, 0.125, 0.13), _TROUSERS),
)
"""Body, shape, place (m), size (m, MuJoCo's half sizes) and colour of what is only seen."""


def build() -> mujoco.MjModel:
    """Compile the dressed model from the installation's `humanoid.xml`."""
    return specification().compile()


def specification() -> mujoco.MjSpec:
    """The dressed model before it is compiled."""
    spec = mujoco.MjSpec.from_file(str(Path(gymnasium.__file__).parent / "envs/mujoco/assets/humanoid.xml"))
    _keep_inertias(spec)
    _paint_surroundings(spec)
    _dress(spec)
    return spec


def _keep_inertias(spec: mujoco.MjSpec) -> None:
    """Say the inertias outright: computed again with the weightless geoms, they would differ in their last bits."""
    bare = spec.compile()
    spec.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_AUTO
    for body in spec.bodies:
        own = bare.body(body.name)
        body.explicitinertial = True
        body.mass, body.inertia, body.ipos, body.iquat = float(own.mass[0]), own.inertia, own.ipos, own.iquat


def _paint_surroundings(spec: mujoco.MjSpec) -> None:
    """Sky, tiled floor and light."""
    for texture in spec.textures:
        if texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX:
            texture.rgb1, texture.rgb2 = (0.36, 0.60, 0.86), (0.90, 0.95, 1.0)
        elif texture.name == "texplane":
            texture.rgb1, texture.rgb2 = (0.80, 0.76, 0.69), (0.72, 0.67, 0.59)
            texture.mark, texture.markrgb = mujoco.mjtMark.mjMARK_EDGE, (0.55, 0.50, 0.43)
    floor = spec.material("MatPlane")
    floor.reflectance, floor.specular, floor.shininess, floor.texrepeat = 0, 0, 0, (40, 40)
    spec.geom("floor").rgba = (1, 1, 1, 1)
    (light,) = spec.lights
    light.dir, light.diffuse, light.specular = (-0.6, 0.35, -1), (0.55, 0.55, 0.52), (0.05, 0.05, 0.05)
    spec.visual.headlight.ambient, spec.visual.headlight.diffuse = (0.42, 0.42, 0.44), (0.32, 0.32, 0.32)
    spec.visual.headlight.specular = (0.05, 0.05, 0.05)


def _dress(spec: mujoco.MjSpec) -> None:
    cloth = spec.add_material(name="cloth", specular=0.2, shininess=0.3)
    for name, colour in _COLOURS.items():
        geom = spec.geom(name)
        geom.material, geom.rgba = cloth.name, (*colour, 1)
    for body, shape, place, size, colour in _WORN:
        spec.body(body).add_geom(
            type=shape, pos=place, size=size, rgba=(*colour, 1), material=cloth.name, mass=0, contype=0, conaffinity=0
        )
