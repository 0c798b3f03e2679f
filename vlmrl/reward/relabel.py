"""Writes a rewarder's numbers into a store as a new reward column."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from vlmrl.runfolder import commit
from vlmrl.store import Store
from vlmrl.types import NO_FRAME, Episode, Frames, Rewarder


@runtime_checkable
class Columnar(Protocol):
    """A rewarder that scores a whole store faster than its episodes one by one."""

    def column(self, store: Store) -> tuple[Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]]:
        """What `reward` gives for each episode, over all rows."""
        ...


def relabel(store: Store, rewarder: Rewarder, name: str, *, facts: Mapping[str, Any] | None = None) -> None:
    """Add `reward/<name>` over the whole store; a column of this name that is there already is left as it is.

    Raises:
        DataError: if the rewarder cannot judge an episode.
    """
    store.refresh()
    if name in store.rewards():
        return
    mean, std = judge(store, rewarder)
    attributes = {"rewarder": rewarder.name, "commit": commit(), **rewarder.provenance(), **(facts or {})}
    store.add_reward(name, mean, std, attributes)


def judge(store: Store, rewarder: Rewarder) -> tuple[Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]]:
    """Mean and deviation of every row of a store, without writing them.

    Raises:
        DataError: if the rewarder cannot judge an episode.
    """
    return rewarder.column(store) if isinstance(rewarder, Columnar) else _by_episode(store, rewarder)


def _by_episode(store: Store, rewarder: Rewarder) -> tuple[Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]]:
    means, stds = [], []
    rows = store.frame_rows(rewarder.sees[0]) if rewarder.sees else np.zeros(0, np.int64)
    for id in store.episodes.id:
        mean, std = rewarder.reward(_with_pictures(store, store.episode(id, images=False), rewarder, framed=rows))
        means.append(mean)
        stds.append(std)
    return np.concatenate(means), np.concatenate(stds)


def _with_pictures(store: Store, episode: Episode, rewarder: Rewarder, *, framed: Int64[np.ndarray, " M"]) -> Episode:
    """The episode with the pictures that the rewarder sees, decoded at its size."""
    if rewarder.sees is None:
        return episode
    camera, size = rewarder.sees
    start = store.episodes.start[store.episodes.index(episode.id)]
    rows = framed[slice(*np.searchsorted(framed, [start, start + len(episode)]))]
    index = np.full(len(episode), NO_FRAME, np.int32)
    index[rows - start] = np.arange(len(rows))
    return dataclasses.replace(episode, images={camera: Frames(store.frames(camera, rows, size), index)})
