"""Scripted experts for a robot at a table: waypoints for the tip, and the joint angles that bring it there."""

from collections.abc import Callable, Mapping

import mujoco
import numpy as np
from jaxtyping import Float32, Float64

from vlmrl.sim.tasks.robot import HALF, Arm

Point = Float64[np.ndarray, "3"]

_ROUNDS, _DAMPING = 12, 0.02
_ABOVE, _BEHIND = np.array([0.0, 0.0, 0.05]), 0.045
"""m."""
_UPRIGHT = 0.05
"""Weight of the tool's direction against a metre of the tip's place."""


class Reach:
    """Brings the tip to the mark, the tool in whatever direction."""

    upright = 0.0

    def __init__(self, arm: Arm) -> None:
        self.arm, self._data = arm, mujoco.MjData(arm.model)
        spec = arm.spec
        self._count = len(spec.joints)
        self._moved = np.array([k for k, name in enumerate(spec.names) if name != spec.gripper])
        self._columns = np.array([arm.model.joint(spec.names[k]).dofadr[0] for k in self._moved])
        self._addresses = np.array([arm.model.joint(spec.names[k]).qposadr[0] for k in self._moved])
        self._grip = spec.names.index(spec.gripper) if spec.gripper else -1
        self._site = arm.model.site(spec.tip).id
        self.phase = 0

    def reset(self, seed: int) -> None:
        """Start an episode."""
        del seed
        self.phase = 0

    def action(self, observation: Mapping[str, np.ndarray]) -> Float32[np.ndarray, " A"]:
        """Joint positions that bring the tip where it should be next."""
        state = observation["state"].astype(np.float64)
        joints, places = state[: self._count], state[2 * self._count :].reshape(-1, 3)
        target, grip = self.plan(*places)
        wanted = self.solve(joints, target)
        if self._grip >= 0 and grip is not None:
            wanted[self._grip] = grip
        return ((wanted - self.arm.centre) / self.arm.half).clip(-1, 1).astype(np.float32)

    def plan(self, tip: Point, mark: Point, *thing: Point) -> tuple[Point, float | None]:
        """Where the tip goes next, and how far the gripper opens (rad)."""
        del tip, thing
        return mark, None

    def solve(self, joints: Float64[np.ndarray, " J"], target: Point) -> Float64[np.ndarray, " J"]:
        """Damped least squares from the present angles (Buss 2004), kept within the joints' ranges."""
        data, model, arm = self._data, self.arm.model, self.arm
        angles = joints.copy()
        place, turn = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        for _ in range(_ROUNDS):
            data.qpos[self._addresses] = angles[self._moved]
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_jacSite(model, data, place, turn, self._site)
            axis = data.site_xmat[self._site].reshape(3, 3)[:, 2]
            error = target - data.site_xpos[self._site]
            jacobian = place[:, self._columns]
            if self.upright:
                error = np.concatenate([error, self.upright * np.cross(axis, [0.0, 0.0, -1.0])])
                jacobian = np.concatenate([jacobian, self.upright * turn[:, self._columns]])
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + _DAMPING**2 * np.eye(len(error)), error)
            angles[self._moved] += step.clip(-0.3, 0.3)
            angles = angles.clip(arm.centre - arm.half, arm.centre + arm.half)
        return angles


class Push(Reach):
    """Goes behind the puck, down, and pushes it to the mark; where that is near the base, the tool may lean."""

    upright = _UPRIGHT / 4

    def plan(self, tip: Point, mark: Point, *thing: Point) -> tuple[Point, float | None]:
        """Above and behind; down; along, until the puck slips aside."""
        puck, high = thing[0], HALF["push"][1]
        way = (mark - puck)[:2]
        along = way / max(float(np.linalg.norm(way)), 1e-6)
        behind = np.array([*(puck[:2] - along * _BEHIND), high])
        offset = tip[:2] - puck[:2]
        aside = abs(float(offset[0] * along[1] - offset[1] * along[0]))
        if self.phase > 0 and (aside > 0.015 or offset @ along > -0.015):
            self.phase = 0
        elif self.phase == 0 and np.linalg.norm(tip - behind - _ABOVE) < 0.02:
            self.phase = 1
        elif self.phase == 1 and tip[2] < high + 0.015:
            self.phase = 2
        if np.linalg.norm(way) < 0.008:
            return tip.copy(), 0.0
        match self.phase:
            case 0:
                return behind + _ABOVE, 0.0
            case 1:
                return behind, 0.0
            case _:
                return np.array([*(puck[:2] + along * 0.004), high]), 0.0


class Pick(Reach):
    """Opens above the cube, goes down, closes, lifts."""

    upright = _UPRIGHT

    def __init__(self, arm: Arm) -> None:
        super().__init__(arm)
        self._steps = 0

    def reset(self, seed: int) -> None:
        """Start an episode."""
        super().reset(seed)
        self._steps = 0

    def plan(self, tip: Point, mark: Point, *thing: Point) -> tuple[Point, float | None]:
        """Above, down, closed, up."""
        cube = thing[0]
        opened, closed = 0.7, -0.1
        if self.phase == 0 and np.linalg.norm(tip - cube - _ABOVE) < 0.012:
            self.phase = 1
        if self.phase == 1 and np.linalg.norm(tip - cube) < 0.012:
            self.phase, self._steps = 2, 0
        self._steps += 1
        if self.phase == 2 and self._steps > 15:
            self.phase = 3
        match self.phase:
            case 0:
                return cube + _ABOVE, opened
            case 1:
                return cube, opened
            case 2:
                return cube, closed
            case _:
                return np.array([*mark[:2], mark[2] + 0.01]), closed


EXPERTS: Mapping[str, Callable[[Arm], Reach]] = {"reach": Reach, "push": Push, "pick": Pick}
