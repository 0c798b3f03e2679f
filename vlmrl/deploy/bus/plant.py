"""What the simulated servos move: a robot's MuJoCo model, stepped as time passes."""

from collections.abc import Callable

import mujoco
import numpy as np

from vlmrl.robot import RobotSpec

_BLOCKED = 1000.0
"""N m"""
_LOAD_S = 0.1
"""Over which a servo averages its load."""
_LONGEST_S = 0.5
"""After a longer pause (a laptop that slept) the physics goes on from where it was."""


class Plant:
    """Joints of one robot, by their number; everything in rad, rad/s and A."""

    def __init__(
        self,
        spec: RobotSpec,
        *,
        scene: tuple[mujoco.MjModel, mujoco.MjData] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Stand at home, without torque; `clock` gives seconds, None lets `advance` move time.

        `scene` is a world that holds the robot's model and more.
        """
        self.spec = spec
        self.model = scene[0] if scene else mujoco.MjModel.from_xml_path(str(spec.path))
        self.data = scene[1] if scene else mujoco.MjData(self.model)
        self._clock, self._last = clock, clock() if clock else 0.0
        self._owed = 0.0
        names = spec.names
        self._position = np.array([self.model.joint(n).qposadr[0] for n in names])
        self._velocity = np.array([self.model.joint(n).dofadr[0] for n in names])
        self._actuator = np.array([self.model.actuator(n).id for n in names])
        self._gain = self.model.actuator_gainprm[self._actuator].copy()
        self._bias = self.model.actuator_biasprm[self._actuator].copy()
        most = self.model.actuator_forcerange[self._actuator, 1]
        self._most, self._load = np.where(most > 0, most, 1.0), np.zeros(len(names))
        self.torque = np.zeros(len(names), bool)
        self._friction = self.model.dof_frictionloss[self._velocity].copy()
        self.data.qpos[self._position] = spec.home
        self.data.ctrl[self._actuator] = spec.home
        for k in range(len(names)):
            self.enable(k, False)
        mujoco.mj_forward(self.model, self.data)

    def catch_up(self, *, most: int | None = None) -> None:
        """Step the physics to the clock's present, or by at most so many steps of it for now."""
        if self._clock is None:
            return
        now = self._clock()
        self._owed = min(self._owed + now - self._last, _LONGEST_S)
        self._last = now
        self._step(most)

    def look(self) -> None:
        """Bring places and contacts to the present joint positions."""
        mujoco.mj_forward(self.model, self.data)

    def advance(self, seconds: float) -> None:
        """Step the physics; what is left of a step is kept for the next time."""
        self._owed += max(0.0, seconds)
        self._step(None)

    def _step(self, most: int | None) -> None:
        due = int(self._owed / self.model.opt.timestep + 1e-9)
        due = due if most is None else min(due, most)
        self._owed -= due * self.model.opt.timestep
        share = self.model.opt.timestep / _LOAD_S
        for _ in range(due):
            mujoco.mj_step(self.model, self.data)
            self._load += share * (self.data.actuator_force[self._actuator] / self._most - self._load)

    def enable(self, joint: int, on: bool) -> None:
        """Switch a servo's torque; where it comes on, it holds where it is."""
        self.torque[joint] = on
        actuator = self._actuator[joint]
        self.model.actuator_gainprm[actuator] = self._gain[joint] * on
        self.model.actuator_biasprm[actuator] = self._bias[joint] * on
        if on:
            self.data.ctrl[actuator] = self.position(joint)

    def stall(self, joint: int, on: bool) -> None:
        """Block a joint by friction that no servo overcomes, or free it."""
        self.model.dof_frictionloss[self._velocity[joint]] = _BLOCKED if on else self._friction[joint]

    def lead(self, joint: int, position: float) -> None:
        """Let a hand bring a joint somewhere, rad, and hold it there, whether its servo has torque or not."""
        actuator = self._actuator[joint]
        self.model.actuator_gainprm[actuator] = self._gain[joint]
        self.model.actuator_biasprm[actuator] = self._bias[joint]
        self.goal(joint, position)

    def goal(self, joint: int, position: float) -> None:
        """Where a servo is to go, rad."""
        self.data.ctrl[self._actuator[joint]] = position

    def position(self, joint: int) -> float:
        """Rad"""
        return float(self.data.qpos[self._position[joint]])

    def velocity(self, joint: int) -> float:
        """rad/s"""
        return float(self.data.qvel[self._velocity[joint]])

    def load(self, joint: int) -> float:
        """Share of the largest torque, -1 to 1, averaged as a servo averages its current."""
        return float(self._load[joint])
