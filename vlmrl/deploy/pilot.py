"""Who says where the joints are to go: a policy, a keyboard, or another arm that a person moves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from vlmrl.deploy.inference import About, Inference
from vlmrl.deploy.seams import ActionQueue
from vlmrl.errors import RobotError
from vlmrl.evaluate.recent import Recent
from vlmrl.robot import Observed, Robot, RobotSpec
from vlmrl.sight import embedding, named, sentence

_FARTHEST = 20.0
"""Deviations of the training data by which an observation may differ from its mean and still be in the same unit."""
_JOG = 0.04
"""What one key press moves a joint, rad."""
JOGS = ("qa", "ws", "ed", "rf", "tg", "yh", "uj", "ik")
"""Keys that move the first joint up and down, the second, and so on."""


@dataclass(frozen=True)
class Asked:
    """What one tick is to bring."""

    position: object
    """For each joint, rad; None where nobody has said anything yet. A policy's nonsense is passed on as it is."""
    late_s: float = 0.0
    """Since the last action that was meant for its tick, 0 where this one is."""
    person: bool = False
    """Whether a person said it."""


@runtime_checkable
class Pilot(Protocol):
    """Asked once a control tick while the robot runs."""

    @property
    def name(self) -> str:
        """Who it is, as episodes say where they come from."""
        ...

    def begin(self, instruction: str, seed: int, seen: Observed) -> None:
        """Start an episode."""
        ...

    def ask(self, observation: Mapping[str, np.ndarray], seen: Observed, tick: int) -> Asked:
        """Where the joints are to be next.

        Raises:
            RobotError: if nobody can say any more.
        """
        ...

    def problems(self, spec: RobotSpec, columns: Mapping[str, Mapping[str, object]]) -> list[str]:
        """Why the robot must not follow: `columns` has names and units of what the robot would show and be told."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


@dataclass
class PolicyPilot:
    """A policy that answers with chunks."""

    inference: Inference
    spec: RobotSpec
    queue: ActionQueue
    ahead: int | None = None
    """Ask while so many actions are left; None: as many as the slowest of the last answers took, and one more."""
    wait_s: float = 0.0
    """How long a tick without an action waits for one."""
    unchecked: bool = False
    """Follow a policy that says no names and units, as servers of other projects do not."""
    infer_s: list[float] = field(default_factory=list[float])
    """What each answer took, in the policy's process."""
    note: str = ""
    value: float | None = None
    """The critic's of the last chunk, where one chose it."""
    _recent: Recent | None = None
    _waited: list[int] = field(default_factory=list[int])
    _meant: float | None = None
    """For when the last action was meant, s: later than this by so much is how late the policy is."""

    @property
    def name(self) -> str:
        """The policy's."""
        return self.inference.about.name

    def begin(self, instruction: str, seed: int, seen: Observed) -> None:
        """Start an episode with the policy's chance drawn from the seed."""
        del seen
        self.queue.clear()
        self._recent, self._meant, self.value = None, None, None
        self.inference.reset(instruction, seed)

    def forget(self) -> None:
        """What was asked and answered before is over: somebody else has moved the robot, or time has passed."""
        self.queue.clear()
        self.inference.forget()
        self._recent, self._meant = None, None

    def ask(self, observation: Mapping[str, np.ndarray], seen: Observed, tick: int) -> Asked:
        """The action of this tick; where the policy is late, the one before once more."""
        if self._recent is None:
            self._recent = Recent(self.inference.about.history, observation)
        else:
            self._recent.add(observation)
        self._fetch(0.0, tick)
        if not self.inference.busy and self.queue.left(tick) <= self._lead():
            self.inference.ask(self._recent.shown(), tick)
            self._fetch(0.0 if self.queue.left(tick) else self.wait_s, tick)
        fresh, last = self.queue.take(tick), self.queue.last
        if fresh is not None or self._meant is None:
            self._meant = seen.time - self.queue.behind * self.spec.period
        return Asked(None if last is None else self._position(last), seen.time - self._meant)

    def _fetch(self, wait_s: float, tick: int) -> None:
        answer = self.inference.answer(wait_s)
        if answer is None:
            return
        self.queue.put(answer.chunk, answer.tick, tick)
        self.infer_s.append(answer.seconds)
        self._waited = [*self._waited[-19:], tick - answer.tick]
        self.note, self.value = answer.note, answer.value

    def _lead(self) -> int:
        if self.ahead is not None or self.queue.seam == "hold":
            return self.ahead or 0
        return 2**31 if self.queue.seam == "ensemble" else max(self._waited, default=0) + 1

    def _position(self, action: np.ndarray) -> object:
        """In rad; what is no action of this robot goes on to the chain as it is."""
        return self.spec.centre + self.spec.half * action if action.shape == self.spec.half.shape else action

    def problems(self, spec: RobotSpec, columns: Mapping[str, Mapping[str, object]]) -> list[str]:
        """Names and units of its data against the robot's."""
        about = self.inference.about
        if not about.trained:
            return []
        said = {key for key, column in about.columns.items() if "names" in column and "units" in column}
        wanted = [key for key in _wanted(about) if key in said or not self.unchecked]
        found = [mismatch(key, about.columns.get(key), columns.get(key)) for key in wanted]
        return [one for one in found if one]

    def strange(self, observation: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
        """What of an observation lies so far from the training data that it must be in another unit; else nothing."""
        about = self.inference.about
        if about.shift is None or about.scale is None:
            return ""
        first = 0
        for key in about.keys:
            name, part = named(key)
            if name not in observation:
                break
            values, called = observation[name][part], names[part] if name == "state" else [key] * len(names)
            here = slice(first, first := first + len(values))
            away = np.abs((values - about.shift[here]) / about.scale[here])
            if away.max() > _FARTHEST:
                k = int(away.argmax())
                return f"{called[k]} is {values[k]:.3g}, {away[k]:.0f} deviations from the training data"
        return ""

    def figures(self) -> dict[str, Any]:
        """What a report says of it."""
        restarts = getattr(self.inference, "restarts", 0)
        return {"jumps": self.queue.jumps, "stale": self.queue.stale, "restarts": restarts, "note": self.note}

    def close(self) -> None:
        """End the policy's process."""
        self.inference.close()


def _wanted(about: About) -> list[str]:
    numbers = dict.fromkeys(named(key)[0] for key in about.keys if not embedding(key) and not sentence(key))
    return [*(f"obs/{name}" for name in numbers), "action"]


def mismatch(column: str, trained: Mapping[str, object] | None, here: Mapping[str, object] | None) -> str:
    """Where names or units of a column differ between training data and robot, in words; empty where they agree."""
    if not trained or "names" not in trained or "units" not in trained:
        hint = "train it again, or say unchecked=true"
        return f"the policy does not say names and units of {column} in its training data; {hint}"
    if here is None:
        return f"the policy sees {column}, which this robot does not show"
    for what in ("names", "units"):
        was, is_ = (list(map(str, side[what])) for side in (trained, here))  # type: ignore[call-overload]
        if was != is_ and sorted(was) == sorted(is_):
            return f"{column}: the policy's {what} are in another order: {', '.join(was)}"
        if was != is_:
            k = next((k for k, (a, b) in enumerate(zip(was, is_, strict=False)) if a != b), min(len(was), len(is_)))
            pair = [side[k] if k < len(side) else "nothing" for side in (was, is_)]
            return f"{column}: {what} of number {k + 1} are {pair[0]!r} for the policy and {pair[1]!r} for the robot"
    return ""


@dataclass
class KeyboardPilot:
    """A person at the keyboard, joint by joint."""

    spec: RobotSpec
    name: str = "keyboard"
    _target: Float64[np.ndarray, " J"] | None = None

    def press(self, key: str) -> bool:
        """Move a joint's target; whether the key does."""
        for k, pair in enumerate(JOGS[: len(self.spec.joints)]):
            if self._target is not None and len(key) == 1 and key in pair:
                joint, moved = self.spec.joints[k], self._target[k] + (_JOG if key == pair[0] else -_JOG)
                self._target[k] = min(max(moved, joint.lower), joint.upper)
                return True
        return False

    def begin(self, instruction: str, seed: int, seen: Observed) -> None:
        """Stay where the robot is."""
        del instruction, seed
        self._target = seen.position.copy()

    def ask(self, observation: Mapping[str, np.ndarray], seen: Observed, tick: int) -> Asked:
        """Where the keys have moved it."""
        del observation, seen, tick
        return Asked(None if self._target is None else self._target.copy(), person=True)

    def problems(self, spec: RobotSpec, columns: Mapping[str, Mapping[str, object]]) -> list[str]:
        """None."""
        del spec, columns
        return []

    def close(self) -> None:
        """Nothing to free."""


@dataclass
class LeaderPilot:
    """A second arm of the same kind, limp, that a person moves."""

    leader: Robot
    name: str = "leader"
    _lost_since: float = math.nan
    _last: Float64[np.ndarray, " J"] | None = None

    def begin(self, instruction: str, seed: int, seen: Observed) -> None:
        """Nothing to remember."""
        del instruction, seed, seen

    def ask(self, observation: Mapping[str, np.ndarray], seen: Observed, tick: int) -> Asked:
        """Where the leader is; while it does not answer, where it was."""
        del observation, tick
        try:
            self._last, self._lost_since = self.leader.observe().position, math.nan
        except RobotError:
            self._lost_since = seen.time if math.isnan(self._lost_since) else self._lost_since
        late = 0.0 if math.isnan(self._lost_since) else max(seen.time - self._lost_since, 1e-9)
        return Asked(self._last, late, person=True)

    def problems(self, spec: RobotSpec, columns: Mapping[str, Mapping[str, object]]) -> list[str]:
        """Whether it has the same joints."""
        del columns
        have = self.leader.spec.names
        return [] if have == spec.names else [f"the leader's joints are {', '.join(have)}, not {', '.join(spec.names)}"]

    def close(self) -> None:
        """Give its bus back."""
        self.leader.close()
