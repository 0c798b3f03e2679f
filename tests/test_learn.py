"""Learners: losses against hand-computed numbers, order of updates, and a tiny problem with a known optimum."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from vlmrl.errors import ConfigError
from vlmrl.learn import LEARNERS, bc, cpl, diffusion, idql, iql, learner
from vlmrl.learn.batch import Batch, polyak, standardise_reward
from vlmrl.nn import Actor, Normaliser, StackedMLP, together
from vlmrl.reward.pairs import Pairs
from vlmrl.types import Transitions

PAPER = iql.Config(
    updates=1000,
    hidden=(32, 32),
    layer_norm=False,
    polyak=0.005,
    normalise_reward=False,
    normalise_advantage=False,
    order="paper",
    precision="float32",
)


def bandit(n: int = 2000, *, seed: int = 0) -> Transitions:
    """One step, then the end: reward is -|a - 0.5| and the data's actions are uniform, so cloning learns 0."""
    generator = np.random.default_rng(seed)
    action = generator.uniform(-1, 1, (n, 1)).astype(np.float32)
    obs = generator.normal(size=(n, 3)).astype(np.float32)
    return Transitions(
        obs=obs,
        action=action,
        reward=-np.abs(action[:, 0] - 0.5),
        mask=np.zeros(n, np.float32),
        next_obs=obs,
        episode=np.arange(n, dtype=np.int32),
    )


def constant_net(net: StackedMLP, value: float) -> None:
    """Make every member return `value` whatever it sees."""
    with torch.no_grad():
        for weight in net.weights:
            weight.zero_()
        for bias in net.biases:
            bias.zero_()
        net.biases[-1].fill_(value)


def test_expectile_loss_weighs_under_and_overestimates_as_the_paper_says() -> None:
    difference = torch.tensor([2.0, -1.0])
    assert iql.expectile_loss(difference, 0.7).item() == pytest.approx((0.7 * 4 + 0.3 * 1) / 2)
    assert iql.expectile_loss(difference, 0.5).item() == pytest.approx(0.5 * difference.square().mean().item())


def test_iql_losses_equal_hand_computed_values() -> None:
    transitions = bandit(16)
    state = iql.init(PAPER, transitions, generator=torch.Generator().manual_seed(0))
    constant_net(state.q, 1.0)
    constant_net(state.v, 0.5)
    constant_net(state.target, 2.0)
    constant_net(state.actor.net, 0.0)
    batch = Batch(
        obs=torch.zeros(2, 3),
        action=torch.tensor([[0.0], [1.0]]),
        reward=torch.tensor([1.0, 2.0]),
        mask=torch.tensor([1.0, 0.0]),
        next_obs=torch.zeros(2, 3),
    )
    losses = iql.loss(PAPER, state, batch)
    # target Q 2, V 0.5: u = 1.5 > 0
    assert losses["value_loss"].item() == pytest.approx(0.7 * 1.5**2)
    # targets r + 0.99 * mask * 0.5 = 1.495 and 2, both critics say 1; summed over the critics
    assert losses["critic_loss"].item() == pytest.approx(2 * (0.495**2 + 1.0**2) / 2, rel=1e-5)
    # mean 0, deviation 1: -log p = a^2 / 2 + log sqrt(2 pi); weight exp(3 * 1.5) = 90.02 under the cap of 100
    nll = np.array([0.0, 0.5]) + 0.5 * math.log(2 * math.pi)
    assert losses["actor_loss"].item() == pytest.approx(math.exp(4.5) * nll.mean(), rel=1e-4)


def test_advantage_weight_is_capped() -> None:
    weight = iql.advantage_weight(PAPER, torch.tensor([0.0, 100.0]))
    assert weight.tolist() == [1.0, 100.0]


def test_normalised_advantage_does_not_depend_on_the_reward_scale() -> None:
    config = dataclasses.replace(PAPER, normalise_advantage=True, advantage_cap=1e9)
    advantage = torch.tensor([-1.0, 0.0, 2.0])
    torch.testing.assert_close(
        iql.advantage_weight(config, advantage), iql.advantage_weight(config, 1000 * advantage), rtol=1e-4, atol=1e-6
    )


def test_paper_order_lets_actor_and_critics_see_the_new_value_function() -> None:
    """After one update the critics must have regressed on V's new value, which hand calculation gives."""
    transitions = bandit(64)
    config = dataclasses.replace(PAPER, lr=0.1)
    state = iql.init(config, transitions, generator=torch.Generator().manual_seed(0))
    for net, value in ((state.q, 0.0), (state.v, 0.0), (state.target, 1.0)):
        constant_net(net, value)
    batch = Batch(torch.zeros(4, 3), torch.zeros(4, 1), torch.zeros(4), torch.ones(4), torch.zeros(4, 3))
    losses = iql.update(config, state, batch)
    # Adam's first step moves V's last bias by lr towards the target: V = 0.1, so y = 0.099 and Q = 0
    assert state.v(batch.obs)[0, 0, 0].item() == pytest.approx(0.1, rel=1e-3)
    assert losses["critic_loss"].item() == pytest.approx(2 * (0.99 * 0.1) ** 2, rel=1e-3)


def test_joint_order_uses_the_value_function_of_before() -> None:
    transitions = bandit(64)
    config = dataclasses.replace(PAPER, lr=0.1, order="joint")
    state = iql.init(config, transitions, generator=torch.Generator().manual_seed(0))
    for net, value in ((state.q, 0.0), (state.v, 0.0), (state.target, 1.0)):
        constant_net(net, value)
    batch = Batch(torch.zeros(4, 3), torch.zeros(4, 1), torch.zeros(4), torch.ones(4), torch.zeros(4, 3))
    assert iql.update(config, state, batch)["critic_loss"].item() == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize(
    "config", [PAPER, iql.Config(updates=1000, hidden=(32, 32), compile="never")], ids=["paper", "default"]
)
def test_iql_finds_the_better_actions_where_cloning_cannot(config: iql.Config) -> None:
    transitions = bandit()
    config = dataclasses.replace(config, lr=3e-3, temperature=10.0)
    state = iql.init(config, transitions, generator=torch.Generator().manual_seed(0))
    batches = iql.batches(config, transitions, generator=torch.Generator().manual_seed(1))
    for _ in range(600):
        iql.update(config, state, next(batches))
    action = iql.policy(state).act(torch.from_numpy(transitions.obs[:200])).mean().item()
    assert action == pytest.approx(0.5, abs=0.15)


def test_bc_recovers_the_mean_action_of_each_observation() -> None:
    generator = np.random.default_rng(0)
    obs = generator.normal(size=(2000, 2)).astype(np.float32)
    action = np.tanh(obs[:, :1]) * 3 + generator.normal(size=(2000, 1)).astype(np.float32) * 0.1
    data = dataclasses.replace(bandit(2000), obs=obs, next_obs=obs, action=action.astype(np.float32))
    config = bc.Config(updates=800, hidden=(64, 64), lr=3e-3)
    state = bc.init(config, data, generator=torch.Generator().manual_seed(0))
    batches = bc.batches(config, data, generator=torch.Generator().manual_seed(1))
    for _ in range(config.updates):
        bc.update(config, state, next(batches))
    error = bc.policy(state).act(torch.from_numpy(obs)).numpy() - np.tanh(obs[:, :1]) * 3
    assert np.abs(error).mean() < 0.2


def test_together_equals_each_network_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    nets = [StackedMLP(m, (d, 16, 16, o), layer_norm=True, generator=generator) for m, d, o in ((1, 3, 1), (2, 5, 4))]
    inputs = [torch.randn(7, 3), torch.randn(7, 5)]
    both = together(list(zip(nets, inputs, strict=True)))
    for net, x, out in zip(nets, inputs, both, strict=True):
        torch.testing.assert_close(net(x), out)


def test_stacked_members_are_independent_mlps() -> None:
    net = StackedMLP(2, (3, 8, 1), layer_norm=False, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, 3)
    for member in range(2):
        h = torch.relu(x @ net.weights[0][member] + net.biases[0][member])
        torch.testing.assert_close(net(x)[member], h @ net.weights[1][member] + net.biases[1][member])


def test_polyak_moves_the_target_by_its_rate() -> None:
    generator = torch.Generator().manual_seed(0)
    source, target = (StackedMLP(1, (2, 1), layer_norm=False, generator=generator) for _ in range(2))
    constant_net(source, 1.0)
    constant_net(target, 0.0)
    polyak(target, source, 0.25)
    assert target.biases[-1].item() == pytest.approx(0.25)


def test_a_shift_of_the_reward_is_removed_only_where_no_episode_terminates() -> None:
    going_on = dataclasses.replace(bandit(100), mask=np.ones(100, np.float32))
    assert standardise_reward(going_on).mean() == pytest.approx(0, abs=1e-5)
    ending = bandit(100)
    scaled = standardise_reward(ending)
    np.testing.assert_allclose(scaled / ending.reward, 1 / ending.reward.std(), rtol=1e-4)


def test_normaliser_inverts_itself_and_keeps_constant_dimensions_finite() -> None:
    x = np.random.default_rng(0).normal(3, 5, (50, 4)).astype(np.float32)
    x[:, 2] = 7
    for normaliser in (Normaliser.standard(x), Normaliser.range(x)):
        y = normaliser.apply_to(torch.from_numpy(x))
        assert torch.isfinite(y).all()
        torch.testing.assert_close(normaliser.invert(y), torch.from_numpy(x), rtol=1e-4, atol=1e-4)
        assert (y[:, 2] == 0).all()


def test_actions_outside_the_data_range_are_never_produced() -> None:
    x = np.random.default_rng(0).uniform(-2, 3, (50, 2)).astype(np.float32)
    obs = Normaliser.standard(np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32))
    generator = torch.Generator().manual_seed(0)
    actor = Actor(obs, Normaliser.range(x), hidden=(8,), layer_norm=False, generator=generator)
    action = actor.act(1e4 * torch.randn(100, 3)).numpy()
    assert (action >= x.min(0) - 1e-4).all()
    assert (action <= x.max(0) + 1e-4).all()


def test_an_unknown_learner_is_named_with_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"unknown learner 'iqll'; have: bc, calql"):
        learner("iqll")


def small(name: str) -> Any:
    """A configuration that trains in a moment."""
    chunk = {"hidden": (8, 8), "batch": 16, "history": 1, "horizon": 4, "execute": 2, "time_width": 8}
    if name == "idql":
        critic = iql.Config(hidden=(8, 8))
        return idql.Config(updates=20, samples=3, scores="first", critic=critic, actor=diffusion.Config(**chunk))
    given = chunk if name in ("diffusion", "flow") else {"hidden": (8, 8)}
    return learner(name).Config(updates=20, **given)


def with_pairs(data: Transitions, length: int, *, count: int = 100) -> cpl.Compared:
    """Comparisons of random clips of as many rows; that with the greater sum of rewards is better."""
    a, b = np.random.default_rng(1).integers(len(data) - length, size=(2, count, 1)) + np.arange(length)
    better = data.reward[a].sum(1) > data.reward[b].sum(1)
    pairs = Pairs(a, b, better.astype(np.float32), np.zeros(count, np.int64))
    return cpl.Compared(**vars(data), pairs=pairs)


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_has_the_six_names_and_trains_reproducibly(name: str) -> None:
    module, transitions = learner(name), with_pairs(bandit(200), 3)
    config = small(name)
    actions = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        state = module.init(config, transitions, generator=generator)
        batches = module.batches(config, transitions, generator=generator)
        for _ in range(config.updates):
            info = module.update(config, state, next(batches))
            assert all(torch.isfinite(value) for value in info.values())
        assert set(module.loss(config, state, next(batches))) == set(info)
        policy = module.policy(state)
        chance = torch.randn(len(transitions), *policy.chance, generator=generator)
        actions.append(policy.draw(torch.from_numpy(transitions.obs), chance))
    assert torch.equal(*actions)
