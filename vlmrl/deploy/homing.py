"""The slow way to a pose: one step a tick, and round what bars the straight way."""

import numpy as np
from jaxtyping import Float64

from vlmrl.robot import Observed, RobotSpec
from vlmrl.safety import Command, SafetyChain

_SLOWLY = 0.25
"""Share of each joint's speed at which targets move."""
LONGEST_S = 30.0
_AHEAD = 0.05
"""rad, which the target may be before what is commanded."""
_PATIENCE, _ALONE = 5, 50
"""Ticks without motion until another way is tried, and of that way before all joints go together again."""
_THERE, _STILL = 1e-3, 0.05
"""rad, as commanded, and rad/s, as measured."""


class Homing:
    """Where homing leads, and how far it has come."""

    def __init__(self, spec: RobotSpec) -> None:
        self.goal, self._spec = spec.home, spec
        self._target, self._since = np.zeros(0), 0.0
        self._still, self._alone, self._turn, self._until_all = 0, -1, 0, 0

    def begin(self, start: Float64[np.ndarray, " J"], now: float) -> None:
        """Set out from where the joints are, rad."""
        self._target, self._since = start.copy(), now
        self._still, self._alone, self._turn, self._until_all = 0, -1, 0, 0

    def step(self, chain: SafetyChain) -> Float64[np.ndarray, " J"]:
        """The next target; where the straight way is barred, joints that may move go first.

        It waits for what is commanded. Where that does not move, because no way to rest would stay clear of what is
        near, joints go one by one from there, and each time another one first.
        """
        here = chain.motion.position
        away = float(np.abs(self._target - here).max())
        self._still = self._still + 1 if chain.resting and away > _THERE else 0
        if self._still > _PATIENCE:
            self._target, self._still = here.copy(), 0
            self._alone, self._turn = self._turn, (self._turn + 1) % len(here)
            self._until_all = _ALONE
        self._until_all -= 1
        if self._until_all < 0:
            self._alone = -1
        if away > _AHEAD:
            return self._target
        most = np.array([j.velocity for j in self._spec.joints]) * self._spec.period * _SLOWLY
        steps = (self.goal - self._target).clip(-most, most)
        if self._alone < 0 and chain.allows(self._target + steps):
            self._target = self._target + steps
            return self._target
        for step in np.roll(np.diag(steps), -max(self._alone, 0), axis=0):
            if step.any() and chain.allows(self._target + step):
                self._target = self._target + step
                if self._alone >= 0:
                    break
        return self._target

    def arrived(self, command: Command, seen: Observed) -> bool:
        """Whether the joints were told to be there, and do not move."""
        return bool(np.abs(command.position - self.goal).max() < _THERE and np.abs(seen.velocity).max() < _STILL)

    def overdue(self, command: Command, seen: Observed, now: float) -> str:
        """In words, which joint keeps it so long; empty while there is time."""
        if now - self._since <= LONGEST_S:
            return ""
        away, speed = np.abs(command.position - self.goal), np.abs(seen.velocity)
        k = int(away.argmax() if away.max() >= _THERE else speed.argmax())
        why = "; ".join(command.reasons.values())
        return (
            f"not there after {LONGEST_S:.0f} s: {self._spec.names[k]} is at {seen.position[k]:.3f} rad, told to be at "
            f"{command.position[k]:.3f} on the way to {self.goal[k]:.3f}, and moves at {speed[k]:.2f} rad/s"
            f"{f' ({why})' if why else ''}"
        )
