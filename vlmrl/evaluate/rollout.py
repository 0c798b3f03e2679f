"""The one rollout loop for simulation: any policy, distinct seeded initial states, success kept by episode."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from tqdm import tqdm

from vlmrl.errors import ConfigError
from vlmrl.sim import SimEnv, Task, make
from vlmrl.types import Policy

FIRST_EVALUATION_SEED = 1_000_000
"""Initial states of evaluation lie above this, those of collected data below."""

FIRST_CURVE_SEED = 2_000_000
"""Initial states of learning curves: neither those of the data nor those of the evaluation."""


@dataclass(frozen=True)
class Rollouts:
    """What a policy did from each initial state."""

    policy: str
    seeds: Int64[np.ndarray, " N"]
    success: Bool[np.ndarray, " N"]
    """Whether the task's predicate held at any step."""
    returns: Float32[np.ndarray, " N"]
    """Undiscounted sum of the simulator's own reward over the horizon."""
    first_success: Int64[np.ndarray, " N"]
    """Step of the first success, -1 where there was none."""
    weights: str = ""
    """Fingerprint of the policy's saved weights."""
    video: list[UInt8[np.ndarray, "H W 3"]] = field(default_factory=list, repr=False)
    """Pictures of the first initial state."""


def evaluation_seeds(count: int) -> list[int]:
    """The initial states that all policies share."""
    return list(range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + count))


def rollout(
    task: Task,
    policy: Policy,
    seeds: Sequence[int],
    *,
    batch: int = 10,
    film_every: int = 0,
    envs: Sequence[SimEnv] | None = None,
    quiet: bool = True,
) -> Rollouts:
    """Run one episode from each seed, `batch` at a time, to the task's horizon.

    Every episode runs its full length whatever happens, so that returns compare; `film_every` > 0 keeps a picture of
    the first episode every so many steps. `envs` are environments of the task to use and leave open.

    Raises:
        ConfigError: if seeds repeat (the same initial state would count twice).
    """
    if len(set(seeds)) != len(seeds):
        raise ConfigError("evaluation seeds repeat: every episode needs its own initial state")
    success, returns, first = [], [], []
    video: list[UInt8[np.ndarray, "H W 3"]] = []
    borrowed, batch = envs is not None, batch if envs is None else len(envs)
    envs = envs if envs is not None else [make(task) for _ in range(min(batch, len(seeds)))]
    try:
        with tqdm(total=len(seeds), desc=policy.name, unit="episode", disable=quiet, leave=False) as bar:
            for k in range(0, len(seeds), batch):
                wave = seeds[k : k + batch]
                film = video if k == 0 and film_every else None
                steps, total = _wave(task, policy, envs[: len(wave)], wave, film=film, film_every=film_every)
                success += [step >= 0 for step in steps]
                first += steps
                returns += total
                bar.update(len(wave))
    finally:
        for env in envs if not borrowed else ():
            env.close()
    return Rollouts(
        policy.name,
        np.array(seeds),
        np.array(success),
        np.array(returns, np.float32),
        np.array(first),
        video=video,
    )


def _wave(
    task: Task,
    policy: Policy,
    envs: Sequence[SimEnv],
    seeds: Sequence[int],
    *,
    film: list[UInt8[np.ndarray, "H W 3"]] | None,
    film_every: int,
) -> tuple[list[int], list[float]]:
    """One episode in every environment; the step of each first success (-1: none) and each return."""
    observations = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
    everyone = np.ones(len(envs), np.bool_)
    policy.reset(everyone, [task.instruction] * len(envs), np.random.default_rng(seeds[0]))
    first, total, ended = [-1] * len(envs), [0.0] * len(envs), [False] * len(envs)
    chunk, used = np.zeros((len(envs), 0, 0)), 0
    for step in range(task.horizon):
        if used == chunk.shape[1]:
            stacked = {key: np.stack([obs[key] for obs in observations]) for key in observations[0]}
            chunk, used = policy.act(stacked), 0
        for k, env in enumerate(envs):
            if ended[k]:
                continue
            if k == 0 and film is not None and step % film_every == 0:
                film.append(env.frame(task.video))
            observations[k], reward, terminated, truncated, info = env.step(chunk[k, used])
            total[k] += reward
            ended[k] = terminated or truncated
            if info["success"] and first[k] < 0:
                first[k] = step
        used += 1
    if film is not None:
        film.append(envs[0].frame(task.video))
    return first, total
