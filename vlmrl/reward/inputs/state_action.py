"""Low-dimensional observations with the action that followed: judges the transition that starts at a row."""

import numpy as np
from jaxtyping import Float32, Int64

from vlmrl.reward.inputs import Source, state
from vlmrl.store import Store
from vlmrl.types import Episode

NEXT = False


def rows(store: Store, source: Source) -> Int64[np.ndarray, " M"]:
    """Rows with an action."""
    del source
    return np.flatnonzero(store.column("has_action"))


def read(store: Store, source: Source, wanted: Int64[np.ndarray, " M"]) -> Float32[np.ndarray, "M D"]:
    """The observation's keys, then the action."""
    return np.concatenate([state.read(store, source, wanted), store.column("action")[wanted]], axis=1)


def of_episode(episode: Episode, source: Source) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, "M D"]]:
    """Rows with an action, and the observation's keys, then the action."""
    found, obs = np.flatnonzero(episode.has_action), state.of_episode(episode, source)[1]
    return found, np.concatenate([obs, episode.action], axis=1)[found]
