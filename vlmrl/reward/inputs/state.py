"""Low-dimensional observations."""

import numpy as np
from jaxtyping import Float32, Int64

from vlmrl.errors import DataError
from vlmrl.reward.inputs import Source
from vlmrl.store import Store
from vlmrl.types import Episode

NEXT = True


def rows(store: Store, source: Source) -> Int64[np.ndarray, " M"]:
    """Every row."""
    del source
    return np.arange(len(store))


def read(store: Store, source: Source, wanted: Int64[np.ndarray, " M"]) -> Float32[np.ndarray, "M D"]:
    """The observation's keys, joined."""
    return np.concatenate([store.column(f"obs/{key}")[wanted] for key in source.obs], axis=1)


def of_episode(episode: Episode, source: Source) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, "M D"]]:
    """Every row, and the observation's keys, joined.

    Raises:
        DataError: if one is missing.
    """
    if missing := [key for key in source.obs if key not in episode.obs]:
        raise DataError(f"episode {episode.id!r} has no observation {missing[0]!r}; have: {', '.join(episode.obs)}")
    return np.arange(len(episode)), np.concatenate([episode.obs[key] for key in source.obs], axis=1)
