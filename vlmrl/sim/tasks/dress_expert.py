"""Scripted dressing: follow the arm's joints as the observation shows them, the rim about the arm.

Worse ways than `along` make data of graded quality: each is a mistake that a robot or a learner would make.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Float64

PATHS = {
    "along": "along the forearm, then along the upper arm",
    "straight": "straight from the fingertips to the shoulder, cutting the elbow",
    "level": "level, as high as the hand, into the upper arm",
    "beside": "beside the arm",
}
"""Ways of the gripper and what they are."""

_AHEAD_M = 0.05
"""How far along the path the gripper aims."""

_CENTRED_M = 0.02
"""Before the hand, the gripper goes on only when it is this near to its path."""

_BESIDE_M = 0.16
_HEIGHT_M = 0.11
"""Of the gripper above the arm's axis."""


class Dresser:
    """Pure pursuit of a path above the arm."""

    def __init__(self, path: str, *, reach_m: float) -> None:
        self._path, self._reach_m = path, reach_m

    def reset(self, seed: int) -> None:
        """Nothing to forget."""
        del seed

    def action(self, observation: Mapping[str, np.ndarray]) -> Float32[np.ndarray, " A"]:
        """Aim a little ahead on the path."""
        gripper, fingertips, elbow, shoulder, _ = np.asarray(observation["state"], np.float64).reshape(5, 3)
        path = _path(self._path, fingertips, elbow, shoulder)
        way = aim(gripper, path) - gripper
        return (way / max(self._reach_m, float(np.linalg.norm(way)))).astype(np.float32)


def aim(gripper: Float64[np.ndarray, "3"], path: Float64[np.ndarray, "J 3"]) -> Float64[np.ndarray, "3"]:
    """The point of the path to go to: ahead of the gripper's, but at the path's begin until the gripper is near it."""
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    begins = np.concatenate([[0.0], np.cumsum(lengths)])
    along = ((gripper - path[:-1]) * np.diff(path, axis=0)).sum(axis=1) / lengths
    # Before its begin the path goes on straight.
    along = np.clip(along, np.concatenate([[-np.inf], 0 * lengths[1:]]), lengths)
    nearest = path[:-1] + (along / lengths)[:, None] * np.diff(path, axis=0)
    away = np.linalg.norm(gripper - nearest, axis=1)
    k = int(away.argmin())
    reached = begins[k] + along[k]
    if reached < 0 and away[k] > _CENTRED_M:
        return nearest[k]
    target = min(reached + _AHEAD_M, begins[-1])
    if target < 0:
        return path[0] + target / lengths[0] * (path[1] - path[0])
    return np.array([np.interp(target, begins, path[:, k]) for k in range(3)])


def _path(
    name: str,
    fingertips: Float64[np.ndarray, "3"],
    elbow: Float64[np.ndarray, "3"],
    shoulder: Float64[np.ndarray, "3"],
) -> Float64[np.ndarray, "J 3"]:
    up = np.array([0, 0, _HEIGHT_M])
    if name == "straight":
        return np.stack([fingertips, shoulder]) + up
    if name == "level":
        return np.stack([fingertips, [*shoulder[:2], fingertips[2]]]) + up
    along = np.stack([fingertips, elbow, shoulder]) + up
    if name == "beside":
        heading = shoulder - fingertips
        side = np.cross(heading, [0, 0, 1]) / np.linalg.norm(heading[:2])
        return along + _BESIDE_M * side
    return along
