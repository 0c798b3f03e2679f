"""Who acts while data is collected: random actions, a task's scripted expert, saved policies, with graded noise.

Noise is the share of a policy's actions that are replaced by uniform random ones, drawn anew at every step (the epsilon
of Offline RL-VLM-F). What an episode was made with goes into its `source`; learners never read it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import Bool, Float, Float32

from vlmrl.errors import ConfigError
from vlmrl.evaluate.recent import Recent
from vlmrl.sim import Task, expert, make
from vlmrl.types import Policy, cameras, history

if TYPE_CHECKING:
    from vlmrl.sim.dynamics import Expert

RANDOM, EXPERT = "random", "expert"
"""Policies by name; every other name is the folder of a saved policy."""


@dataclass(frozen=True)
class Grade:
    """One of the policies that make the data, with its share of random actions."""

    policy: str
    noise: float

    @property
    def facts(self) -> str:
        """What decides its actions, wherever its folder lies."""
        who = self.policy if self.policy in (RANDOM, EXPERT) else f"weights {_fingerprint(self.policy)}"
        return f"{who}, noise {self.noise:g}"


def grades(policies: Sequence[str], noise: Sequence[float]) -> list[Grade]:
    """Every policy at every noise, in the order in which episodes take them: equal parts of each."""
    found = [Grade(policy, 1.0 if policy == RANDOM else share) for share in noise for policy in policies]
    return found if len(set(found)) > 1 else found[:1]


class GradedPolicy:
    """The behaviour policy of collected data: episode k is made by grade k, starting over after the last.

    `width` is the number of actions; without it, random actions ask the task's simulation for it. `by_seed`: the
    seeds of the episodes' generators are dealt the grades in turn, so that none depends on the episodes before it.

    Raises:
        ConfigError: if a policy is neither known by name nor the folder of a saved one, or the task has no expert.
    """

    name = "behaviour policy"

    def __init__(
        self,
        task: Task,
        noise: Sequence[float],
        policies: Sequence[str] = (EXPERT,),
        *,
        width: int | None = None,
        by_seed: bool = False,
    ) -> None:
        self.task, self.grades, self.by_seed = task, grades(policies, noise), by_seed
        self._makers = {policy: _maker(task, policy, width) for policy in policies}
        self.cameras = tuple(dict.fromkeys(camera for make in self._makers.values() for camera in cameras(make())))
        self._robots: dict[int, tuple[Expert, float, np.random.Generator]] = {}
        self.episode = 0
        """Number of the next episode that starts."""

    def reset(self, mask: Bool[np.ndarray, " B"], instructions: Sequence[str], generator: np.random.Generator) -> None:
        """Give each robot that starts a grade, somebody to act, and its chance."""
        for k in np.flatnonzero(mask).tolist():
            turn = _seed(generator) if self.by_seed else self.episode
            grade = self.grades[turn % len(self.grades)]
            actor = self._makers[grade.policy]()
            actor.reset(int(generator.integers(2**31)))
            self._robots[k] = (actor, grade.noise, generator)
            self.episode += 1

    def act(self, observations: Mapping[str, np.ndarray]) -> Float[np.ndarray, "B 1 A"]:
        """The policy's action, or a random one."""
        actions = []
        for k in range(len(next(iter(observations.values())))):
            actor, noise, generator = self._robots[k]
            action = actor.action({key: value[k] for key, value in observations.items()})
            if generator.random() < noise:
                action = generator.uniform(-1, 1, action.shape).astype(np.float32)
            actions.append(np.clip(action, -1, 1))
        return np.stack(actions)[:, None]

    def source(self, episode: int) -> str:
        """How an episode came about, for people."""
        grade = self.grades[episode % len(self.grades)]
        if grade.policy == RANDOM:
            return f"{self.task.name} random actions"
        who = "scripted expert" if grade.policy == EXPERT else f"saved policy {_fingerprint(grade.policy)}"
        return f"{self.task.name} {who}, {grade.noise:.0%} random actions"


def _seed(generator: np.random.Generator) -> int:
    """The first number that a generator was made from: in a rollout the seed of its episode."""
    return int(np.ravel(cast("Any", generator.bit_generator.seed_seq).entropy)[0])


def check_policies(task: Task, policies: Sequence[str]) -> None:
    """Refuse policies that cannot be had, before anything is collected.

    Raises:
        ConfigError: if a name is neither known nor a folder, or the task has no expert.
        DataError: if a folder holds no saved policy.
    """
    for policy in policies:
        _maker(task, policy, 0)


def _maker(task: Task, policy: str, width: int | None) -> "Callable[[], Expert]":
    if policy == EXPERT:
        expert(task)
        return lambda: expert(task)
    if policy == RANDOM:
        count = _width(task) if width is None else width
        return lambda: _Idle(count)
    if not Path(policy).is_dir():
        raise ConfigError(
            f"unknown policy {policy!r}; have: {EXPERT}, {RANDOM}, replay, or the folder of a saved policy"
        )
    # Torch takes seconds to import, in every worker: scripts do without it.
    from vlmrl.policy import load_policy

    saved = load_policy(policy)
    return lambda: _Saved(saved)


def _fingerprint(folder: str) -> str:
    from vlmrl.artefact import fingerprint

    return fingerprint(folder)


def _width(task: Task) -> int:
    env = make(task)
    try:
        return len(env.action_names)
    finally:
        env.close()


class _Idle:
    """No action; noise replaces all of them."""

    def __init__(self, width: int) -> None:
        self._width = width

    def reset(self, seed: int) -> None:
        """Nothing to forget."""
        del seed

    def action(self, observation: Mapping[str, np.ndarray]) -> Float32[np.ndarray, " A"]:
        """Zeros."""
        del observation
        return np.zeros(self._width, np.float32)


class _Saved:
    """A saved policy for one robot, its chunks executed whole."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self._chunk, self.cameras = policy, list[np.ndarray](), cameras(policy)
        self._recent: Recent | None = None

    def reset(self, seed: int) -> None:
        """Start an episode."""
        self._policy.reset(np.ones(1, np.bool_), [""], np.random.default_rng(seed))
        self._chunk, self._recent = [], None

    def action(self, observation: Mapping[str, np.ndarray]) -> Float32[np.ndarray, " A"]:
        """The next action of its chunk."""
        if self._recent is None:
            self._recent = Recent(history(self._policy), observation)
        else:
            self._recent.add(observation)
        if not self._chunk:
            self._chunk = list(self._policy.act({key: value[None] for key, value in self._recent.shown().items()})[0])
        return self._chunk.pop(0).astype(np.float32)
