"""Heads of cloning: densities by hand, what chance makes of them, windows of history, and saved ones that act alike."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_learn import bandit, constant_net
from tests.test_learners import chain
from vlmrl.errors import ConfigError
from vlmrl.learn import bc
from vlmrl.learn.batch import Batch
from vlmrl.learn.heads import MixtureActor
from vlmrl.policy import LearnedPolicy
from vlmrl.types import Transitions

SMALL = bc.Config(updates=250, batch=64, hidden=(16,), lr=1e-2, average=0.0, precision="float32")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(config: bc.Config, data: Transitions) -> bc.State:
    state, batches = bc.init(config, data, generator=seeded()), bc.batches(config, data, generator=seeded(1))
    for _ in range(config.updates):
        bc.update(config, state, next(batches))
    return state


def two_modes(modes: int = 2) -> bc.State:
    """A mixture that says means 0.5 and -0.5, deviations 1 and e^-1, shares 1/4 and 3/4, whatever it sees."""
    state = bc.init(dataclasses.replace(SMALL, head="mixture", modes=modes), bandit(16), generator=seeded())
    constant_net(state.actor.net, 0.0)
    out = torch.tensor([math.atanh(0.5), -math.atanh(0.5), 0.0, -1.0, 0.0, math.log(3)])
    state.actor.net.biases[-1].data[0, 0] = out
    return state


def rows(*actions: float) -> Batch:
    n = len(actions)
    return Batch(torch.zeros(n, 3), torch.tensor(actions)[:, None], *([torch.zeros(n)] * 2), torch.zeros(n, 3))


def test_a_mixture_s_loss_equals_the_hand_computed_value() -> None:
    def density(a: float, mean: float, std: float) -> float:
        return math.exp(-0.5 * ((a - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))

    wanted = [math.log(0.25 * density(a, 0.5, 1) + 0.75 * density(a, -0.5, math.exp(-1))) for a in (0.2, -1.0)]
    assert bc.loss(SMALL, two_modes(), rows(0.2, -1.0))["actor_loss"].item() == pytest.approx(
        -np.mean(wanted), rel=1e-5
    )


def test_the_mode_is_drawn_by_its_share_and_without_chance_the_likeliest_speaks() -> None:
    policy = two_modes().actor
    chance = torch.cat([torch.zeros(4000, 1), torch.randn(4000, 1, generator=seeded())], 1)
    drawn = policy.action.apply_to(policy.draw(torch.zeros(4000, 3), chance)[:, 0])[:, 0]
    assert sorted(drawn.unique().round(decimals=4).tolist()) == pytest.approx([-0.5, 0.5], abs=1e-3)
    assert (drawn < 0).float().mean().item() == pytest.approx(0.75, abs=0.03)
    still = policy.action.apply_to(policy.draw(torch.zeros(1, 3), torch.zeros(1, 2))[:, 0])
    assert still.item() == pytest.approx(-0.5, abs=1e-4)


def test_the_deterministic_head_s_loss_is_half_the_squared_error_and_it_proposes_nothing() -> None:
    for changes in ({}, {"history": 2, "recurrent": 4}):
        config = dataclasses.replace(SMALL, head="deterministic", **changes)
        state = bc.init(config, bandit(16), generator=seeded())
        constant_net(state.actor.net, math.atanh(0.5))
        batch = dataclasses.replace(rows(0.0, 1.0), obs=torch.zeros(2, 3 * config.history))
        wanted = 0.5 * 0.25 + 0.5 * math.log(2 * math.pi)
        assert bc.loss(config, state, batch)["actor_loss"].item() == pytest.approx(wanted, rel=1e-5)
        assert not bc.policy(state).proposes
        bc.update(config, state, batch)
        assert not state.actor.modes_of(batch.obs)[1].any() if changes else not state.actor.log_std.any()


def test_a_mixture_learns_two_ways_where_a_gaussian_learns_the_middle() -> None:
    side = np.random.default_rng(0).choice([-1.0, 1.0], (600, 1))
    data = dataclasses.replace(bandit(600), action=(side * 0.8).astype(np.float32))
    data.action[0], data.action[1] = 1.0, -1.0
    chance = torch.randn(300, 3, generator=seeded())
    for head, ways in (("mixture", True), ("gaussian", False)):
        policy = bc.policy(trained(dataclasses.replace(SMALL, head=head, modes=3), data))
        drawn = policy.draw(torch.from_numpy(data.obs[:300]), chance[:, : policy.chance[0]])[:, 0, 0]
        assert ((drawn.abs() - 0.8).abs().mean().item() < 0.1) == ways


@pytest.mark.parametrize("recurrent", [0, 8])
def test_history_tells_what_one_observation_cannot(recurrent: int) -> None:
    """The action is the observation of two steps ago, and observations are chance."""
    obs = np.random.default_rng(0).uniform(-1, 1, (500, 1)).astype(np.float32)
    data = dataclasses.replace(
        chain([0] * 500, [0] * 500), obs=obs, next_obs=np.roll(obs, -1, 0), action=np.roll(obs, 2, 0)
    )
    errors = {}
    for history in (1, 3):
        config = dataclasses.replace(SMALL, head="deterministic", history=history, recurrent=recurrent, updates=300)
        policy = bc.policy(trained(config, data))
        seen = np.concatenate([np.roll(obs, k, 0) for k in range(history - 1, -1, -1)], 1)[3:]
        drawn = policy.draw(torch.from_numpy(seen), torch.zeros(len(seen), *policy.chance))[:, 0]
        errors[history] = (drawn.numpy() - data.action[3:]).std() / data.action.std()
    assert errors[3] < 0.5 < 0.9 < errors[1]


def test_a_saved_recurrent_mixture_acts_as_before(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, head="mixture", history=3, recurrent=4, hidden=())
    policy = LearnedPolicy(bc.policy(bc.init(config, bandit(16), generator=seeded())), "mine")
    policy.save_pretrained(tmp_path)
    again, observations = LearnedPolicy.from_pretrained(tmp_path), {"state": np.ones((2, 3, 3), np.float32)}
    assert isinstance(again.actor, MixtureActor)
    assert again.history == 3
    np.testing.assert_array_equal(again.act(observations), policy.act(observations))
    generators = [[np.random.default_rng(k) for k in (0, 1)] for _ in range(2)]
    first, second = (p.propose(observations, 4, g) for p, g in zip((policy, again), generators, strict=True))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) > 2


def test_no_modes_and_no_history_are_refused() -> None:
    for wrong in ({"modes": 0, "head": "mixture"}, {"history": 0}):
        with pytest.raises(ConfigError, match="from 1 wanted"):
            bc.init(dataclasses.replace(SMALL, **wrong), bandit(16), generator=seeded())
