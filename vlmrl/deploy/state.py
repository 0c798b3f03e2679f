"""What a control node may be doing, what operators may say and see, and how it is to run."""

from dataclasses import dataclass
from enum import StrEnum

WORDS = ("stop", "reset", "home", "start", "pause", "resume", "success", "failure", "discard", "take", "quit")
"""What an operator may say."""


class State(StrEnum):
    """What the robot is doing."""

    DISCONNECTED = "disconnected"
    IDLE = "idle"
    """Connected; nothing is sent."""
    HOMING = "homing"
    ARMED = "armed"
    """Holds; an episode may start."""
    RUNNING = "running"
    PAUSED = "paused"
    """Holds in the middle of an episode."""
    FAULT = "fault"
    """The robot does not answer; a reset connects anew."""
    STOPPED = "stopped"
    """Rests until an operator resets."""


@dataclass(frozen=True)
class Settings:
    """How a node runs."""

    episodes: int = 1
    seed: int = 0
    """Of the first episode; the next has the next."""
    auto: bool = True
    """Whether episodes start by themselves; else an operator says so."""
    attended: bool = False
    """Whether an operator is there who can reset: then a stop or a fault does not end the run."""
    horizon: int = 0
    """Ticks of the longest episode; 0: the task's."""
    whole: bool = False
    """Whether episodes go on to the task's horizon after success."""
    judge: bool = True
    """Whether the task's predicate tells success; else the operator does."""
    heartbeat: bool = False
    """Whether an operator must be heard all the time."""
    picture_every: int = 5
    """Ticks between recorded pictures; 0: none are recorded."""
    drawn: tuple[str, ...] = ()
    """Cameras that are drawn in the loop itself: in lock step, where time waits."""
    instruction: str = ""
    priority: int = 50
    """Real-time priority (SCHED_FIFO) that is asked for; 0: none."""


@dataclass(frozen=True)
class Status:
    """What operators see, made anew each tick."""

    state: State = State.DISCONNECTED
    episode: int = 0
    step: int = 0
    position: tuple[float, ...] = ()
    asked: tuple[float, ...] = ()
    response: str = "pass"
    reasons: tuple[str, ...] = ()
    latched: str = ""
    outcomes: tuple[int, ...] = ()
    late: int = 0
    person: bool = False
    value: float | None = None
    """The critic's of the chunk under way, where a critic steers."""
    reward: tuple[float, float] | None = None
    """A reward model's of the last picture, and the deviation of its members, where one looks on."""
