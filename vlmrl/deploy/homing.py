"""Bringing a robot to a pose through its safety chain, at the robot's own rate."""

import time

import numpy as np
from jaxtyping import Float64

from vlmrl.errors import RobotError
from vlmrl.robot import Robot
from vlmrl.safety import Reading, Response, SafetyChain

_LONGEST_S = 30.0
_SLOWLY = 0.25
"""Share of each joint's speed at which targets move."""


def go_home(robot: Robot) -> float:
    """Bring a connected robot to its home pose, slowly; return how long it took, s.

    Raises:
        RobotError: if the chain stops it, or it does not get there.
    """
    spec, chain = robot.spec, SafetyChain(robot.spec)
    robot.enable()
    chain.begin(robot.observe().position)
    begin = due = time.monotonic()
    target = chain.motion.position.copy()
    most = np.array([j.velocity for j in spec.joints]) * spec.period * _SLOWLY
    while time.monotonic() - begin < _LONGEST_S:
        seen = robot.observe()
        target = target + (spec.home - target).clip(-most, most)
        command = chain.step(target, Reading(time.monotonic(), position=seen.position, current=seen.current))
        robot.command(command.position)
        if command.response >= Response.CONTROLLED_STOP:
            robot.stop()
            raise RobotError(f"stopped on the way home: {'; '.join(command.reasons.values())}")
        if chain.resting and _close(command.position, spec.home) and np.abs(seen.velocity).max() < 0.05:
            return time.monotonic() - begin
        due += spec.period
        time.sleep(max(0.0, due - time.monotonic()))
    away = int(np.abs(chain.motion.position - spec.home).argmax())
    raise RobotError(f"not at home after {_LONGEST_S:.0f} s: {spec.names[away]} cannot get there")


def _close(position: Float64[np.ndarray, " J"], home: Float64[np.ndarray, " J"]) -> bool:
    return bool(np.abs(position - home).max() < 1e-3)
