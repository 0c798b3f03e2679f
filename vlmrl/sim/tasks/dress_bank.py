"""The people and garments of assisted dressing: one compiled model for each pair.

All have the same bodies, joints and vertices and differ in numbers only, so one model can take another's (`load`).
"""

from dataclasses import dataclass
from functools import cache

import mujoco
import numpy as np
from jaxtyping import Float64

from vlmrl.errors import unknown
from vlmrl.sim.tasks.dress_scene import Garment, Person, scene

PEOPLE = {
    "medium": Person(0.45, 0.32, 0.034, 0.040, 0.048, ".87 .67 .53 1", ".86 .86 .82 1", ".25 .16 .1 1"),
    "slim": Person(0.43, 0.31, 0.030, 0.034, 0.040, ".95 .79 .68 1", ".80 .86 .90 1", ".62 .42 .2 1"),
    "tall": Person(0.49, 0.36, 0.036, 0.042, 0.050, ".55 .37 .26 1", ".92 .86 .70 1", ".1 .08 .07 1"),
    "broad": Person(0.46, 0.33, 0.038, 0.046, 0.055, ".80 .58 .43 1", ".80 .84 .78 1", ".45 .45 .45 1"),
    "small": Person(0.40, 0.28, 0.029, 0.033, 0.039, ".72 .50 .36 1", ".90 .82 .82 1", ".12 .09 .08 1"),
    "stout": Person(0.44, 0.30, 0.036, 0.047, 0.057, ".90 .70 .60 1", ".84 .84 .90 1", ".8 .8 .78 1"),
}
GARMENTS = {
    "purple_jacket": Garment(0.085, 0.34, 0.15, 0.4, ".45 .15 .65 1"),
    "hospital_gown": Garment(0.092, 0.30, 0.12, 0.3, ".25 .62 .78 1"),
    "green_jacket": Garment(0.082, 0.36, 0.18, 0.5, ".13 .45 .22 1"),
    "red_cardigan": Garment(0.088, 0.32, 0.16, 0.45, ".75 .12 .16 1"),
}

_SETTLE = 500
"""Physics steps in which the sleeve comes to hang; started from a sleeve that still swings, it catches the hand."""

_CALMED = 0.95
"""What each of those steps leaves of every velocity."""

_PARKED = 10.0
"""m; where the arm waits meanwhile."""


@dataclass(frozen=True)
class Variant:
    """One person with one garment: the compiled model and how its sleeve hangs from a gripper at the origin."""

    model: mujoco.MjModel
    hanging: Float64[np.ndarray, " Q"]
    """Joint positions."""


@cache
def variant(person: str, garment: str) -> Variant:
    """Compile a member of the bank, once a process.

    Raises:
        ConfigError: if there is no such person or garment.
    """
    if person not in PEOPLE:
        raise unknown("person", person, PEOPLE)
    if garment not in GARMENTS:
        raise unknown("garment", garment, GARMENTS)
    model = mujoco.MjModel.from_xml_string(scene(PEOPLE[person], GARMENTS[garment]))
    return Variant(model, _hanging(garment))


@cache
def _hanging(garment: str) -> Float64[np.ndarray, " Q"]:
    """Let a sleeve come to hang, far from anybody."""
    model = mujoco.MjModel.from_xml_string(scene(next(iter(PEOPLE.values())), GARMENTS[garment]))
    data = mujoco.MjData(model)
    for body in ("person", "upper_arm", "forearm"):
        data.mocap_pos[model.body(body).mocapid[0]] = _PARKED
    for _ in range(_SETTLE):
        mujoco.mj_step(model, data)
        data.qvel *= _CALMED
    return data.qpos.copy()


def load(model: mujoco.MjModel, other: mujoco.MjModel) -> None:
    """Write another member's numbers into a model of the bank.

    Which geoms are drawn stays: renderers group them once.
    """
    for name in _numbers():
        np.copyto(getattr(model, name), getattr(other, name))
    for name in ("meaninertia", "meanmass", "meansize", "extent"):
        setattr(model.stat, name, getattr(other.stat, name))
    model.stat.center[:] = other.stat.center


@cache
def _numbers() -> tuple[str, ...]:
    """The arrays of a model that this bank's members may differ in."""
    some = variant(next(iter(PEOPLE)), next(iter(GARMENTS))).model
    arrays = [name for name in dir(some) if not name.startswith("_") and isinstance(getattr(some, name), np.ndarray)]
    return tuple(name for name in arrays if name != "geom_group")
