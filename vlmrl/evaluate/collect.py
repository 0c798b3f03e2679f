"""Mixed-quality data from simulation: a scripted expert whose actions are replaced by random ones.

The share of random actions of an episode goes into its `source`; learners never read it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, UInt8

from vlmrl.errors import ConfigError
from vlmrl.evaluate.rollout import FIRST_EVALUATION_SEED, fresh
from vlmrl.sim import SimEnv, Task, expert, make
from vlmrl.store import Store
from vlmrl.types import NO_FRAME, Episode, Frames, Policy

if TYPE_CHECKING:
    from vlmrl.sim.dynamics import Expert

STRIDE = 10_000
"""Initial states that belong to one value of `collect.seed`."""


@dataclass(frozen=True)
class Config:
    """How much is collected, and how good it is."""

    episodes: int = 200
    steps: int | None = None
    """Length of each episode, control steps; null: the task's horizon."""
    noise: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0)
    """Share of random actions, in equal parts over the episodes."""
    picture_every: int = 5
    """Control steps between pictures; the last row always has one."""
    seed: int = 0


class GradedPolicy:
    """The scripted expert with a share of its actions replaced by uniform random ones.

    Episode k of a rollout has noise[k % len(noise)], so a rollout over it is the behaviour policy of the data.
    """

    name = "behaviour policy"

    def __init__(self, task: Task, noise: Sequence[float]) -> None:
        self.task, self.noise = task, tuple(noise)
        self._started = 0
        self._robots: dict[int, tuple[Expert, float, np.random.Generator]] = {}

    def reset(self, mask: Bool[np.ndarray, " B"], instructions: Sequence[str], generator: np.random.Generator) -> None:
        """Give each robot that starts an expert, its share of noise, and its chance."""
        for k in np.flatnonzero(mask).tolist():
            one, share = expert(self.task), self.noise[self._started % len(self.noise)]
            one.reset(int(generator.integers(2**31)))
            self._robots[k] = (one, share, generator)
            self._started += 1

    def act(self, observations: Mapping[str, np.ndarray]) -> Float[np.ndarray, "B 1 A"]:
        """The expert's action, or a random one."""
        actions = []
        for k in range(len(next(iter(observations.values())))):
            one, share, generator = self._robots[k]
            action = one.action({key: value[k] for key, value in observations.items()})
            if generator.random() < share:
                action = generator.uniform(-1, 1, action.shape).astype(np.float32)
            actions.append(np.clip(action, -1, 1))
        return np.stack(actions)[:, None]


@dataclass
class _Log:
    """Rows of the episode under way."""

    state: list[np.ndarray] = field(default_factory=list)
    action: list[np.ndarray] = field(default_factory=list)
    sim_state: list[np.ndarray] = field(default_factory=list)
    pixels: list[UInt8[np.ndarray, "H W 3"]] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)
    success: list[float] = field(default_factory=list)


def collect(task: Task, config: Config, *, start: int = 0) -> Iterator[Episode]:
    """Yield episodes `start` to `config.episodes`; episode k depends on the seed and k alone, so a cut run resumes.

    Raises:
        ConfigError: if the length or the shares of noise make no sense.
    """
    check(task, config)
    env = make(task)
    try:
        for k in range(start, config.episodes):
            yield _episode(env, task, config, k)
    finally:
        env.close()


def check(task: Task, config: Config) -> None:
    """Refuse settings that make no sense, before anything is collected.

    Raises:
        ConfigError: what was found, and what is wanted.
    """
    if config.steps is not None and not 0 < config.steps <= task.horizon:
        raise ConfigError(f"collect.steps is {config.steps}; task {task.name!r} has a horizon of {task.horizon}")
    if not config.noise or min(config.noise) < 0 or max(config.noise) > 1:
        raise ConfigError(f"collect.noise holds shares between 0 and 1, found {config.noise}")
    if config.seed < 0 or (config.seed + 1) * STRIDE > FIRST_EVALUATION_SEED or config.episodes > STRIDE:
        most = FIRST_EVALUATION_SEED // STRIDE
        raise ConfigError(
            f"collect.seed {config.seed} and {config.episodes} episodes reach into the seeds kept for evaluation; "
            f"wanted a seed below {most} and at most {STRIDE} episodes"
        )


def record(task: Task, policy: Policy, seeds: Sequence[int], *, picture_every: int = 5) -> Iterator[Episode]:
    """Yield one episode of a policy from each seed, to the task's horizon, as a store keeps it.

    What the policy does is the data of its own reward's examination: unlike a rollout, pictures and truth are kept.
    """
    env = make(task)
    try:
        for seed in seeds:
            yield _record_episode(env, task, policy, seed, picture_every=picture_every, source=policy.name)
    finally:
        env.close()


def _episode(env: SimEnv, task: Task, config: Config, k: int) -> Episode:
    share = config.noise[k % len(config.noise)]
    source = f"{task.name} scripted expert, {share:.0%} random actions"
    policy, seed = GradedPolicy(task, (share,)), config.seed * STRIDE + k
    every = config.picture_every
    return _record_episode(env, task, policy, seed, steps=config.steps, picture_every=every, source=source)


def _record_episode(
    env: SimEnv, task: Task, policy: Policy, seed: int, *, picture_every: int, source: str, steps: int | None = None
) -> Episode:
    steps = steps or task.horizon
    policy.reset(np.ones(1, np.bool_), [task.instruction], fresh(seed))
    observation, info = env.reset(seed=seed)
    log, reward = _Log(), 0.0
    chunk, used = np.zeros((0, len(env.action_names)), np.float32), 0
    for step in range(steps + 1):
        last = step == steps
        if used == len(chunk) and not last:
            chunk, used = policy.act(_batch(observation))[0], 0
        action = np.zeros(len(env.action_names), np.float32) if last else chunk[used]
        used += 1
        _record(log, env, observation, action, (reward, info), picture=last or step % picture_every == 0)
        if not last:
            observation, reward, _, _, info = env.step(action)
    return _close(log, env, task, source=source, seed=seed)


def _batch(observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value[None] for key, value in observation.items()}


def _record(
    log: _Log,
    env: SimEnv,
    observation: Mapping[str, np.ndarray],
    action: np.ndarray,
    arrived: tuple[float, Mapping[str, object]],
    *,
    picture: bool,
) -> None:
    reward, info = arrived
    log.state.append(observation["state"])
    log.action.append(action)
    log.sim_state.append(env.sim_state())
    log.reward.append(reward)
    log.progress.append(float(info["progress"]))  # type: ignore[arg-type]
    log.success.append(float(bool(info["success"])))
    log.index.append(len(log.pixels) if picture else NO_FRAME)
    if picture:
        log.pixels.append(env.frame())


def _close(log: _Log, env: SimEnv, task: Task, *, source: str, seed: int) -> Episode:
    rows = len(log.state)
    inner = np.arange(rows) < rows - 1
    truth = {"reward": log.reward, "progress": log.progress, "success": log.success}
    return Episode(
        action=np.stack(log.action).astype(np.float32),
        obs={"state": np.stack(log.state).astype(np.float32)},
        time=np.arange(rows) / task.control_hz,
        has_action=inner,
        has_next=inner.copy(),
        terminated=False,
        truncated=True,
        task=task.name,
        instruction=task.instruction,
        source=source,
        images={task.camera: Frames(np.stack(log.pixels), np.array(log.index, np.int32))},
        truth={key: np.array(value, np.float32) for key, value in truth.items()},
        sim_state=np.stack(log.sim_state),
        seed=seed,
        success=int(max(log.success) > 0),
        id=f"{task.name}-{seed:06d}",
    )


def create_store(path: Path, task: Task) -> Store:
    """An empty store that says what its columns hold and how its pictures were rendered."""
    env = make(task)
    try:
        names = {"obs/state": env.state_names, "action": env.action_names}
        meta = {"task": task.name, "control_hz": task.control_hz, "render": {task.camera: dict(env.settings())}}
    finally:
        env.close()
    return Store.create(path, names=names, units={"action": "normalised"}, meta=meta)
