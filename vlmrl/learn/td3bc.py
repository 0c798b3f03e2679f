"""TD3+BC (Fujimoto, Gu 2021, arXiv 2106.06860): a deterministic actor that climbs its critics and is held to the data.

Defaults are the paper's (alpha 2.5, smoothing 0.2 clipped at 0.5, an actor step every second update, targets that
follow at 0.005, standardised observations), but for a reward brought to zero mean and unit deviation and LayerNorm in
the critics, as in `iql`.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlmrl.learn.batch import Batch, descend, polyak, sample, standardise_reward
from vlmrl.nn import Actor, Critic, Normaliser, StackedMLP
from vlmrl.types import Transitions


@dataclass(frozen=True)
class Config:
    """Settings of TD3+BC; the paper's values where not said otherwise."""

    updates: int = 10_000
    batch: int = 256
    hidden: tuple[int, ...] = (256, 256)
    lr: float = 3e-4
    discount: float = 0.99
    polyak: float = 0.005
    """Rate at which the targets of critics and actor follow."""
    alpha: float = 2.5
    """Weight of the value, in units of its mean size in the batch, against the squared distance to the data."""
    noise: float = 0.2
    """Deviation of the smoothing noise on target actions, in units of half the data's range."""
    noise_clip: float = 0.5
    delay: int = 2
    """Updates of the critics to one of the actor."""
    layer_norm: bool = True
    """Not in the paper."""
    normalise_reward: bool = True
    """Not in the paper. Zero mean, unit deviation; scale only where episodes terminate."""


@dataclass
class State:
    """Everything that an update changes."""

    q: StackedMLP
    target_q: StackedMLP
    actor: Actor
    target_actor: Actor
    critic_optimiser: torch.optim.Optimizer
    actor_optimiser: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    actor_loss: Tensor | None = None
    """Of the actor's last step."""


def batches(config: Config, transitions: Transitions, *, generator: torch.Generator) -> Iterator[Batch]:
    """Endless uniform batches, in the networks' units."""
    reward = standardise_reward(transitions) if config.normalise_reward else transitions.reward
    return sample(transitions, reward, config.batch, generator=generator)


def init(config: Config, transitions: Transitions, *, generator: torch.Generator) -> State:
    """Fresh networks whose normalisers fit `transitions`."""
    obs, action = Normaliser.standard(transitions.obs), Normaliser.range(transitions.action)
    sizes = (transitions.obs.shape[1] + transitions.action.shape[1], *config.hidden, 1)
    q = StackedMLP(2, sizes, layer_norm=config.layer_norm, generator=generator)
    actor = Actor(obs, action, hidden=config.hidden, layer_norm=False, generator=generator, proposes=False)
    return State(
        q,
        copy.deepcopy(q),
        actor,
        copy.deepcopy(actor),
        critic_optimiser=torch.optim.Adam(q.parameters(), lr=config.lr, fused=True),
        actor_optimiser=torch.optim.Adam(actor.net.parameters(), lr=config.lr, fused=True),
        generator=generator,
    )


def critic_loss(config: Config, state: State, batch: Batch) -> Float[Tensor, ""]:
    """(r + gamma * mask * min Q'(s', pi'(s') + noise) - Q)^2, averaged over the batch and summed over both critics."""
    with torch.no_grad():
        noise = config.noise * torch.randn(batch.action.shape, generator=state.generator).to(batch.action)
        after = torch.tanh(state.target_actor.net(batch.next_obs)[0])
        after = (after + noise.clamp(-config.noise_clip, config.noise_clip)).clamp(-1, 1)
        value = state.target_q(torch.cat([batch.next_obs, after], -1))[..., 0].amin(0)
        wanted = batch.reward + config.discount * batch.mask * value
    return (state.q(torch.cat([batch.obs, batch.action], -1))[..., 0] - wanted).square().mean(1).sum()


def actor_loss(config: Config, state: State, batch: Batch) -> Float[Tensor, ""]:
    """-alpha * mean Q1(s, pi(s)) / mean |Q1(s, pi(s))| + mean (pi(s) - a)^2."""
    action = torch.tanh(state.actor.net(batch.obs)[0])
    q = state.q(torch.cat([batch.obs, action], -1))[0, :, 0]
    scale = config.alpha / q.abs().mean().detach().clamp(min=1e-8)
    return -scale * q.mean() + (action - batch.action).square().mean()


def loss(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """Both losses at the present parameters."""
    return {"critic_loss": critic_loss(config, state, batch), "actor_loss": actor_loss(config, state, batch)}


def update(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """One gradient step on the critics; every `delay` updates one on the actor, and the targets follow."""
    critic = critic_loss(config, state, batch)
    descend(state.critic_optimiser, critic)
    if state.actor_loss is None or state.step % config.delay == 0:
        # The actor's gradient also passes through the critics, whose weights must not take it.
        state.q.requires_grad_(False)
        state.actor_loss = actor_loss(config, state, batch)
        descend(state.actor_optimiser, state.actor_loss)
        state.q.requires_grad_(True)
        polyak(state.target_q, state.q, config.polyak)
        polyak(state.target_actor, state.actor, config.polyak)
    state.step += 1
    return {"critic_loss": critic.detach(), "actor_loss": state.actor_loss.detach()}


def policy(state: State) -> Actor:
    """The learned actor."""
    return state.actor


def critic(state: State) -> Critic:
    """The two action values, as their targets hold them."""
    return Critic(state.actor.observation, state.actor.action, state.target_q)
