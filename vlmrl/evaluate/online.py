"""On-line learning in a task's simulation: soft actor-critic step by step, with checkpoints of every skill on the way.

The policy sees the state; the reward is the simulator's own. The checkpoints are behaviour policies for collected data.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from tqdm import tqdm

from vlmrl.errors import ConfigError
from vlmrl.evaluate.rollout import FIRST_CURVE_SEED, rollout
from vlmrl.learn import sac
from vlmrl.learn.batch import Batch
from vlmrl.policy import LearnedPolicy
from vlmrl.runfolder import Metrics, provenance, write_json
from vlmrl.sim import SimEnv, Task, load_task, make
from vlmrl.types import Transitions

FIRST_SEED, STRIDE = 30_000_000, 100_000
"""Initial states of on-line learning, and how many belong to one seed: none is used for anything else."""


@dataclass(frozen=True)
class Config:
    """On-line learning of a task."""

    task: str = ""
    """Name of a task: `vlmrl task list`."""
    out: str = ""
    """Folder of the checkpoints, metrics and settings: a new one."""
    steps: int = 5_000
    """Control steps in the simulation, and updates: one each."""
    start: int = 500
    """First steps, with random actions and without updates; normalisers are fitted to them."""
    every: int = 250
    """Steps between checkpoints."""
    episodes: int = 10
    """In which each checkpoint is measured."""
    seed: int = 0


@dataclass(frozen=True)
class Point:
    """What a checkpoint does, without exploring."""

    step: int
    folder: Path
    mean: float
    """Return, mean over episodes."""
    success: float


class Replay:
    """Every transition so far, in the networks' units; batches are one gather and five views."""

    def __init__(self, state: sac.State, capacity: int) -> None:
        self._actor = state.actor
        obs, action = len(state.actor.observation.shift), len(state.actor.action.shift)
        self._widths = (obs, obs, action, 1, 1)
        self._table = torch.empty(capacity, sum(self._widths))
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, some: Transitions) -> None:
        """Append transitions."""
        obs, action = self._actor.observation, self._actor.action
        columns = (
            obs.apply_to(torch.from_numpy(some.obs)),
            obs.apply_to(torch.from_numpy(some.next_obs)),
            action.apply_to(torch.from_numpy(some.action)),
            torch.from_numpy(some.reward)[:, None],
            torch.from_numpy(some.mask)[:, None],
        )
        self._table[self._size : self._size + len(some)] = torch.cat(columns, 1)
        self._size += len(some)

    def draw(self, size: int, generator: torch.Generator) -> Batch:
        """A uniform batch with replacement."""
        rows = torch.randint(self._size, (size,), generator=generator)
        obs, next_obs, action, reward, mask = self._table[rows].split(self._widths, 1)
        return Batch(obs, action, reward[:, 0], mask[:, 0], next_obs)


class Walk:
    """Steps through one environment, episode after episode, each from a start of its own."""

    def __init__(self, env: SimEnv, first_seed: int) -> None:
        self._env, self._seed = env, first_seed
        self.observation: Float32[np.ndarray, " D"] = env.reset(seed=first_seed)[0]["state"]

    def step(self, action: Float32[np.ndarray, " A"]) -> Transitions | None:
        """One transition, whose next observation is the episode's own also at its end; None where it diverged."""
        before = self.observation
        seen, reward, terminated, truncated, info = self._env.step(action)
        self.observation = after = seen["state"]
        if terminated or truncated:
            self._seed += 1
            self.observation = self._env.reset(seed=self._seed)[0]["state"]
        if info["diverged"]:
            return None
        number = np.array([reward, 1 - terminated], np.float32)
        return Transitions(before[None], action[None], number[:1], number[1:], after[None], np.zeros(1, np.int32))


def learn(config: Config, learner: sac.Config, *, quiet: bool = False) -> list[Point]:
    """Learn a task and save checkpoints `out/stepNNNNNN`; one seed gives the same checkpoints always.

    Raises:
        ConfigError: if a setting makes no sense, or `out` holds something.
    """
    task = load_task(config.task)
    _check(config)
    folder = Path(config.out)
    write_json(folder / "config.json", dataclasses.asdict(config) | {"learner": dataclasses.asdict(learner)})
    write_json(folder / "meta.json", provenance())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    env = make(task)
    try:
        return _learn(env, task, config, learner, quiet=quiet)
    finally:
        env.close()
        torch.set_num_threads(threads)


def _learn(env: SimEnv, task: Task, config: Config, learner: sac.Config, *, quiet: bool) -> list[Point]:
    generator = torch.Generator().manual_seed(config.seed)
    walk = Walk(env, FIRST_SEED + config.seed * STRIDE)
    first = _random_walk(walk, config, len(env.action_names))
    state = sac.init(learner, first, generator=generator)
    buffer = Replay(state, config.steps)
    buffer.add(first)
    metrics, points = Metrics(Path(config.out) / "metrics.jsonl"), list[Point]()
    losses: dict[str, torch.Tensor] = {}
    bar = tqdm(total=config.steps, desc=task.name, unit="step", disable=quiet, mininterval=0.5, dynamic_ncols=True)
    bar.update(config.start)
    for step in range(config.start + 1, config.steps + 1):
        action = sac.explore(state, torch.from_numpy(walk.observation)[None])[0].numpy()
        if (some := walk.step(action)) is not None:
            buffer.add(some)
        losses = sac.update(learner, state, buffer.draw(learner.batch, generator))
        bar.update()
        if step % config.every == 0 or step == config.steps:
            points.append(_checkpoint(state, task, config, learner, step))
            now = {key: float(value) for key, value in losses.items()} | {"alpha": state.log_temperature.exp().item()}
            metrics.write("sac", step, now | {"return": points[-1].mean, "success": points[-1].success})
            bar.set_postfix_str(f"return {points[-1].mean:.1f}, success {points[-1].success:.0%}")
    bar.close()
    return points


def _check(config: Config) -> None:
    if not 0 < config.start < config.steps or config.every < 1 or config.episodes < 1 or config.seed < 0:
        raise ConfigError(f"wanted 0 < start < steps, every and episodes of at least 1, seed from 0, found {config}")
    folder = Path(config.out)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; choose another out=FOLDER")


def _random_walk(walk: Walk, config: Config, width: int) -> Transitions:
    generator = np.random.default_rng([config.seed, 2])
    found: Sequence[Transitions | None] = [
        walk.step(generator.uniform(-1, 1, width).astype(np.float32)) for _ in range(config.start)
    ]
    whole = [some for some in found if some is not None]
    names = [field.name for field in dataclasses.fields(Transitions) if field.name not in ("weight", "pictures")]
    columns: dict[str, Any] = {name: np.concatenate([getattr(some, name) for some in whole]) for name in names}
    return Transitions(**columns)


def _checkpoint(state: sac.State, task: Task, config: Config, learner: sac.Config, step: int) -> Point:
    folder = Path(config.out) / f"step{step:06d}"
    facts = {"task": task.name, "learner": dataclasses.asdict(learner) | {"name": "sac"}, "steps": step}
    actor = LearnedPolicy(sac.policy(state), f"SAC on {task.name}, {step:,} steps", ("state",), facts)
    seeds = range(FIRST_CURVE_SEED, FIRST_CURVE_SEED + config.episodes)
    done = rollout(task, actor, seeds)
    actor.facts = facts | {"seed": config.seed, "return": float(done.returns.mean())}
    actor.save_pretrained(folder)
    return Point(step, folder, float(done.returns.mean()), float(done.success.mean()))
