"""What may go wrong around a robot, what is done about each, and the watch over what is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from jaxtyping import Float64

from vlmrl.errors import ConfigError, unknown


class Response(IntEnum):
    """What the chain does, weakest first."""

    PASS = 0
    CLIP = 1
    """Send the nearest command that is allowed."""
    HOLD = 2
    """Brake to rest, and go on when the reason is gone."""
    CONTROLLED_STOP = 3
    """Brake to rest and stay there until an operator resets."""
    STOP = 4
    """The same, and tell the driver to stop by its own means."""


class Reason(IntEnum):
    """Why a command was changed; stored beside every step, so numbers never change."""

    NONE = 0
    POSITION = 1
    """The policy asked for a position outside a joint's range."""
    SPEED = 2
    """It asked for more than speed, acceleration and jerk allow within a period."""
    WORKSPACE = 3
    COLLISION = 4
    """Parts of the robot would come too near each other."""
    BRAKING = 5
    """After the command no way to rest would have stayed within the limits."""
    MALFORMED = 6
    """No finite numbers, or not as many as there are joints."""
    STALE_OBSERVATION = 7
    LATE_POLICY = 8
    FROZEN_CAMERA = 9
    OVERRUN = 10
    """The control loop itself is late."""
    HEARTBEAT = 11
    """The operator's is lost."""
    CURRENT = 12
    TRACKING = 13
    """The robot is not where it was told to be."""
    OPERATOR = 14
    DRIVER = 15
    """The connection to the robot failed."""
    START = 16
    """The robot stands outside its limits."""
    RECORDER = 17
    """What happens can no longer be recorded."""


RESPONSES: Mapping[Reason, Response] = {
    Reason.POSITION: Response.CLIP,
    Reason.SPEED: Response.CLIP,
    Reason.WORKSPACE: Response.CLIP,
    Reason.COLLISION: Response.CLIP,
    Reason.BRAKING: Response.CLIP,
    Reason.START: Response.CLIP,
    Reason.LATE_POLICY: Response.HOLD,
    Reason.STALE_OBSERVATION: Response.HOLD,
    Reason.MALFORMED: Response.CONTROLLED_STOP,
    Reason.FROZEN_CAMERA: Response.CONTROLLED_STOP,
    Reason.OVERRUN: Response.CONTROLLED_STOP,
    Reason.HEARTBEAT: Response.CONTROLLED_STOP,
    Reason.OPERATOR: Response.CONTROLLED_STOP,
    Reason.RECORDER: Response.CONTROLLED_STOP,
    Reason.TRACKING: Response.STOP,
    Reason.CURRENT: Response.STOP,
    Reason.DRIVER: Response.STOP,
}
"""What each reason leads to. What only waits (HOLD) becomes a controlled stop when it lasts `Thresholds.patience_s`."""


@dataclass(frozen=True)
class Reading:
    """What is known at a control step; None where it is not measured."""

    time: float
    """Of a clock that never goes back, s."""
    position: Float64[np.ndarray, " J"] | None = None
    """Measured, rad."""
    current: Float64[np.ndarray, " J"] | None = None
    """Measured, A."""
    observation_age: float | None = None
    """s since what the policy last saw was measured."""
    action_age: float | None = None
    """s since the policy last delivered an action that has not been executed yet; 0 while there are such."""
    camera_unchanged: Mapping[str, float] = field(default_factory=dict[str, float])
    """s since each camera's picture last changed."""
    heartbeat_age: float | None = None
    """s since the operator was last heard."""
    overruns: int = 0
    """Control steps in a row that were late."""


@dataclass(frozen=True)
class Thresholds:
    """From when on the watch speaks."""

    observation_s: float = 0.5
    action_s: float = 0.1
    camera_s: float = 1.0
    heartbeat_s: float = 1.0
    overruns: int = 3
    tracking_s: float = 0.3
    """How long the robot may be away from where it was told to be."""
    current_s: float = 0.2
    """How long a joint may take more than its current."""
    patience_s: float = 5.0
    """How long a hold may last before it is a stop."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"safety: {name} is {value}; wanted above 0")


@dataclass
class Since:
    """For how long conditions have held."""

    _begin: dict[str, float] = field(default_factory=dict[str, float])

    def seconds(self, name: str, holds: bool, now: float) -> float:
        """How long the named condition has held without a break, s; 0 where it does not."""
        if not holds:
            self._begin.pop(name, None)
            return 0.0
        return now - self._begin.setdefault(name, now)

    def clear(self) -> None:
        """Forget everything."""
        self._begin.clear()

    def begins(self, *names: str) -> list[float]:
        """When each of the named conditions began; NaN where it does not hold."""
        return [self._begin.get(name, np.nan) for name in names]

    def begin(self, times: Mapping[str, float]) -> None:
        """Put back what `begins` gave."""
        self._begin = {name: time for name, time in times.items() if not np.isnan(time)}


class Watch:
    """Turns readings into reasons, with words for the log."""

    def __init__(
        self,
        thresholds: Thresholds,
        *,
        tracking: float,
        current: Float64[np.ndarray, " J"],
        names: tuple[str, ...],
    ) -> None:
        """`tracking` in rad, `current` in A with infinity where there is no limit."""
        self.thresholds, self._tracking, self._current, self._names = thresholds, tracking, current, names
        self._since = Since()

    def clear(self) -> None:
        """Forget how long anything has lasted."""
        self._since.clear()

    def memory(self) -> list[float]:
        """Since when the robot has been away, and since when a joint has strained."""
        return self._since.begins("tracking", "current")

    def remember(self, memory: Sequence[float]) -> None:
        """Put `memory` back."""
        self._since.begin(dict(zip(("tracking", "current"), memory, strict=True)))

    def look(self, reading: Reading, commanded: Float64[np.ndarray, " J"]) -> dict[Reason, str]:
        """Every reason that the reading gives, in words."""
        limit, found = self.thresholds, dict[Reason, str]()
        ages = {
            Reason.STALE_OBSERVATION: ("observation", reading.observation_age, limit.observation_s),
            Reason.LATE_POLICY: ("next action", reading.action_age, limit.action_s),
            Reason.HEARTBEAT: ("operator's heartbeat", reading.heartbeat_age, limit.heartbeat_s),
        }
        for reason, (what, age, most) in ages.items():
            if age is not None and not age <= most:
                found[reason] = f"{what} is {age:.3f} s old, more than {most:g} s"
        frozen = {name: age for name, age in reading.camera_unchanged.items() if not age <= limit.camera_s}
        if frozen:
            found[Reason.FROZEN_CAMERA] = ", ".join(f"{name} unchanged for {age:.2f} s" for name, age in frozen.items())
        if reading.overruns >= limit.overruns:
            found[Reason.OVERRUN] = f"{reading.overruns} control steps in a row were late"
        return found | self._tracked(reading, commanded) | self._loaded(reading)

    def _tracked(self, reading: Reading, commanded: Float64[np.ndarray, " J"]) -> dict[Reason, str]:
        if reading.position is None:
            return {}
        away = np.abs(reading.position - commanded)
        far = bool(not (away <= self._tracking).all())
        seconds = self._since.seconds("tracking", far, reading.time)
        if not far or seconds < self.thresholds.tracking_s:
            return {}
        worst = int(np.nanargmax(np.where(np.isfinite(away), away, np.inf)))
        return {Reason.TRACKING: f"{self._names[worst]} is {away[worst]:.3f} rad from its command for {seconds:.2f} s"}

    def _loaded(self, reading: Reading) -> dict[Reason, str]:
        if reading.current is None:
            return {}
        over = ~(np.abs(reading.current) <= self._current)
        seconds = self._since.seconds("current", bool(over.any()), reading.time)
        if not over.any() or seconds < self.thresholds.current_s:
            return {}
        worst = int(np.argmax(over))
        return {Reason.CURRENT: f"{self._names[worst]} takes {reading.current[worst]:.2f} A for {seconds:.2f} s"}


def responses(changed: Mapping[str, str]) -> dict[Reason, Response]:
    """The table with some reasons' responses made stronger, by their names.

    Raises:
        ConfigError: if a name is unknown, or a response weaker than the default.
    """
    table = dict(RESPONSES)
    for reason, response in changed.items():
        if reason.upper() not in Reason.__members__ or reason.upper() == "NONE":
            raise unknown("reason", reason, [r.name.lower() for r in RESPONSES])
        if response.upper() not in Response.__members__:
            raise unknown("response", response, [r.name.lower() for r in Response])
        key, wanted = Reason[reason.upper()], Response[response.upper()]
        if wanted < table[key]:
            raise ConfigError(
                f"safety: {reason} leads to {table[key].name.lower()} and may only be made stronger, not {response}"
            )
        table[key] = wanted
    return table
