"""Reference poses of a humanoid: read from a group's content, and put down on the floor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import mujoco
import numpy as np
import yaml
from jaxtyping import Float64

from vlmrl.content import find
from vlmrl.errors import ConfigError, unknown

FILE = "poses/reference.yaml"
"""In a group's folder."""

_MIRRORED = {"hip_x": 1, "hip_z": 1, "hip_y": 1, "knee": 1, "shoulder1": -1, "shoulder2": -1, "elbow": 1}
"""Sign of the left joint where the right one has the sign 1, from the axes of Gymnasium's model."""

_TRUNK = ("roll", "pitch", "yaw")


@dataclass(frozen=True)
class ReferencePose:
    """One pose, constructed by hand."""

    name: str
    goals: tuple[str, ...]
    """Tasks of the group whose goal it shows, by their names within the group."""
    joints: Mapping[str, float]
    """rad, every joint by its own name; those left out are at 0."""
    trunk: tuple[float, float, float]
    """Roll, pitch and yaw, rad: turned about the vertical, then bent forwards, then tilted to the side."""

    def strike(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Take the pose at rest, its lowest point on the floor and its middle above the origin."""
        mujoco.mj_resetData(model, data)
        roll, pitch, yaw = self.trunk
        mujoco.mju_euler2Quat(data.qpos[3:7], np.array([yaw, pitch, roll]), "zyx")
        for name, angle in self.joints.items():
            data.qpos[model.joint(name).qposadr[0]] = angle
        mujoco.mj_kinematics(model, data)
        middle = (data.body("torso").xpos + data.body("pelvis").xpos) / 2
        data.qpos[:3] -= [middle[0], middle[1], _lowest(model, data)]
        mujoco.mj_forward(model, data)


def reference_poses(group: str, model: mujoco.MjModel) -> list[ReferencePose]:
    """Read the poses of a group of tasks.

    Raises:
        ConfigError: if it has none, or one is not as it should be for this model.
    """
    path = find("tasks", f"{group}/{FILE}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path}: names of poses wanted, found {content!r}")
    poses = cast("dict[str, Any]", content)
    return [_pose(str(name), given, model, f"{path}: {name}") for name, given in poses.items()]


def _pose(name: str, given: Any, model: mujoco.MjModel, where: str) -> ReferencePose:
    keys = ("goals", "joints", *_TRUNK)
    if not isinstance(given, dict) or not isinstance(given.get("goals"), list):
        raise ConfigError(f"{where}: a mapping with 'goals' (a list) wanted; its other keys: {', '.join(keys[1:])}")
    if strange := [key for key in given if key not in keys]:
        raise ConfigError(f"{where}: {unknown('key', str(strange[0]), keys)}")
    angles = {**(given.get("joints") or {}), **{key: given[key] for key in _TRUNK if key in given}}
    if wrong := [key for key, angle in angles.items() if type(angle) not in (int, float)]:
        raise ConfigError(f"{where}: {wrong[0]}: an angle in radians wanted, found {angles[wrong[0]]!r}")
    joints = _both_sides({key: float(angle) for key, angle in angles.items() if key not in _TRUNK})
    limits = {model.joint(i).name: model.jnt_range[i] for i in range(1, model.njnt)}
    for joint, angle in joints.items():
        if joint not in limits:
            raise ConfigError(f"{where}: {unknown('joint', joint, [*limits, *_MIRRORED])}")
        low, high = limits[joint]
        if not low <= angle <= high:
            raise ConfigError(f"{where}: {joint} is {angle:g} rad; the model's range is {low:.3f} to {high:.3f}")
    roll, pitch, yaw = (float(angles.get(key, 0)) for key in _TRUNK)
    return ReferencePose(name, tuple(map(str, given["goals"])), joints, (roll, pitch, yaw))


def _both_sides(given: Mapping[str, float]) -> dict[str, float]:
    """Every joint by its own name; one that is named with its side comes over both."""
    both = {k: v for k, v in given.items() if k in _MIRRORED}
    named = {k: v for k, v in given.items() if k not in _MIRRORED}
    sides = {f"right_{k}": v for k, v in both.items()} | {f"left_{k}": _MIRRORED[k] * v for k, v in both.items()}
    return sides | named


def _lowest(model: mujoco.MjModel, data: mujoco.MjData) -> float:
    """Height of the lowest point of all that touches, m; spheres and capsules is all that the body is made of."""
    touching = np.flatnonzero((model.geom_bodyid > 0) & (model.geom_contype > 0))
    capsule = model.geom_type[touching] == mujoco.mjtGeom.mjGEOM_CAPSULE
    drop: Float64[np.ndarray, " G"] = model.geom_size[touching, 1] * np.abs(data.geom_xmat[touching, 8]) * capsule
    return float((data.geom_xpos[touching, 2] - drop - model.geom_size[touching, 0]).min())
