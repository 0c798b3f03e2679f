"""The policy, in a process of its own or, in lock step, in this one: it is asked with a tick, and answers with a chunk.

A policy that hangs or dies leaves the loop on time; one that has died is started again.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float

from vlmrl.deploy.child import Child, Wire
from vlmrl.deploy.clock import now
from vlmrl.errors import RobotError, VlmrlError
from vlmrl.evaluate.candidates import Candidate
from vlmrl.evaluate.rollout import fresh
from vlmrl.policy import LearnedPolicy, LearnedValue, RemotePolicy, RerankedPolicy
from vlmrl.sim import Task
from vlmrl.types import Policy, cameras, history

_RESTARTS = 3
_PAUSE_S = 1.0
"""Between the end of a policy's process and the start of the next: a server needs a moment to return."""
_START_S = 120.0


@dataclass(frozen=True)
class About:
    """What the node must know of a policy before the robot follows it."""

    name: str
    history: int = 1
    trained: bool = False
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Names and units of what it was trained on, by column of the store."""
    keys: tuple[str, ...] = ()
    shift: Float[np.ndarray, " D"] | None = None
    scale: Float[np.ndarray, " D"] | None = None
    """Its normaliser of the numbers of one observation."""
    cameras: tuple[str, ...] = ()
    """Whose pictures it wants."""

    @classmethod
    def of(cls, policy: Policy) -> "About":
        """Ask the policy."""
        base = policy.base if isinstance(policy, RerankedPolicy) else policy
        if isinstance(base, RemotePolicy):
            told = base.about
            shift, scale = (np.array(told[key]) if key in told else None for key in ("shift", "scale"))
            keys = tuple(told.get("keys", ()))
            return cls(policy.name, history(policy), True, told.get("columns", {}), keys, shift, scale, cameras(policy))
        if not isinstance(base, LearnedPolicy):
            return cls(policy.name, history(policy), cameras=cameras(policy))
        normaliser, eyes = base.actor.observation, base.actor.eyes
        count = len(normaliser.shift) - (eyes.features if eyes else 0)
        shift, scale = (part[:count].detach().cpu().numpy().copy() for part in (normaliser.shift, normaliser.scale))
        columns, looks = base.facts.get("columns", {}), cameras(policy)
        return cls(policy.name, history(policy), True, columns, base.keys, shift, scale, looks)

    def told(self) -> dict[str, Any]:
        """What a client of a policy server must know of its training data, as plain values; {} where none is known."""
        if self.shift is None or self.scale is None:
            return {}
        normaliser = {"shift": self.shift.tolist(), "scale": self.scale.tolist()}
        return {"keys": list(self.keys), "columns": dict(self.columns), **normaliser}


@dataclass(frozen=True)
class Answer:
    """A chunk."""

    tick: int
    """At which it was asked for."""
    chunk: Float[np.ndarray, "h A"]
    seconds: float
    """That the policy took."""
    note: str = ""
    """What a critic has chosen so far, where one does."""
    value: float | None = None
    """The critic's of the chunk, where one chose it."""


@runtime_checkable
class Inference(Protocol):
    """Asked once at a time."""

    about: About

    @property
    def busy(self) -> bool:
        """Whether an answer is due."""
        ...

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode; what was asked before is not answered any more."""
        ...

    def ask(self, observation: Mapping[str, np.ndarray], tick: int) -> None:
        """Ask for a chunk."""
        ...

    def forget(self) -> None:
        """What was asked is not answered any more."""
        ...

    def answer(self, wait_s: float) -> Answer | None:
        """The chunk that was asked for, if it comes within a time.

        Raises:
            RobotError: if the policy failed.
        """
        ...

    def close(self) -> None:
        """End it."""
        ...


class Inline:
    """In this process, at once: what lock step wants."""

    busy = False

    def __init__(self, policy: Policy) -> None:
        self._policy, self.about = policy, About.of(policy)
        self._answer: Answer | None = None

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode as every rollout does."""
        self._policy.reset(np.ones(1, np.bool_), [instruction], fresh(seed))
        self._answer = None

    def ask(self, observation: Mapping[str, np.ndarray], tick: int) -> None:
        """Ask, and be answered."""
        begin = time.perf_counter()
        chunk = self._policy.act({key: value[None] for key, value in observation.items()})[0]
        steered = self._policy if isinstance(self._policy, RerankedPolicy) else None
        note, value = (steered.choices.text(), steered.chosen_value) if steered else ("", None)
        self._answer = Answer(tick, np.atleast_2d(chunk), time.perf_counter() - begin, note, value)

    def forget(self) -> None:
        """Leave the answer."""
        self._answer = None

    def answer(self, wait_s: float) -> Answer | None:
        """It is there."""
        del wait_s
        answer, self._answer = self._answer, None
        return answer

    def close(self) -> None:
        """Nothing to end."""


class Worker:
    """In another process, started again where it dies."""

    def __init__(self, candidate: Candidate, task: Task) -> None:
        """Start it, and wait until the policy is loaded.

        Raises:
            VlmrlError: if the policy cannot be made.
        """
        self._made, self.restarts = (candidate, task), 0
        self._episode, self._asked, self._begun = 0, False, ("", 0)
        self._tick, self._again_at, self._wrong = -1, 0.0, ""
        self._child = Child(_serve, *self._made)
        said = self._child.wait(_START_S)
        if said is None:
            raise RobotError(f"the policy was not loaded within {_START_S:.0f} s; its process says why above")
        self.about: About = _told(said)

    @property
    def busy(self) -> bool:
        """Whether an answer is due."""
        return self._asked

    @property
    def pid(self) -> int:
        """Of the policy's process."""
        return self._child.pid

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode."""
        self._episode, self._asked, self._begun = self._episode + 1, False, (instruction, seed)
        self._child.send(("reset", self._episode, instruction, seed))

    def ask(self, observation: Mapping[str, np.ndarray], tick: int) -> None:
        """Ask for a chunk."""
        self._asked, self._tick = True, tick
        self._child.send(("act", self._episode, dict(observation), tick))

    def answer(self, wait_s: float) -> Answer | None:
        """The chunk, if it is there or comes in time; what belongs to an episode before is thrown away."""
        until = now() + wait_s
        while self._asked:
            said = self._child.hear(max(0.0, until - now()))
            if said is None:
                if self._child.dead:
                    self._again()
                return None
            if isinstance(said, VlmrlError):
                # Of a policy server that is gone, say; its process ends, and another one tries.
                self._wrong = str(said)
            elif isinstance(said, tuple):
                episode, answer = cast("tuple[int, Answer]", said)
                if episode == self._episode and answer.tick == self._tick:
                    self._asked = False
                    return answer
        return None

    def forget(self) -> None:
        """The answer that is due is thrown away when it comes."""
        self._asked, self._tick = False, -1

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def _again(self) -> None:
        """It has died: start another, a moment later, which may answer what is asked from now on."""
        if not self._again_at:
            self.restarts += 1
            if self.restarts > _RESTARTS:
                why = self._wrong or "it says why above"
                raise RobotError(f"the policy's process ended {self.restarts} times; {why}")
            self._again_at = now() + _PAUSE_S
        if now() < self._again_at:
            return
        self._again_at = 0.0
        self._child.close()
        self._child, self._asked = Child(_serve, *self._made), False
        self._child.send(("reset", self._episode, *self._begun))


def _told(said: object) -> About:
    """What the policy is.

    Raises:
        VlmrlError: that kept it from being loaded.
    """
    if isinstance(said, VlmrlError):
        raise said
    assert isinstance(said, About)
    return said


def _alone(policy: Policy) -> None:
    """For one robot, as fast as may be."""
    if isinstance(policy, RerankedPolicy):
        _alone(policy.base)
        if isinstance(policy.critic, LearnedValue):
            policy.critic.block = 0
    elif isinstance(policy, LearnedPolicy):
        policy.block = 0


def _serve(pipe: Wire, candidate: Candidate, task: Task) -> None:
    """Load the policy, say what it is, and answer until the other end closes."""
    try:
        made = candidate.make(task)
        _alone(made)
        policy = Inline(made)
    except VlmrlError as error:
        pipe.send(error)
        return
    pipe.send(policy.about)
    while True:
        kind, episode, *rest = cast("tuple[Any, ...]", pipe.recv())
        if kind == "reset":
            policy.reset(*rest)
            continue
        try:
            policy.ask(*rest)
        except VlmrlError as error:
            pipe.send(error)
            return
        pipe.send((episode, policy.answer(0.0)))
