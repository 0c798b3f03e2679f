"""Implicit Q-learning (Kostrikov, Nair, Levine 2021; losses and order as in ikostrikov/implicit_q_learning).

The default differs from the paper in five settings that a learned reward needs: LayerNorm in the networks, target
critics that follow six times faster, rewards brought to zero mean and unit deviation, advantages divided by their
deviation in the batch (so that neither scale nor offset of the reward decides how greedy the policy is), and a policy
averaged over training. Two more are for speed: one joint step for all losses, and bfloat16 products.
`conf/learner/iql_paper.yaml` turns all seven off; what remains different from the reference code is that observations
are standardised (as CORL and Offline RL-VLM-F do) and actions brought to their range in the data.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vlmrl.learn.batch import (
    Batch,
    average,
    compiled,
    cosine,
    descend,
    looked,
    polyak,
    sample,
    standardise_reward,
)
from vlmrl.learn.looking import sees
from vlmrl.nn import Actor, Critic, Normaliser, StackedMLP, product_dtype, together
from vlmrl.types import Transitions

LEAST_DEVIATION = 0.1
"""Advantages that vary less (reward's unit: one deviation) are noise and are not blown up. Without this, IQL on a
constant reward is not behaviour cloning but follows the networks' errors: a baseline that is too easy to beat."""


@dataclass(frozen=True)
class Config:
    """Settings of IQL; the paper's values where not said otherwise."""

    updates: int = 10_000
    batch: int = 256
    hidden: tuple[int, ...] = (256, 256)
    lr: float = 3e-4
    actor_lr_decay: bool = True
    """Cosine to zero over `updates`."""
    discount: float = 0.99
    polyak: float = 0.03
    """Rate at which the target critics follow; 0.005 in the paper. A value travels back one step of the task in about
    1 / polyak updates: at 0.005 a reward that only comes at the end of 100 steps needs 20,000 updates to reach the
    start, and until then policies come and go. LayerNorm is what allows more."""
    expectile: float = 0.7
    temperature: float = 3.0
    """beta: multiplies the advantage, larger is greedier."""
    advantage_cap: float = 100.0
    """Largest weight exp(beta * advantage)."""
    layer_norm: bool = True
    """Not in the paper."""
    normalise_reward: bool = True
    """Not in the paper. Zero mean, unit deviation; scale only where episodes terminate."""
    normalise_advantage: bool = True
    """Not in the paper. Divide by the batch's own deviation."""
    order: Literal["joint", "paper"] = "joint"
    """paper: V steps first, actor and critics see the new V. joint: one backward pass for all, about twice as fast."""
    average: float = 1e-3
    """Not in the paper. Rate of the running average of the actor's weights that is the policy; 0: the last weights."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; auto takes bfloat16 where the processor multiplies it natively."""
    compile: Literal["auto", "always", "never"] = "auto"
    """The joint losses by torch.compile; auto: from 20,000 updates on, where a C++ compiler is installed."""


@dataclass
class State:
    """Everything that an update changes."""

    q: StackedMLP
    target: StackedMLP
    v: StackedMLP
    actor: Actor
    averaged: Actor
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    dtype: torch.dtype
    loss: Callable[[Batch], dict[str, Tensor]] = field(init=False)
    """The joint losses at the present parameters, compiled where asked."""


def batches(config: Config, transitions: Transitions, *, generator: torch.Generator) -> Iterator[Batch]:
    """Endless uniform batches, in the networks' units."""
    reward = standardise_reward(transitions) if config.normalise_reward else transitions.reward
    return sample(transitions, reward, config.batch, generator=generator)


def init(config: Config, transitions: Transitions, *, generator: torch.Generator) -> State:
    """Fresh networks whose normalisers fit `transitions`."""
    obs, action = Normaliser.standard(transitions.obs), Normaliser.range(transitions.action)
    obs, eyes = sees(obs, transitions, generator=generator)
    width_obs, width_action = len(obs.shift), transitions.action.shape[1]

    def net(members: int, width: int) -> StackedMLP:
        sizes = (width, *config.hidden, 1)
        return StackedMLP(members, sizes, layer_norm=config.layer_norm, generator=generator)

    q, target, v = net(2, width_obs + width_action), net(2, width_obs + width_action), net(1, width_obs)
    target.load_state_dict(q.state_dict())
    actor = Actor(obs, action, hidden=config.hidden, layer_norm=config.layer_norm, generator=generator, eyes=eyes)
    # The eyes are everybody's.
    groups = [
        {"params": [*q.parameters(), *v.parameters(), *(eyes.parameters() if eyes else ())]},
        {"params": [actor.log_std, *actor.net.parameters()]},
    ]
    optimiser = torch.optim.Adam(groups, lr=config.lr, fused=True)
    rates = [lambda _: 1.0, lambda step: cosine(step, config.updates) if config.actor_lr_decay else 1.0]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rates)
    state = State(q, target, v, actor, copy.deepcopy(actor), optimiser, schedule, product_dtype(config.precision))
    state.loss = compiled(lambda batch: loss(config, state, batch), config.compile, updates=config.updates)
    return state


def expectile_loss(difference: Float[Tensor, "..."], expectile: float) -> Float[Tensor, ""]:
    """Mean |tau - 1(u < 0)| u^2 of differences u = target - prediction."""
    weight = torch.where(difference > 0, expectile, 1 - expectile)
    return (weight * difference.square()).mean()


def advantage_weight(config: Config, advantage: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """min(exp(beta * advantage), cap)."""
    if config.normalise_advantage:
        advantage = advantage / advantage.std().clamp(min=LEAST_DEVIATION)
    return torch.exp(config.temperature * advantage).clamp(max=config.advantage_cap)


def critic_loss(
    config: Config, batch: Batch, q: Float[Tensor, "2 B"], next_v: Float[Tensor, " B"]
) -> Float[Tensor, ""]:
    """(r + gamma * mask * V(s') - Q)^2, averaged over the batch and summed over both critics."""
    target = batch.reward + config.discount * batch.mask * next_v
    return (q - target).square().mean(1).sum()


def actor_loss(
    config: Config, state: State, batch: Batch, mean: Float[Tensor, "B A"], advantage: Float[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Advantage-weighted negative log-likelihood."""
    return -(advantage_weight(config, advantage) * state.actor.log_prob(mean, batch.action)).mean()


def loss(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """The three losses at the present parameters."""
    both = torch.cat([batch.obs, batch.action], -1)
    with torch.no_grad():
        target, next_v = together([(state.target, both), (state.v, batch.next_obs)], state.dtype)
    v, q, out = together([(state.v, batch.obs), (state.q, both), (state.actor.net, batch.obs)], state.dtype)
    difference = target[..., 0].amin(0) - v[0, :, 0]
    return {
        "value_loss": expectile_loss(difference, config.expectile),
        "critic_loss": critic_loss(config, batch, q[..., 0], next_v[0, :, 0]),
        "actor_loss": actor_loss(config, state, batch, torch.tanh(out[0]), difference.detach()),
    }


def update(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """One gradient step on every loss, then the target critics."""
    if config.order == "joint":
        losses = state.loss(looked(state.actor.eyes, batch))
        descend(state.optimiser, losses["value_loss"] + losses["critic_loss"] + losses["actor_loss"])
    else:
        losses = _update_in_order(config, state, batch)
    state.schedule.step()
    polyak(state.target, state.q, config.polyak)
    average(state.averaged, state.actor, config.average or 1.0, step=state.schedule.last_epoch)
    return {name: value.detach() for name, value in losses.items()}


def _update_in_order(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """The reference's order: V, then the actor and the critics with the new V (a parameter without gradient rests)."""
    pictures, batch = batch, looked(state.actor.eyes, batch)
    both = torch.cat([batch.obs, batch.action], -1)
    with torch.no_grad():
        target_q = state.target(both, state.dtype)[..., 0].amin(0)
    value_loss = expectile_loss(target_q - state.v(batch.obs, state.dtype)[0, :, 0], config.expectile)
    descend(state.optimiser, value_loss)
    if state.actor.eyes is not None:
        batch = looked(state.actor.eyes, pictures)
        both = torch.cat([batch.obs, batch.action], -1)
    with torch.no_grad():
        v, next_v = state.v(torch.cat([batch.obs, batch.next_obs]), state.dtype)[0, :, 0].chunk(2)
    q, out = together([(state.q, both), (state.actor.net, batch.obs)], state.dtype)
    losses = {
        "critic_loss": critic_loss(config, batch, q[..., 0], next_v),
        "actor_loss": actor_loss(config, state, batch, torch.tanh(out[0]), target_q - v),
    }
    descend(state.optimiser, losses["critic_loss"] + losses["actor_loss"])
    return {"value_loss": value_loss, **losses}


def policy(state: State) -> Actor:
    """The learned actor: its weights averaged over training, since single weights come and go in success."""
    return state.averaged


def critic(state: State) -> Critic:
    """The two action values, as their targets hold them."""
    return Critic(state.actor.observation, state.actor.action, state.target, state.actor.eyes)
