"""Between any policy and any robot: every command passes here, and only what can still be braked gets through.

The invariant: a command is sent only if from the motion that it leads to, the fastest way to rest stays within every
limit (position, speed, acceleration, jerk, workspace, clearance between the robot's own parts). Otherwise the chain
goes one step along the way to rest that it checked a step earlier, so that nothing later can force it out.

This is a software filter, no functional safety: an emergency stop that cuts power belongs beside every robot.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from vlmrl.errors import ConfigError, DataError
from vlmrl.robot import RobotSpec
from vlmrl.safety.body import Body, worst
from vlmrl.safety.brake import Braking, Motion, Mover
from vlmrl.safety.watch import Reading, Reason, Response, Since, Thresholds, Watch, responses

Joints = Float64[np.ndarray, " J"]

_HALVINGS = 12
"""Of the way to a target that lies outside; the last one allowed is kept."""
_SAME = 1e-6
"""rad or m; smaller differences are no intervention."""


@dataclass(frozen=True)
class Config:
    """Settings of the chain, beside the robot's own limits."""

    thresholds: Thresholds = field(default_factory=Thresholds)
    responses: Mapping[str, str] = field(default_factory=dict[str, str])
    """Reason to response (clip, hold, controlled_stop, stop) where it should be stronger than the default."""


@dataclass(frozen=True)
class Command:
    """What is sent, and why it is not what was asked."""

    position: Joints
    """rad, for the end of this period."""
    response: Response
    reasons: Mapping[Reason, str]
    """Every reason that spoke, in words."""

    @property
    def reason(self) -> Reason:
        """The gravest one: what a record of the step keeps."""
        return max(self.reasons, key=lambda r: (RANK[r], -r), default=Reason.NONE)


RANK = {reason: response for reason, response in responses({}).items()} | {Reason.NONE: Response.PASS}


class SafetyChain:
    """Turns what is asked into what is sent, one control step after the other."""

    def __init__(self, spec: RobotSpec, config: Config | None = None) -> None:
        """Read the robot's model; nothing can be sent before `begin`."""
        config = config or Config()
        self.spec, self._table = spec, responses(config.responses)
        self._mover, self._body = Mover(spec.joints, spec.period), Body(spec)
        self._lower = np.array([j.lower for j in spec.joints])
        self._upper = np.array([j.upper for j in spec.joints])
        self._low, self._high = self._lower, self._upper
        current = np.array([np.inf if j.current is None else j.current for j in spec.joints])
        self._watch = Watch(config.thresholds, tracking=spec.tracking, current=current, names=spec.names)
        self._patience, self._waiting = config.thresholds.patience_s, Since()
        self._motion: Motion | None = None
        self._braking: Braking | None = None
        self._excess = (0.0, 0.0)
        self.latched: tuple[Reason, str] | None = None
        """Why the robot is stopped until an operator resets, if it is."""

    @property
    def motion(self) -> Motion:
        """Where the robot is commanded to be.

        Raises:
            DataError: before `begin`.
        """
        if self._motion is None:
            raise DataError("the safety chain does not know where the robot is: call begin(position) first")
        return self._motion

    @property
    def begun(self) -> bool:
        """Whether it knows where the robot is."""
        return self._motion is not None

    @property
    def resting(self) -> bool:
        """Whether the commanded motion has come to rest."""
        return self.motion.resting

    @property
    def rest(self) -> Joints:
        """Where the robot would come to rest if it braked now, rad: what to ask for in order to stand still."""
        return self._checked_braking.at(self._checked_braking.seconds).position

    def allows(self, position: Joints) -> bool:
        """Whether a pose is inside the box and its parts clear of each other, as far as they were at the start."""
        return _within(self._body.excess(position), self._excess)

    def begin(self, position: Joints) -> Mapping[Reason, str]:
        """Take the measured pose, at rest, as where the robot is; a latched stop stays.

        A pose outside the limits is accepted with a reason: from there every joint may only move inwards.

        Raises:
            DataError: if it is no finite pose of this robot.
        """
        position = np.asarray(position, np.float64)
        if position.shape != (len(self.spec.joints),) or not np.isfinite(position).all():
            raise DataError(f"a pose of {len(self.spec.joints)} finite numbers wanted, found {position!r}")
        self._motion = Motion.at_rest(position)
        self._braking = self._mover.brake(self._motion)
        self._low, self._high = np.minimum(self._lower, position), np.maximum(self._upper, position)
        self._excess = self._body.excess(position)
        self._watch.clear()
        self._waiting.clear()
        return self._outside(position)

    def _outside(self, position: Joints) -> dict[Reason, str]:
        words = [
            f"{joint.name} at {q:.3f} rad, allowed {joint.lower:.3f} to {joint.upper:.3f}"
            for joint, q in zip(self.spec.joints, position, strict=True)
            if not joint.lower <= q <= joint.upper
        ]
        words += [f"{self._excess[0] * 1e3:.1f} mm outside the workspace"] * (self._excess[0] > 0)
        words += [f"parts {self._excess[1] * 1e3:.1f} mm too near each other"] * (self._excess[1] > 0)
        return {Reason.START: "; ".join(words)} if words else {}

    def stop(self, reason: Reason, words: str) -> None:
        """Brake from now on, and stay at rest until `reset`; the first reason stays."""
        self.latched = self.latched or (reason, words)

    def reset(self) -> None:
        """An operator's leave to go on.

        Raises:
            ConfigError: while the robot still moves.
        """
        if self._motion is not None and not self._motion.resting:
            raise ConfigError("the robot still brakes: reset when it rests")
        self.latched = None
        self._watch.clear()
        self._waiting.clear()

    def step(self, asked: object, reading: Reading) -> Command:
        """The command for one control period.

        `asked` is a position for each joint (rad), or None where the policy has nothing to say. Never raises for
        what a policy, a camera or a robot does.
        """
        reasons = self._watch.look(reading, self.motion.position)
        target = self._target(asked, reasons)
        if target is None or self._respond(reasons, reading.time) >= Response.HOLD:
            self._follow_braking()
        else:
            self._advance(target, reasons)
        response = self._respond(reasons, reading.time)
        self._shrink()
        if self.latched:
            reasons = {self.latched[0]: self.latched[1]} | reasons
            response = max(response, self._table[self.latched[0]], Response.CONTROLLED_STOP)
        return Command(self.motion.position.copy(), response, reasons)

    def memory(self) -> Float64[np.ndarray, " M"]:
        """All that the next steps depend on; the words of a latched stop are not kept."""
        motion = self._motion or Motion.at_rest(np.full(len(self.spec.joints), np.nan))  # it has not begun
        latched = float(self.latched[0]) if self.latched else 0.0
        bounds = (motion.position, motion.velocity, motion.acceleration, self._low, self._high)
        times = [*self._watch.memory(), *self._waiting.begins("hold")]
        return np.concatenate([*bounds, [*self._excess, latched, *times]])

    def remember(self, memory: Float64[np.ndarray, " M"]) -> None:
        """Go on where `memory` was taken."""
        count = len(self.spec.joints)
        position, velocity, acceleration, self._low, self._high = memory[: 5 * count].reshape(5, count).copy()
        box, near, latched, *times = map(float, memory[5 * count :])
        self._motion = None if np.isnan(position).any() else Motion(position, velocity, acceleration)
        self._braking = self._mover.brake(self._motion) if self._motion else None
        self._excess = (box, near)
        self.latched = (Reason(int(latched)), "") if latched else None
        self._watch.remember(times[:2])
        self._waiting.begin({"hold": times[2]})

    def _target(self, asked: object, reasons: dict[Reason, str]) -> Joints | None:
        """The asked position within the joints' ranges; None where there is none."""
        if asked is None:
            reasons.setdefault(Reason.LATE_POLICY, "the policy has no action")
            return None
        try:
            target = np.asarray(asked, np.float64)
        except (TypeError, ValueError, OverflowError):
            target = np.full(0, np.nan)
        if target.shape != (len(self.spec.joints),) or not np.isfinite(target).all():
            reasons[Reason.MALFORMED] = f"{len(self.spec.joints)} finite numbers wanted, found {_brief(asked)}"
            return None
        inside = target.clip(self._low, self._high)
        if (far := np.abs(target - inside)).max() > _SAME:
            k = int(far.argmax())
            reasons[Reason.POSITION] = f"{self.spec.names[k]} asked to {target[k]:.3f} rad, range ends {inside[k]:.3f}"
        return self._reachable(inside, reasons)

    def _respond(self, reasons: Mapping[Reason, str], now: float) -> Response:
        """The strongest response that the reasons ask for; stops are latched here."""
        strongest = max((self._table[r] for r in reasons), default=Response.PASS)
        for reason, words in reasons.items():
            if self._table[reason] >= Response.CONTROLLED_STOP:
                self.stop(reason, words)
        held = self._waiting.seconds("hold", strongest == Response.HOLD, now)
        if held >= self._patience:
            reason, words = next((r, w) for r, w in reasons.items() if self._table[r] == Response.HOLD)
            self.stop(reason, f"{words}, for {held:.1f} s")
        return max(strongest, Response.CONTROLLED_STOP) if self.latched else strongest

    def _advance(self, target: Joints, reasons: dict[Reason, str]) -> None:
        """One step towards the target, or where that cannot be braked, one step towards rest."""
        ahead = self._mover.towards(self.motion, target)
        if ahead is not None:
            braking = self._mover.brake(ahead)
            if braking is not None and self._mover.admits(ahead, braking) and self._stays_inside(braking):
                self._motion, self._braking = ahead, braking
                self._note_speed(target, reasons)
                return
        reasons.setdefault(Reason.BRAKING, "no way to rest would stay within the limits after the next step")
        self._follow_braking()

    def _reachable(self, target: Joints, reasons: dict[Reason, str]) -> Joints:
        """The last allowed pose on the straight way from where the robot would rest to the target."""
        excess = self._body.excess(target)
        if _within(excess, self._excess):
            return target
        reason = Reason.WORKSPACE if excess[0] > self._excess[0] + _SAME else Reason.COLLISION
        what = "outside the workspace" if reason is Reason.WORKSPACE else "too near another part of the robot"
        reasons[reason] = f"the asked pose is {max(excess) * 1e3:.1f} mm {what}"
        rest = self.rest
        near, far = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (near + far) / 2
            allowed = _within(self._body.excess(rest + middle * (target - rest)), self._excess)
            near, far = (middle, far) if allowed else (near, middle)
        return rest + near * (target - rest)

    def _stays_inside(self, braking: Braking) -> bool:
        if (braking.low < self._low - _SAME).any() or (braking.high > self._high + _SAME).any():
            return False
        return _within(worst(self._body, braking.poses()), self._excess)

    @property
    def _checked_braking(self) -> Braking:
        if self._braking is None:
            raise DataError("the safety chain does not know where the robot is: call begin(position) first")
        return self._braking

    def _follow_braking(self) -> None:
        """One step along the way to rest that was checked before."""
        known = self._checked_braking
        self._motion = known.at(self.spec.period)
        if self._motion.resting:
            self._motion = Motion.at_rest(self._motion.position)
        self._braking = self._mover.brake(self._motion) or known.after(self.spec.period)

    def _note_speed(self, target: Joints, reasons: dict[Reason, str]) -> None:
        """Say so where the joints cannot be at the target within the period."""
        if (short := np.abs(target - self.motion.position)).max() > _SAME and not reasons:
            k = int(short.argmax())
            reasons[Reason.SPEED] = f"{self.spec.names[k]} lags its command by {short[k]:.4f} rad"

    def _shrink(self) -> None:
        """What was outside at the start may only become less so."""
        position = self.motion.position
        self._low = np.minimum(self._lower, np.maximum(self._low, position))
        self._high = np.maximum(self._upper, np.minimum(self._high, position))
        if max(self._excess) > 0:
            now = self._body.excess(position)
            self._excess = (min(self._excess[0], now[0]), min(self._excess[1], now[1]))


def _within(excess: tuple[float, float], allowed: tuple[float, float]) -> bool:
    return excess[0] <= allowed[0] + _SAME and excess[1] <= allowed[1] + _SAME


def _brief(asked: object) -> str:
    text = repr(asked)
    return text if len(text) <= 80 else f"{text[:77]}..."
