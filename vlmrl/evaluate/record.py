"""One episode of a policy in simulation, row by row, as a store keeps it: pictures, truth and full state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vlmrl.errors import DataError
from vlmrl.evaluate.recent import Recent, pictured
from vlmrl.evaluate.rollout import fresh
from vlmrl.sim import SimEnv
from vlmrl.types import NO_FRAME, Episode, Frames, Policy, cameras, history

Start = Callable[[SimEnv], tuple[dict[str, np.ndarray], dict[str, Any]]]
"""Puts the environment at the first row; returns its observation and info."""


class DivergedError(DataError):
    """The simulation left physics: the episode is worth nothing."""


@dataclass(frozen=True)
class Recipe:
    """What an episode is called, and what is kept of it."""

    id: str
    source: str
    seed: int
    steps: int
    cameras: Sequence[str]
    picture_every: int
    """Control steps between pictures; the last row always has one."""


@dataclass
class _Log:
    """Rows of the episode under way."""

    obs: dict[str, list[np.ndarray]] = field(default_factory=dict)
    action: list[np.ndarray] = field(default_factory=list)
    sim_state: list[np.ndarray] = field(default_factory=list)
    pixels: dict[str, list[UInt8[np.ndarray, "H W 3"]]] = field(default_factory=dict)
    index: list[int] = field(default_factory=list)
    truth: dict[str, list[float]] = field(default_factory=dict)
    pictures: int = 0


def episode(env: SimEnv, policy: Policy, recipe: Recipe, start: Start) -> Episode:
    """Run and record one episode of `recipe.steps` steps, one row more.

    Raises:
        DivergedError: if the simulation diverges on the way.
    """
    policy.reset(np.ones(1, np.bool_), [env.task.instruction], fresh(max(recipe.seed, 0)))
    observation, info = start(env)
    log, reward, chunk, terminated = _Log(), 0.0, list[np.ndarray](), False
    length, looks = history(policy), cameras(policy)
    recent = Recent(length, pictured(env, observation, looks))
    for step in range(recipe.steps + 1):
        last = step == recipe.steps
        if not chunk and not last:
            chunk = list(policy.act({key: value[None] for key, value in recent.shown().items()})[0])
        action = np.zeros(len(env.action_names), np.float32) if last else chunk.pop(0)
        truth = {"reward": reward, "progress": info["progress"], "success": info["success"]}
        _record(log, observation, action, env.sim_state(), truth)
        _picture(log, env, recipe, shown=last or step % recipe.picture_every == 0)
        if last:
            break
        observation, reward, terminated, _, info = env.step(action)
        recent.add(pictured(env, observation, looks) if len(chunk) < length else observation)
        if info["diverged"]:
            raise DivergedError(f"{env.task.name} diverged at step {step + 1} of the episode from seed {recipe.seed}")
    return _close(log, env, recipe, terminated=terminated)


def seeded(seed: int) -> Start:
    """The initial state of a seed."""
    return lambda env: env.reset(seed=seed)


def _record(
    log: _Log,
    observation: Mapping[str, np.ndarray],
    action: np.ndarray,
    sim_state: np.ndarray,
    truth: Mapping[str, float],
) -> None:
    for key, value in observation.items():
        # A store keeps vectors; a point cloud can be computed again from the simulator's state.
        if value.ndim == 1:
            log.obs.setdefault(key, []).append(value)
    for key, number in truth.items():
        log.truth.setdefault(key, []).append(float(number))
    log.action.append(action)
    log.sim_state.append(sim_state)


def _picture(log: _Log, env: SimEnv, recipe: Recipe, *, shown: bool) -> None:
    log.index.append(log.pictures if shown else NO_FRAME)
    if shown:
        log.pictures += 1
        for camera in recipe.cameras:
            log.pixels.setdefault(camera, []).append(env.frame(camera))


def _close(log: _Log, env: SimEnv, recipe: Recipe, *, terminated: bool) -> Episode:
    rows = len(log.action)
    inner = np.arange(rows) < rows - 1
    index = np.array(log.index, np.int32)
    return Episode(
        action=np.stack(log.action).astype(np.float32),
        obs={key: np.stack(values).astype(np.float32) for key, values in log.obs.items()},
        time=np.arange(rows) / env.task.control_hz,
        has_action=inner,
        has_next=inner.copy(),
        terminated=terminated,
        truncated=not terminated,
        task=env.task.name,
        instruction=env.task.instruction,
        source=recipe.source,
        images={camera: Frames(np.stack(pixels), index) for camera, pixels in log.pixels.items()},
        truth={key: np.array(values, np.float32) for key, values in log.truth.items()},
        sim_state=np.stack(log.sim_state),
        seed=recipe.seed,
        success=int(log.truth["success"][-1] if env.task.success_at == "end" else max(log.truth["success"])),
        id=recipe.id,
    )
