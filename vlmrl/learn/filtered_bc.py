"""Behaviour cloning of the best episodes by the reward column: what a reward must be worth more than.

"10 % BC" of the offline literature (Chen et al. 2021, arXiv 2106.01345; CORL keeps the same share): whole episodes are
ranked by the sum of their rewards. Sums favour long episodes where rewards are positive; where lengths differ much,
rank by a reward that pays at the end.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlmrl.errors import ConfigError
from vlmrl.learn import bc
from vlmrl.learn.batch import Batch
from vlmrl.learn.heads import MixtureActor
from vlmrl.nn import Actor
from vlmrl.types import Transitions


@dataclass(frozen=True)
class Config(bc.Config):
    """Settings of filtered cloning."""

    top: float = 0.1
    """Share of episodes that are cloned, at least one: those with the highest sum of rewards."""


State = bc.State


def best(config: Config, transitions: Transitions) -> Transitions:
    """The transitions of the best episodes, in store order; of equal episodes the earlier.

    Raises:
        ConfigError: if the share is none.
    """
    if not 0 < config.top <= 1:
        raise ConfigError(f"top is a share of episodes above 0 and up to 1, found {config.top}")
    episodes, index = np.unique(transitions.episode, return_inverse=True)
    total = np.bincount(index, weights=transitions.reward.astype(np.float64))
    kept = np.argsort(-total, kind="stable")[: math.ceil(config.top * len(episodes))]
    rows = np.isin(index, kept)
    return transitions.take(rows)


def batches(config: Config, transitions: Transitions, *, generator: torch.Generator) -> Iterator[Batch]:
    """Endless uniform batches of the best episodes, in the network's units."""
    return bc.batches(config, best(config, transitions), generator=generator)


def init(config: Config, transitions: Transitions, *, generator: torch.Generator) -> State:
    """A fresh network whose normalisers fit the best episodes."""
    return bc.init(config, best(config, transitions), generator=generator)


def loss(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """Mean negative log-likelihood."""
    return bc.loss(config, state, batch)


def update(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """One gradient step."""
    return bc.update(config, state, batch)


def policy(state: State) -> Actor | MixtureActor:
    """The learned actor, its weights averaged over training."""
    return bc.policy(state)
