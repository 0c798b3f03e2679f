"""The robot as far as it answers: a reading that fails is bridged by the one before, until the robot counts as lost."""

from collections.abc import Callable

from vlmrl.deploy.report import Tally
from vlmrl.errors import RobotError
from vlmrl.robot import Observed, Robot

_TRIES = 5
_LOST_S = 2.0
"""So long without a reading of the joints, and the robot counts as lost."""


class Link:
    """Reads one robot."""

    def __init__(self, robot: Robot, clock: Callable[[], float], tally: Tally) -> None:
        """Failed readings are counted in the tally."""
        self._robot, self._clock, self._tally = robot, clock, tally
        self.seen: Observed | None = None
        """The last reading."""
        self.fresh = False
        """Whether the robot answered when it was asked last: an old reading says nothing of where it is now."""

    def read(self) -> Observed:
        """The joints; the last reading again while the robot does not answer.

        Raises:
            RobotError: if the robot is lost.
        """
        try:
            self.seen, self.fresh = self._robot.observe(), True
        except RobotError:
            self.fresh = False
            self._tally.missed += 1
            if self.seen is None or self._clock() - self.seen.time > _LOST_S:
                raise
        return self.seen

    def reach(self) -> Observed:
        """A reading while nothing moves, for which there is time.

        Raises:
            RobotError: if none comes.
        """
        for _ in range(_TRIES - 1):
            try:
                self.seen = self._robot.observe()
            except RobotError:
                self._tally.missed += 1
            else:
                return self.seen
        self.seen = self._robot.observe()
        return self.seen
