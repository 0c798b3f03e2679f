"""Behaviour cloning: maximum likelihood of the logged actions, reward unread. The baseline that must be beaten.

The default is IQL's actor. `head=mixture` is robomimic's BC-GMM, `history=10 recurrent=400` its BC-RNN.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from vlmrl.errors import ConfigError
from vlmrl.learn.batch import Batch, average, cosine, descend, sample
from vlmrl.learn.heads import MixtureActor
from vlmrl.learn.looking import look, sees
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
    head: Literal["gaussian", "deterministic", "mixture"] = "gaussian"
    """deterministic: of deviation 1, so that the loss is half the squared error; it proposes nothing to re-rank."""
    modes: int = 5
    """Gaussians of a mixture."""
    history: int = 1
    """Observations that the policy looks at, the latest of them now."""
    recurrent: int = 0
    """Width of a two-layer LSTM over these, `hidden` above it; 0: none, they lie side by side."""
    average: float = 1e-3
    """Rate of the running average of the actor's weights that is the policy; 0: the last weights."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; auto takes bfloat16 where the processor multiplies it natively."""


@dataclass
class State:
    """Everything that an update changes."""

    actor: Actor | MixtureActor
    averaged: Actor | MixtureActor
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    dtype: torch.dtype
    loss: Callable[[Batch], dict[str, Tensor]] = field(init=False)
    """The loss at the present parameters."""


def batches(config: Config, transitions: Transitions, *, generator: torch.Generator) -> Iterator[Batch]:
    """Endless uniform batches, in the network's units."""
    return sample(
        transitions,
        transitions.reward,
        config.batch,
        generator=generator,
        history=config.history,
        bootstraps=False,
    )


def init(config: Config, transitions: Transitions, *, generator: torch.Generator) -> State:
    """A fresh network whose normalisers fit `transitions`.

    Raises:
        ConfigError: if there are no modes, or there is no history.
    """
    if config.modes < 1 or config.history < 1:
        raise ConfigError(f"modes and history from 1 wanted, found {config.modes} and {config.history}")
    obs, action = Normaliser.standard(transitions.obs), Normaliser.range(transitions.action)
    obs, eyes = sees(obs, transitions, generator=generator)
    common: dict[str, Any] = {
        "hidden": config.hidden,
        "layer_norm": config.layer_norm,
        "proposes": config.head != "deterministic",
        "generator": generator,
        "eyes": eyes,
    }
    if config.history == 1 and not config.recurrent and config.head != "mixture":
        actor = Actor(obs, action, **common)
        actor.log_std.requires_grad_(actor.proposes)
    else:
        modes = config.modes if config.head == "mixture" else 1
        actor = MixtureActor(obs, action, modes=modes, history=config.history, recurrent=config.recurrent, **common)
    optimiser = torch.optim.Adam(actor.parameters(), lr=config.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: cosine(step, config.updates))
    state = State(actor, copy.deepcopy(actor), optimiser, schedule, product_dtype(config.precision))
    state.loss = lambda batch: loss(config, state, batch)
    return state


def loss(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """Mean negative log-likelihood."""
    if isinstance(state.actor, MixtureActor):
        return {"actor_loss": -state.actor.log_prob(batch.obs, batch.action, state.dtype).mean()}
    out = together([(state.actor.net, batch.obs)], state.dtype)[0]
    return {"actor_loss": -state.actor.log_prob(torch.tanh(out[0]), batch.action).mean()}


def update(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """One gradient step."""
    losses = state.loss(replace(batch, obs=look(state.actor.eyes, batch.obs, config.history)))
    descend(state.optimiser, losses["actor_loss"])
    state.schedule.step()
    average(state.averaged, state.actor, config.average or 1.0, step=state.schedule.last_epoch)
    return {name: value.detach() for name, value in losses.items()}


def policy(state: State) -> Actor | MixtureActor:
    """The learned actor, its weights averaged over training."""
    return state.averaged
