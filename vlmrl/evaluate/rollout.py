"""The one rollout loop for simulation: any policy, distinct seeded initial states, success kept by episode.

What comes of a seed depends on the seed, the task and the policy alone: not on how many environments run side by side,
in how many processes, nor on what ran before. Each episode has a generator of its own; policies are told with masks.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from tqdm import tqdm

from vlmrl.errors import ConfigError, DataError
from vlmrl.evaluate.lanes import LanePool, LocalLanes, Outcome, lanes
from vlmrl.sim import SimEnv, Task
from vlmrl.types import Policy, cameras, history

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
    """Whether the task's predicate held at any step; never where the simulation failed."""
    returns: Float32[np.ndarray, " N"]
    """Undiscounted sum of the simulator's own reward over the horizon."""
    first_success: Int64[np.ndarray, " N"]
    """Step of the first success, -1 where there was none."""
    weights: str = ""
    """Fingerprint of the policy's saved weights."""
    task_version: str = ""
    """Of the task's file and scene; empty where an older file did not keep it."""
    video: list[UInt8[np.ndarray, "H W 3"]] = field(default_factory=list, repr=False)
    """Pictures of the first initial state."""
    episodes: Sequence[Outcome] = field(default=(), repr=False)
    """The same and more, episode by episode; empty where an older file did not keep it."""

    @property
    def diverged(self) -> int:
        """Episodes whose simulation failed."""
        return sum(episode.diverged for episode in self.episodes)


def evaluation_seeds(count: int) -> list[int]:
    """The initial states that all policies share."""
    return list(range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + count))


def gathered(policy: str, episodes: Sequence[Outcome], *, weights: str = "") -> Rollouts:
    """Episodes as arrays."""
    return Rollouts(
        policy,
        np.array([e.seed for e in episodes], np.int64),
        np.array([e.success for e in episodes], np.bool_),
        np.array([e.returns for e in episodes], np.float32),
        np.array([e.first_success for e in episodes], np.int64),
        weights=weights,
        video=episodes[0].film if episodes else [],
        episodes=tuple(episodes),
    )


def rollout(
    task: Task,
    policy: Policy,
    seeds: Sequence[int],
    *,
    batch: int = 10,
    workers: int = 1,
    film_every: int = 0,
    envs: Sequence[SimEnv] | LanePool | None = None,
    instructions: Sequence[str] = (),
    each: Callable[[Outcome], None] | None = None,
    quiet: bool = True,
) -> Rollouts:
    """Run one episode from each seed, `batch` at a time, to the task's horizon.

    Every episode runs its full length whatever happens, so that returns compare and early successes do not count twice;
    `film_every` > 0 keeps a picture of the first episode every so many steps. `envs` are environments of the task to
    use and leave open; `workers` > 1 spreads new ones over processes. `instructions` has one for each seed where it is
    not the task's own. `each` is called with every episode as soon as its batch is over.

    Raises:
        ConfigError: if seeds repeat (the same initial state would count twice).
        DataError: if two seeds start alike although the task does not say so, or an episode starts solved.
    """
    if len(set(seeds)) != len(seeds):
        raise ConfigError("evaluation seeds repeat: every episode needs its own initial state")
    texts = instructions or [task.instruction] * len(seeds)
    if len(texts) != len(seeds):
        raise ConfigError(f"{len(seeds)} instructions wanted, one for each seed; found {len(texts)}")
    done: list[Outcome] = []
    with (
        _opened(task, envs, min(batch, len(seeds)), workers) as pool,
        tqdm(total=len(seeds), desc=policy.name, unit="episode", disable=quiet, leave=False) as bar,
    ):
        for k in range(0, len(seeds), pool.count):
            wave = seeds[k : k + pool.count]
            film = [film_every if k + i == 0 else 0 for i in range(len(wave))]
            found = _wave(policy, pool, wave, texts[k : k + pool.count], film)
            distinct(task, [*done, *found])
            done += found
            for outcome in found if each else ():
                each(outcome)  # type: ignore[misc]
            bar.update(len(wave))
    return gathered(policy.name, done)


def distinct(task: Task, episodes: Sequence[Outcome]) -> None:
    """Refuse episodes that start alike: they are one observation, and would be counted as several.

    Raises:
        DataError: if two do, and the task does not declare it with `resets.fixed`.
    """
    if task.resets.fixed:
        return
    first: dict[str, int] = {}
    for episode in episodes:
        if (other := first.setdefault(episode.start, episode.seed)) != episode.seed:
            raise DataError(
                f"task {task.name!r}: seeds {other} and {episode.seed} start alike, so they are one observation; "
                "a task whose episodes all start alike says so with resets.fixed"
            )


def fresh(seed: int) -> np.random.Generator:
    """The generator of a policy in the episode of a seed; not the stream that draws the initial state."""
    return np.random.default_rng([seed, 1])


@contextmanager
def _opened(task: Task, envs: Sequence[SimEnv] | LanePool | None, count: int, workers: int) -> Generator[LanePool]:
    if isinstance(envs, LanePool):
        yield envs
    elif envs is not None:
        yield LanePool([LocalLanes(envs, borrowed=True)])
    else:
        with lanes(task, count, workers=workers) as pool:
            yield pool


def _wave(
    policy: Policy, pool: LanePool, seeds: Sequence[int], instructions: Sequence[str], film: Sequence[int]
) -> list[Outcome]:
    """One episode in every lane."""
    observations = pool.reset(seeds, film=film, history=history(policy), cameras=cameras(policy))
    for k, seed in enumerate(seeds):
        policy.reset(np.arange(len(seeds)) == k, list(instructions), fresh(seed))
    going = np.ones(len(seeds), np.bool_)
    while going.any():
        chunks = policy.act({key: np.stack([o[key] for o in observations]) for key in observations[0]})
        if chunks.ndim != 3 or len(chunks) != len(seeds) or not chunks.shape[1]:
            raise DataError(f"policy {policy.name!r}: chunks of ({len(seeds)}, h, A) wanted, found {chunks.shape}")
        for k, seen in enumerate(pool.run(chunks)):
            going[k] = seen is not None
            observations[k] = seen if seen is not None else observations[k]
    return pool.outcomes()
