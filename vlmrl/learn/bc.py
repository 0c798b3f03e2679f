"""Behaviour cloning: maximum likelihood of the logged actions, reward unread. The baseline that must be beaten."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlmrl.learn.batch import Batch, average, cosine, descend, sample
from vlmrl.nn import Actor, Normaliser, product_dtype, together
from vlmrl.types import Transitions


@dataclass(frozen=True)
class Config:
    """Settings of behaviour cloning; network and schedule as IQL's actor, so that the two compare."""

    updates: int = 10_000
    batch: int = 256
    hidden: tuple[int, ...] = (256, 256)
    lr: float = 3e-4
    layer_norm: bool = True
    average: float = 1e-3
    """Rate of the running average of the actor's weights that is the policy; 0: the last weights."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; auto takes bfloat16 where the processor multiplies it natively."""


@dataclass
class State:
    """Everything that an update changes."""

    actor: Actor
    averaged: Actor
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    dtype: torch.dtype


def batches(config: Config, transitions: Transitions, *, generator: torch.Generator) -> Iterator[Batch]:
    """Endless uniform batches, in the network's units."""
    return sample(transitions, transitions.reward, config.batch, generator=generator)


def init(config: Config, transitions: Transitions, *, generator: torch.Generator) -> State:
    """A fresh network whose normalisers fit `transitions`."""
    obs, action = Normaliser.standard(transitions.obs), Normaliser.range(transitions.action)
    actor = Actor(obs, action, hidden=config.hidden, layer_norm=config.layer_norm, generator=generator)
    optimiser = torch.optim.Adam(actor.parameters(), lr=config.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: cosine(step, config.updates))
    return State(actor, copy.deepcopy(actor), optimiser, schedule, product_dtype(config.precision))


def loss(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """Mean negative log-likelihood."""
    out = together([(state.actor.net, batch.obs)], state.dtype)[0]
    return {"actor_loss": -state.actor.log_prob(torch.tanh(out[0]), batch.action).mean()}


def update(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """One gradient step."""
    losses = loss(config, state, batch)
    descend(state.optimiser, losses["actor_loss"])
    state.schedule.step()
    average(state.averaged, state.actor, config.average or 1.0, step=state.schedule.last_epoch)
    return {name: value.detach() for name, value in losses.items()}


def policy(state: State) -> Actor:
    """The learned actor, its weights averaged over training."""
    return state.averaged
