"""Recorded actions executed again from where the recording began, and how far that leads from what was recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32

from vlmrl.errors import ConfigError, DataError
from vlmrl.evaluate.record import Recipe, Start, episode, seeded
from vlmrl.sim import SimEnv, Task
from vlmrl.store import Store
from vlmrl.types import Episode

DEVIATION = "deviation"
"""Truth column: largest difference of a row's observation from the recorded one."""


@dataclass(frozen=True)
class Reproduction:
    """How well replayed episodes agree with what was recorded."""

    episodes: int
    exact: int
    """Whose every observation equals the recorded one to the bit."""
    worst: float
    """Largest difference of an observation, in its own unit."""
    where: str
    """Episode and row of it."""

    def __str__(self) -> str:
        if self.exact == self.episodes:
            return f"{self.episodes} of {self.episodes} episodes reproduce exactly"
        return (
            f"{self.exact} of {self.episodes} episodes reproduce exactly; "
            f"observations differ by up to {self.worst:.3g} ({self.where})"
        )


class Recorded:
    """The actions of a recording, whatever is observed."""

    name = "replay"

    def __init__(self, actions: Float32[np.ndarray, "T A"]) -> None:
        self._actions = actions

    def reset(self, mask: Bool[np.ndarray, " B"], instructions: Sequence[str], generator: np.random.Generator) -> None:
        """Nothing to forget."""
        del mask, instructions, generator

    def act(self, observations: Mapping[str, np.ndarray]) -> Float[np.ndarray, "B T A"]:
        """All of them, as one chunk."""
        del observations
        return self._actions[None]


def check(task: Task, source: Store) -> None:
    """Refuse recordings that this task cannot execute, before anything is replayed.

    Raises:
        ConfigError: what was found, and what is wanted.
    """
    tasks = set(source.episodes.task)
    if tasks != {task.name}:
        raise ConfigError(
            f"{source.path} holds episodes of {', '.join(sorted(tasks)) or 'nothing'}, not of {task.name}"
        )
    if "sim_state" not in source.columns() and (source.episodes.seed < 0).any():
        raise ConfigError(f"{source.path} holds neither the simulator's state nor a seed: where did an episode begin?")


def replayed(env: SimEnv, recorded: Episode, recipe: Recipe) -> Episode:
    """Execute the actions of a recording again, from its first state.

    The row-wise distance from what was recorded goes into `truth/deviation`.

    Raises:
        DataError: if the actions are not this task's.
    """
    actions = recorded.action[recorded.has_action][: recipe.steps]
    if actions.shape[1] != len(env.action_names):
        raise DataError(
            f"episode {recorded.id!r} has actions of {actions.shape[1]} numbers, {env.task.name} takes "
            f"{len(env.action_names)}"
        )
    done = episode(env, Recorded(actions), recipe, _beginning(recorded))
    return _compared(done, recorded)


def reproduction(store: Store) -> Reproduction:
    """Read how well the episodes of a store of replays agree with their recordings."""
    deviation, table = store.column(f"truth/{DEVIATION}"), store.episodes
    worst = np.array([deviation[a:b].max() for a, b in zip(table.start, table.stop, strict=True)])
    k = int(worst.argmax())
    row = int(deviation[table.start[k] : table.stop[k]].argmax())
    return Reproduction(len(table), int((worst == 0).sum()), float(worst[k]), f"row {row} of {table.id[k]}")


def _beginning(recorded: Episode) -> Start:
    states = recorded.sim_state
    if states is None:
        return seeded(recorded.seed)
    return lambda env: env.reset(seed=max(recorded.seed, 0), options={"sim_state": states[0]})


def _compared(done: Episode, recorded: Episode) -> Episode:
    rows = min(len(done), len(recorded))
    keys = [key for key in done.obs if key in recorded.obs and done.obs[key].shape[1:] == recorded.obs[key].shape[1:]]
    if not keys:
        raise DataError(
            f"episode {recorded.id!r} was recorded with observations {sorted(recorded.obs)}, none comparable"
        )
    difference = np.zeros(len(done), np.float32)
    for key in keys:
        apart = np.abs(done.obs[key][:rows] - recorded.obs[key][:rows]).max(1)
        difference[:rows] = np.maximum(difference[:rows], apart)
    return replace(done, truth={**done.truth, DEVIATION: difference})
