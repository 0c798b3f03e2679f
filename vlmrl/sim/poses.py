"""What a humanoid's pose is, in named numbers, and goal poses as ranges of them.

A goal pose is a mapping of quantity to [low, high]; it holds where every quantity is within its range. A task states
its own under `physics.options.pose`, so that a further pose needs no Python.
"""

from collections.abc import Mapping
from typing import Any, cast

import mujoco
import numpy as np
from jaxtyping import Float64

from vlmrl.errors import ConfigError, unknown

Ranges = Mapping[str, tuple[float, float]]

QUANTITIES: Mapping[str, str] = {
    "trunk_tilt": "rad; between the trunk and the vertical, 0 upright",
    "seat_clearance": "m; between the seat and the floor",
    "knee_clearance_low": "m; between the lower knee and the floor",
    "knee_clearance_high": "m; of the higher knee",
    "foot_clearance_low": "m; between the lower foot and the floor",
    "foot_clearance_high": "m; of the higher foot",
    "knee_bend_low": "rad; of the straighter leg, 0 straight",
    "knee_bend_high": "rad; of the more bent leg",
    "legs_apart": "rad; angle between the lines from hip to foot",
    "knees_apart": "m; how far the left knee is to the left of the right one, along the pelvis",
    "feet_apart": "m; the same of the feet, negative where they have crossed",
    "hands_over_head": "m; height of the lower hand above the centre of the head",
    "hands_to_waist": "m; from hand to the side of the waist, the farther of the two",
    "elbows_out": "m; from the trunk's mid-plane outwards, the nearer of the two",
    "hands_crossed": "m; how far the hands are beyond the mid-plane, each on the other's side, the less of the two",
    "hands_in_front": "m; of the chest, the less of the two",
}
"""Name, unit and meaning. Left, right and in front are the body's own, up is the world's; the floor is at height 0."""

_FADE = 0.5
"""How far (m, rad) a quantity may be from its range until it counts for nothing."""

_WAIST = 0.16
"""From the middle of the body `lwaist` to the side of the waist, m."""

_SIGN = np.array([1.0, -1.0])
"""Left is where the body's y axis points, right is the other way."""

_UP = np.array([0.0, 0.0, 1.0])


class Measure:
    """Measures the pose of Gymnasium's Humanoid; what has two sides is held left, then right."""

    def __init__(self, model: mujoco.MjModel) -> None:
        def bodies(*names: str) -> list[int]:
            return [model.body(name).id for name in names]

        def geoms(*names: str) -> list[int]:
            return [model.geom(name).id for name in names]

        self._torso, self._pelvis, self._waist = bodies("torso", "pelvis", "lwaist")
        self._hips = bodies("left_thigh", "right_thigh")
        self._knees, self._elbows = bodies("left_shin", "right_shin"), bodies("left_lower_arm", "right_lower_arm")
        self._feet, self._hands = geoms("left_foot", "right_foot"), geoms("left_hand", "right_hand")
        self._seat, self._head = geoms("butt", "head")
        self._bends = [int(model.joint(f"{side}_knee").qposadr[0]) for side in ("left", "right")]
        size = model.geom_size
        self._shin_m, self._foot_m = size[geoms("left_shin1")[0], 0], size[self._feet[0], 0]
        self._seat_m = size[self._seat, :2].copy()

    def __call__(self, data: mujoco.MjData) -> dict[str, float]:
        """Every quantity of the present pose; kinematics must be up to date."""
        trunk, sideways = data.xmat[self._torso].reshape(3, 3), data.xmat[self._pelvis].reshape(3, 3)[:, 1]
        feet, hands, knees = data.geom_xpos[self._feet], data.geom_xpos[self._hands], data.xpos[self._knees]
        chest = data.xpos[self._torso]
        own_hands, own_elbows = (hands - chest) @ trunk, (data.xpos[self._elbows] - chest) @ trunk
        waist = data.xpos[self._waist] + _WAIST * np.outer(_SIGN, data.xmat[self._waist].reshape(3, 3)[:, 1])
        knee_clearance, foot_clearance = knees[:, 2] - self._shin_m, feet[:, 2] - self._foot_m
        bend, legs = -data.qpos[self._bends], feet - data.xpos[self._hips]
        found = {
            "trunk_tilt": _angle(trunk[:, 2], _UP),
            "seat_clearance": data.geom_xpos[self._seat, 2] - self._seat_reach(data),
            "knee_clearance_low": knee_clearance.min(),
            "knee_clearance_high": knee_clearance.max(),
            "foot_clearance_low": foot_clearance.min(),
            "foot_clearance_high": foot_clearance.max(),
            "knee_bend_low": bend.min(),
            "knee_bend_high": bend.max(),
            "legs_apart": _angle(legs[0], legs[1]),
            "knees_apart": sideways @ (knees[0] - knees[1]),
            "feet_apart": sideways @ (feet[0] - feet[1]),
            "hands_over_head": hands[:, 2].min() - data.geom_xpos[self._head, 2],
            "hands_to_waist": np.sqrt(((hands - waist) ** 2).sum(1)).max(),
            "elbows_out": (_SIGN * own_elbows[:, 1]).min(),
            "hands_crossed": (-_SIGN * own_hands[:, 1]).min(),
            "hands_in_front": own_hands[:, 0].min(),
        }
        return {name: float(value) for name, value in found.items()}

    def _seat_reach(self, data: mujoco.MjData) -> float:
        """From the centre of the seat's capsule down to its lowest point, m."""
        radius, half = self._seat_m
        return radius + half * abs(data.geom_xmat[self._seat, 8])


def holds(quantities: Mapping[str, float], pose: Ranges) -> bool:
    """Whether every quantity of a goal pose is within its range."""
    return all(low <= quantities[name] <= high for name, (low, high) in pose.items())


def nearness(quantities: Mapping[str, float], pose: Ranges) -> float:
    """1 where the pose holds, else the mean over its quantities of how near each is to its range, 0 to 1."""
    away = [max(low - quantities[name], quantities[name] - high, 0.0) for name, (low, high) in pose.items()]
    return sum(max(1 - distance / _FADE, 0.0) for distance in away) / len(away)


def read_ranges(given: object, where: str) -> Ranges:
    """Check a goal pose as YAML gives it.

    Raises:
        ConfigError: if it is none, names a quantity that is not measured, or a range is not two rising numbers.
    """
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f"{where}: [low, high] of quantities wanted, found {given!r}; have: {', '.join(QUANTITIES)}")
    ranges: dict[str, tuple[float, float]] = {}
    for name, value in cast("Mapping[str, Any]", given).items():
        if name not in QUANTITIES:
            raise ConfigError(f"{where}: {unknown('quantity', str(name), QUANTITIES)}")
        numbers = cast("list[Any]", value) if isinstance(value, list) else []
        if len(numbers) != 2 or not all(type(n) in (int, float) for n in numbers) or numbers[0] >= numbers[1]:
            raise ConfigError(f"{where}: {name}: [low, high] wanted, found {value!r}")
        ranges[name] = (float(numbers[0]), float(numbers[1]))
    return ranges


def _angle(a: Float64[np.ndarray, "3"], b: Float64[np.ndarray, "3"]) -> float:
    cosine = (a @ b) / np.sqrt((a @ a) * (b @ b))
    return float(np.arccos(min(max(cosine, -1.0), 1.0)))
