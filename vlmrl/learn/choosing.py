"""Which moment of a training to keep, by rules that look at the data alone and never at success.

`held_out`: how well the policy's draws resemble what was done in episodes that it was not trained on, by the energy
score (Gneiting and Raftery 2007), which is least for the distribution that the actions come from. `fqe`: what the
policy is worth from the first observations, by fitted Q evaluation (Le, Voloshin, Yue 2019) on the rewards that it was
trained on. The first says how well a policy imitates, the second what for; both are estimates from the same logs.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlmrl.errors import ConfigError, DataError
from vlmrl.learn.batch import drawn_rows, polyak, standardise_reward, windows
from vlmrl.nn import Normaliser, PolicyNetwork, StackedMLP
from vlmrl.types import Transitions

Rule = Literal["last", "held_out", "fqe"]
MOST_ROWS = 4_000
"""Held-out rows that are scored."""
BLOCK = 1_024


def parted(transitions: Transitions, share: float, seed: int) -> tuple[Transitions, Transitions]:
    """Transitions to train on and those held out: whole episodes, the same for one seed.

    Raises:
        ConfigError: if the share is none.
        DataError: if there are too few episodes.
    """
    if not 0 < share < 1:
        raise ConfigError(f"held_out={share} given; wanted a share of the episodes between 0 and 1")
    episodes = np.unique(transitions.episode)
    count = round(share * len(episodes))
    if not 0 < count < len(episodes):
        raise DataError(f"held_out={share} of {len(episodes)} episodes leaves nothing to train on or to hold out")
    held = np.random.default_rng(seed).choice(episodes, count, replace=False)
    out = np.isin(transitions.episode, held)
    return transitions.take(~out), transitions.take(out)


def energy_score(policy: PolicyNetwork, transitions: Transitions) -> float:
    """Mean of |x - y| - |x - x'| / 2 over rows: x, x' drawn by the policy, y what was done, in its unit of actions.

    Of what a chunk policy draws, as much is compared as it executes at once; behind an episode's end its last action
    stands. The same chance at each call.
    """
    generator = torch.Generator().manual_seed(0)
    count = len(transitions)
    rows = torch.randperm(count, generator=generator)[:MOST_ROWS].sort().values.numpy()
    seen = _seen(policy, transitions)[rows]
    first, second = (_drawn(policy, seen, generator if policy.proposes else None) for _ in range(2))
    done = transitions.action[windows(transitions, 0, first.shape[1] - 1)[rows]]
    x, other, y = (_in_unit(policy, part) for part in (first, second, torch.from_numpy(done)))
    return float(((x - y).norm(dim=1) - (x - other).norm(dim=1) / 2).mean())


def _in_unit(policy: PolicyNetwork, chunks: Float[Tensor, "B h A"]) -> Float[Tensor, "B hA"]:
    """Actions brought to their range in the data."""
    return policy.action.apply_to(chunks).flatten(1)


def fitted_value(
    policy: PolicyNetwork, transitions: Transitions, *, discount: float, updates: int = 2_000, batch: int = 512
) -> float:
    """Mean value of the policy at the first observation of each episode, in deviations of the reward.

    One value network is fitted to rewards and to its own slow copy at the next observation and the policy's first
    action there. The same chance at each call.
    """
    generator = torch.Generator().manual_seed(0)
    obs, action = Normaliser.standard(transitions.obs), Normaliser.range(transitions.action)
    before = _seen(policy, transitions)
    after = _after(policy, transitions, before)
    here = obs.apply_to(torch.from_numpy(transitions.obs))
    there = obs.apply_to(torch.from_numpy(transitions.next_obs))
    next_action = action.apply_to(_acted(policy, after, generator)[:, 0])
    done = torch.cat([here, action.apply_to(torch.from_numpy(transitions.action))], 1)
    follows = torch.cat([there, next_action], 1)
    reward, mask = torch.from_numpy(standardise_reward(transitions)), torch.from_numpy(transitions.mask)
    sizes = (done.shape[1], 256, 256, 1)
    q, slow = (StackedMLP(1, sizes, layer_norm=True, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    optimiser = torch.optim.Adam(q.parameters(), lr=3e-4, fused=True)
    rows = drawn_rows(transitions, batch, generator=generator)
    for _ in range(updates):
        k = next(rows)
        with torch.no_grad():
            target = reward[k] + discount * mask[k] * slow(follows[k])[0, :, 0]
        loss = (q(done[k])[0, :, 0] - target).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        polyak(slow, q, 0.02)
    first = np.flatnonzero(np.append(True, transitions.episode[1:] != transitions.episode[:-1]))
    starts = torch.cat([here[first], action.apply_to(_acted(policy, before[first], generator)[:, 0])], 1)
    with torch.no_grad():
        return float(q(starts)[0, :, 0].mean())


def _seen(policy: PolicyNetwork, transitions: Transitions) -> Float[np.ndarray, "N D"]:
    """What the policy looks at, row by row: the latest observations side by side."""
    around = windows(transitions, policy.history - 1, 0)
    return transitions.obs[around].reshape(len(around), -1)


def _after(
    policy: PolicyNetwork, transitions: Transitions, before: Float[np.ndarray, "N D"]
) -> Float[np.ndarray, "N D"]:
    """What it looks at one step later."""
    return np.concatenate([before, transitions.next_obs], 1)[:, transitions.obs.shape[1] :]


def _acted(policy: PolicyNetwork, seen: Float[np.ndarray, "N D"], generator: torch.Generator) -> Float[Tensor, "N h A"]:
    """As it acts: by its mean, if it has one."""
    return _drawn(policy, seen, None if policy.acts_without_chance else generator)


def _drawn(
    policy: PolicyNetwork, seen: Float[np.ndarray, "N D"], generator: torch.Generator | None
) -> Float[Tensor, "N h A"]:
    parts: list[Tensor] = []
    for block in torch.from_numpy(seen).split(BLOCK):
        shape = (len(block), *policy.chance)
        chance = torch.zeros(shape) if generator is None else torch.randn(shape, generator=generator)
        parts.append(policy.draw(block, chance))
    return torch.cat(parts)
