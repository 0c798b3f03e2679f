"""Jerk-limited motion of independent joints: one control step towards a target, and the way to rest.

Ruckig (Berscheid and Kroeger 2021, arXiv 2105.04830) computes both, time-optimally for each joint on its own. The way
to rest is consistent in time: from any of its points the way to rest is its remainder. That is what lets a chain that
has checked it once go along it for ever after.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64
from ruckig import (
    ControlInterface,
    InputParameter,
    OutputParameter,
    Result,
    Ruckig,
    RuckigError,
    Synchronization,
    Trajectory,
)

from vlmrl.robot import Joint

Joints = Float64[np.ndarray, " J"]

GRAIN = 0.05
"""How finely a way to rest is looked at, rad or m of the fastest joint."""

_ROUNDING = 1e-9
"""Relative; by which a state on a limit may lie beyond it."""


@dataclass(frozen=True)
class Motion:
    """Where every joint is commanded to be, and how it moves."""

    position: Joints
    """rad"""
    velocity: Joints
    """rad/s"""
    acceleration: Joints
    """rad/s^2"""

    @classmethod
    def at_rest(cls, position: Joints) -> "Motion":
        """Standing still."""
        return cls(position.astype(np.float64), np.zeros(len(position)), np.zeros(len(position)))

    @property
    def resting(self) -> bool:
        """Whether nothing moves, to the accuracy of commands."""
        return bool((np.abs(self.velocity) < 1e-6).all() and (np.abs(self.acceleration) < 1e-4).all())


@dataclass(frozen=True)
class Braking:
    """A way to rest, and what it passes."""

    trajectory: Trajectory
    low: Joints
    high: Joints
    """Extreme positions on it, rad."""
    peak: Joints
    """Largest speed on it, rad/s."""
    begun: float = 0.0
    """Seconds of the trajectory that are over."""

    @property
    def seconds(self) -> float:
        """Until the last joint rests."""
        return max(float(self.trajectory.duration) - self.begun, 0.0)

    def at(self, seconds: float) -> Motion:
        """The motion so long after its beginning."""
        position, velocity, acceleration = self.trajectory.at_time(self.begun + seconds)[:3]
        return Motion(np.array(position), np.array(velocity), np.array(acceleration))

    def poses(self) -> list[Joints]:
        """Positions on the way, between which no joint moves farther than GRAIN; the pose of rest last."""
        count = max(1, int(np.ceil(self.peak.max() * self.seconds / GRAIN)))
        return [self.at(self.seconds * k / count).position for k in range(count + 1)]

    def after(self, seconds: float) -> "Braking":
        """What remains of it so much later."""
        return replace(self, begun=self.begun + seconds)


class Mover:
    """Steps motions of one set of joints."""

    def __init__(self, joints: Sequence[Joint], period: float) -> None:
        """`period` is the time between commands, s."""
        self.period = period
        self.velocity = np.array([j.velocity for j in joints])
        self.acceleration = np.array([j.acceleration for j in joints])
        self.jerk = np.array([j.jerk for j in joints])
        self._towards = self._input(ControlInterface.Position)
        self._brake = self._input(ControlInterface.Velocity)
        self._ruckig = Ruckig(len(joints), period)
        self._output = OutputParameter(len(joints))

    def _input(self, interface: ControlInterface) -> InputParameter:
        made = InputParameter(len(self.velocity))
        made.control_interface, made.synchronization = interface, Synchronization.No
        made.max_velocity = list(self.velocity)
        made.max_acceleration = list(self.acceleration)
        made.max_jerk = list(self.jerk)
        return made

    def towards(self, motion: Motion, target: Joints) -> Motion | None:
        """The motion one period later on the fastest way to rest at `target`; None where none could be computed."""
        _set(self._towards, motion)
        self._towards.target_position = list(target)
        try:
            found = self._ruckig.update(self._towards, self._output)
        except RuckigError:  # now and then its search for a profile fails from a motion without fault
            return None
        if found not in (Result.Working, Result.Finished):
            return None
        output = self._output
        return Motion(np.array(output.new_position), np.array(output.new_velocity), np.array(output.new_acceleration))

    def brake(self, motion: Motion) -> Braking | None:
        """The fastest way to rest, each joint on its own; None where none could be computed."""
        _set(self._brake, motion)
        trajectory = Trajectory(len(self.velocity))
        try:
            found = self._ruckig.calculate(self._brake, trajectory)
        except RuckigError:
            return None
        if found not in (Result.Working, Result.Finished):
            return None
        bounds = trajectory.position_extrema
        ahead = motion.velocity * motion.acceleration > 0
        gained = np.where(ahead, motion.acceleration**2 / (2 * self.jerk), 0.0)
        return Braking(
            trajectory,
            low=np.array([b.min for b in bounds]),
            high=np.array([b.max for b in bounds]),
            peak=np.abs(motion.velocity) + gained,
        )

    def admits(self, motion: Motion, braking: Braking) -> bool:
        """Whether the motion and the way to rest keep the limits of speed and acceleration."""
        slack = 1 + _ROUNDING
        return bool(
            (braking.peak <= self.velocity * slack).all()
            and (np.abs(motion.acceleration) <= self.acceleration * slack).all()
        )


def _set(parameters: InputParameter, motion: Motion) -> None:
    parameters.current_position = list(motion.position)
    parameters.current_velocity = list(motion.velocity)
    parameters.current_acceleration = list(motion.acceleration)
