"""Calibrated Q-learning (Nakamoto et al. 2023, arXiv 2303.05479); with `calibrate: false` CQL (Kumar et al. 2020,
arXiv 2006.04779), of which it is a change of one line.

Soft actor-critic whose critics are pushed down where the policy would go and up on the data: alpha times
logsumexp Q(s, a~) - Q(s, a), a~ uniform, from the policy at s, and from the policy at s', each with its density. Cal-QL
does not push the policy's actions below what the data is known to have earned from there: their values enter as
max(Q, return to go), uniform ones as they are. Returns are of the very reward that the critics learn, discounted, to
the recorded end of the episode. Where recording stopped without a termination, what would have followed counts as the
mean of a reward that was brought to zero mean, and of any other as its worst for ever, as the public code counts the
failures of tasks with a cost a step: a floor must not lie above the truth. Defaults are those of V-GPS's critic (alpha
5, four actions a group, the largest of four next actions in the backup, no entropy in it), but for the reward's
standardisation.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from vlmrl.learn import sac
from vlmrl.learn.batch import Batch, descend, goes_on, looked, polyak, sample, standardise_reward
from vlmrl.nn import Actor, Critic
from vlmrl.types import Transitions


@dataclass(frozen=True)
class Config:
    """Settings of Cal-QL."""

    updates: int = 10_000
    batch: int = 256
    hidden: tuple[int, ...] = (256, 256)
    critic_lr: float = 3e-4
    actor_lr: float = 1e-4
    discount: float = 0.99
    polyak: float = 0.005
    """Rate at which the target critics follow."""
    alpha: float = 5.0
    """Weight of the conservative term."""
    calibrate: bool = True
    """Floor values of the policy's actions at the return to go; false: plain CQL."""
    actions: int = 4
    """Uniform actions, and actions of the policy at s and at s', in the conservative term; also in the backup."""
    entropy: float = 0.1
    """Initial weight of the policy's entropy; it adapts."""
    layer_norm: bool = True
    normalise_reward: bool = True
    """Zero mean, unit deviation; scale only where episodes terminate."""


State = sac.State


def batches(config: Config, transitions: Transitions, *, generator: torch.Generator) -> Iterator[Batch]:
    """Endless uniform batches with their returns to go, in the networks' units."""
    reward = standardise_reward(transitions) if config.normalise_reward else transitions.reward
    # Brought to zero mean, what follows a recording's end counts as that mean; else as the worst, for ever.
    centred = config.normalise_reward and transitions.mask.all()
    after = 0.0 if centred else min(0.0, float(reward.min())) / (1 - config.discount)
    floor = returns_to_go(transitions, reward, config.discount, after=after)
    return sample(transitions, reward, config.batch, generator=generator, to_go=floor)


def returns_to_go(
    transitions: Transitions, reward: Float32[np.ndarray, " N"], discount: float, *, after: float = 0.0
) -> Float32[np.ndarray, " N"]:
    """Discounted sum of the rewards from each row to the end of its episode.

    `after` is the value behind a row that neither terminates nor is followed: a recording's end, or a gap.
    """
    found, total = np.zeros(len(reward), np.float64), after
    followed = np.append(goes_on(transitions), False)
    for row in range(len(reward) - 1, -1, -1):
        total = float(reward[row]) + discount * float(transitions.mask[row]) * (total if followed[row] else after)
        found[row] = total
    return found.astype(np.float32)


def init(config: Config, transitions: Transitions, *, generator: torch.Generator) -> State:
    """Fresh networks whose normalisers fit `transitions`: soft actor-critic's."""
    settings = sac.Config(
        hidden=config.hidden,
        temperature=config.entropy,
        layer_norm=config.layer_norm,
        normalise_reward=False,
    )
    state = sac.init(settings, transitions, generator=generator)
    for optimiser, lr in ((state.critic_optimiser, config.critic_lr), (state.actor_optimiser, config.actor_lr)):
        for group in optimiser.param_groups:
            group["lr"] = lr
    return state


def _valued(q: torch.nn.Module, obs: Float[Tensor, "B D"], actions: Float[Tensor, "n B A"]) -> Float[Tensor, "2 n B"]:
    """Values of both critics for n actions at each observation."""
    n, count, _ = actions.shape
    both = torch.cat([obs.expand(n, -1, -1), actions], -1).reshape(n * count, -1)
    return q(both)[..., 0].reshape(2, n, count)


def _drawn(state: State, obs: Float[Tensor, "B D"], n: int) -> tuple[Float[Tensor, "n B A"], Float[Tensor, "n B"]]:
    """Actions of the policy at each observation, and their log-densities, without a gradient."""
    with torch.no_grad():
        action, log_prob = sac.draw(state, obs.repeat(n, 1))
    return action.reshape(n, len(obs), -1), log_prob.reshape(n, len(obs))


def backup(config: Config, state: State, batch: Batch) -> Float[Tensor, " B"]:
    """Target: r + gamma * mask * the largest over the policy's next actions of min Q'(s', a')."""
    actions, _ = _drawn(state, batch.next_obs, config.actions)
    with torch.no_grad():
        value = _valued(state.target, batch.next_obs, actions).amin(0).amax(0)
    return batch.reward + config.discount * batch.mask * value


def conservative_loss(config: Config, state: State, batch: Batch, q_data: Float[Tensor, "2 B"]) -> Float[Tensor, ""]:
    """The logsumexp over all groups of (Q - log density), minus Q of the data; averaged, summed over the critics."""
    n, (count, width) = config.actions, batch.action.shape
    uniform = 2 * torch.rand((n, count, width), generator=state.generator).to(batch.action) - 1
    terms = [_valued(state.q, batch.obs, uniform) + width * math.log(2)]
    for obs in (batch.obs, batch.next_obs):
        actions, log_prob = _drawn(state, obs, n)
        q = _valued(state.q, batch.obs, actions)
        if config.calibrate:
            assert batch.to_go is not None
            q = torch.maximum(q, batch.to_go)
        terms.append(q - log_prob)
    return (torch.cat(terms, 1).logsumexp(1) - q_data).mean(1).sum()


def critic_losses(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """Squared error to the backup, and the conservative term, each summed over both critics."""
    q = state.q(torch.cat([batch.obs, batch.action], -1))[..., 0]
    return {
        "critic_loss": (q - backup(config, state, batch)).square().mean(1).sum(),
        "conservative_loss": conservative_loss(config, state, batch, q),
    }


def loss(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """All losses at the present parameters."""
    return critic_losses(config, state, batch) | sac.actor_losses(sac.Config(), state, batch)


def update(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """One gradient step on the critics, then on actor and temperature with the new critics, then the targets."""
    batch = looked(state.actor.eyes, batch)
    losses = critic_losses(config, state, batch)
    descend(state.critic_optimiser, losses["critic_loss"] + config.alpha * losses["conservative_loss"])
    # The actor's gradient also passes through the critics, whose weights must not take it.
    state.q.requires_grad_(False)
    actor = sac.actor_losses(sac.Config(), state, replace(batch, obs=batch.obs.detach()))
    descend(state.actor_optimiser, actor["actor_loss"])
    state.q.requires_grad_(True)
    descend(state.temperature_optimiser, actor["temperature_loss"])
    polyak(state.target, state.q, config.polyak)
    return {name: value.detach() for name, value in (losses | actor).items()}


def policy(state: State) -> Actor:
    """The mean of the learned Gaussian, squashed."""
    return sac.policy(state)


def critic(state: State) -> Critic:
    """The two action values, as their targets hold them."""
    return sac.critic(state)
