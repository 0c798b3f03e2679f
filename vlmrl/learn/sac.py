"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905): twin critics, a tanh Gaussian, a temperature that adapts.

It is made to learn on-line (`vlmrl data learn`), where it leaves policies of every skill to collect data with. On logs
alone it believes values of actions that the logs never show: take `iql` there. Differences from the paper: mean and
deviation have a network each, rewards are divided by their deviation in the first data (a temperature of 0.1 then means
the same in every task), and that temperature is where it starts, as in RL-VLM-F. Value targets bootstrap through
truncation: only a termination ends them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlmrl.learn.batch import Batch, descend, polyak, sample
from vlmrl.learn.looking import sees
from vlmrl.nn import Actor, Critic, Normaliser, StackedMLP, together
from vlmrl.types import Transitions

LOG_STD = (-5.0, 2.0)
"""Between which the logarithm of the deviation moves."""


@dataclass(frozen=True)
class Config:
    """Settings of soft actor-critic; the paper's values where not said otherwise."""

    updates: int = 10_000
    """Of `vlmrl train`; on-line learning makes one a step."""
    batch: int = 256
    hidden: tuple[int, ...] = (256, 256)
    lr: float = 3e-4
    discount: float = 0.99
    polyak: float = 0.005
    """Rate at which the target critics follow."""
    temperature: float = 0.1
    """Initial alpha: the weight of entropy against reward."""
    target_entropy: float | None = None
    """Towards which alpha steers, nats; null: minus the number of actions."""
    layer_norm: bool = False
    normalise_reward: bool = True
    """Not in the paper. Divide by the deviation of the first data's reward."""


@dataclass
class State:
    """Everything that an update changes."""

    q: StackedMLP
    target: StackedMLP
    actor: Actor
    """Its network gives the mean before tanh."""
    spread: StackedMLP
    """Gives the deviation before tanh, as `log_std` reads it."""
    log_temperature: Tensor
    scale: float
    """Of rewards."""
    critic_optimiser: torch.optim.Optimizer
    actor_optimiser: torch.optim.Optimizer
    temperature_optimiser: torch.optim.Optimizer
    generator: torch.Generator


def batches(config: Config, transitions: Transitions, *, generator: torch.Generator) -> Iterator[Batch]:
    """Endless uniform batches, in the networks' units."""
    return sample(transitions, transitions.reward, config.batch, generator=generator)


def init(config: Config, transitions: Transitions, *, generator: torch.Generator) -> State:
    """Fresh networks whose normalisers fit `transitions`."""
    obs, action = Normaliser.standard(transitions.obs), Normaliser.range(transitions.action)
    obs, eyes = sees(obs, transitions, generator=generator)
    width_obs, width_action = len(obs.shift), transitions.action.shape[1]

    def net(members: int, width: int, out: int) -> StackedMLP:
        return StackedMLP(members, (width, *config.hidden, out), layer_norm=config.layer_norm, generator=generator)

    q, target = net(2, width_obs + width_action, 1), net(2, width_obs + width_action, 1)
    target.load_state_dict(q.state_dict())
    actor = Actor(
        obs,
        action,
        hidden=config.hidden,
        layer_norm=config.layer_norm,
        generator=generator,
        proposes=False,
        eyes=eyes,
    )
    spread = net(1, width_obs, width_action)
    log_temperature = torch.tensor(math.log(config.temperature), requires_grad=True)
    deviation = float(transitions.reward.std())
    return State(
        q,
        target,
        actor,
        spread,
        log_temperature,
        scale=deviation if config.normalise_reward and deviation > 1e-8 else 1.0,
        # It is the critics that teach the eyes (Yarats et al. 2022, arXiv 2107.09645).
        critic_optimiser=torch.optim.Adam(
            [*q.parameters(), *(eyes.parameters() if eyes else ())], lr=config.lr, fused=True
        ),
        actor_optimiser=torch.optim.Adam([*actor.net.parameters(), *spread.parameters()], lr=config.lr, fused=True),
        temperature_optimiser=torch.optim.Adam([log_temperature], lr=config.lr),
        generator=generator,
    )


def log_std(out: Float[Tensor, "B A"]) -> Float[Tensor, "B A"]:
    """Logarithm of the deviation, moved smoothly into its bounds."""
    low, high = LOG_STD
    return low + 0.5 * (high - low) * (torch.tanh(out) + 1)


def squashed_log_prob(
    noise: Float[Tensor, "B A"], log_std: Float[Tensor, "B A"], before: Float[Tensor, "B A"]
) -> Float[Tensor, " B"]:
    """Log-density of a = tanh(u), u = mean + std * noise: log N(u) - sum log(1 - tanh(u)^2), without cancellation."""
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    slope = 2 * (math.log(2) - before - torch.nn.functional.softplus(-2 * before))
    return (gaussian - slope).sum(-1)


def draw(state: State, obs: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B A"], Float[Tensor, " B"]]:
    """An action of the policy at each observation, and its log-density, in the networks' units; has a gradient."""
    mean, spread = together([(state.actor.net, obs), (state.spread, obs)])
    deviation = log_std(spread[0])
    noise = torch.randn(mean[0].shape, generator=state.generator).to(mean)
    before = mean[0] + deviation.exp() * noise
    return torch.tanh(before), squashed_log_prob(noise, deviation, before)


@torch.inference_mode()
def explore(state: State, obs: Float[Tensor, "B D"]) -> Float[Tensor, "B A"]:
    """Actions drawn from the policy, raw observations in, raw actions out."""
    return state.actor.action.invert(draw(state, state.actor.observation.apply_to(obs))[0])


def critic_loss(config: Config, state: State, batch: Batch) -> Float[Tensor, ""]:
    """(r + gamma * mask * (min Q(s', a') - alpha * log pi(a'|s')) - Q)^2, averaged over the batch, summed over both."""
    with torch.no_grad():
        action, log_prob = draw(state, batch.next_obs)
        after = state.target(torch.cat([batch.next_obs, action], -1))[..., 0].amin(0)
        value = after - state.log_temperature.exp() * log_prob
        wanted = batch.reward / state.scale + config.discount * batch.mask * value
    return (state.q(torch.cat([batch.obs, batch.action], -1))[..., 0] - wanted).square().mean(1).sum()


def actor_losses(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """Mean alpha * log pi - min Q over drawn actions, and -alpha * (log pi + target entropy)."""
    action, log_prob = draw(state, batch.obs)
    q = state.q(torch.cat([batch.obs, action], -1))[..., 0].amin(0)
    alpha = state.log_temperature.exp()
    wanted = -float(action.shape[1]) if config.target_entropy is None else config.target_entropy
    return {
        "actor_loss": (alpha.detach() * log_prob - q).mean(),
        "temperature_loss": -(alpha * (log_prob.detach() + wanted)).mean(),
    }


def loss(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """The three losses at the present parameters."""
    return {"critic_loss": critic_loss(config, state, batch), **actor_losses(config, state, batch)}


def update(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """One gradient step on the critics, then on actor and temperature with the new critics, then the targets."""
    critic = critic_loss(config, state, batch)
    descend(state.critic_optimiser, critic)
    # The actor's gradient also passes through the critics, whose weights must not take it.
    state.q.requires_grad_(False)
    losses = actor_losses(config, state, batch)
    descend(state.actor_optimiser, losses["actor_loss"])
    state.q.requires_grad_(True)
    descend(state.temperature_optimiser, losses["temperature_loss"])
    polyak(state.target, state.q, config.polyak)
    return {name: value.detach() for name, value in ({"critic_loss": critic} | losses).items()}


def policy(state: State) -> Actor:
    """The mean of the learned Gaussian, squashed."""
    return state.actor


def critic(state: State) -> Critic:
    """The two action values, as their targets hold them."""
    return Critic(state.actor.observation, state.actor.action, state.target, state.actor.eyes)
