"""Learners beside IQL and cloning: losses against numbers worked out by hand, tiny problems solved, samplers exact."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.test_learn import bandit, constant_net
from vlmrl.errors import ConfigError, DataError
from vlmrl.learn import LEARNERS, calql, diffusion, filtered_bc, flow, idql, iql, learner, sac, td3bc
from vlmrl.learn.batch import Batch
from vlmrl.learn.checkpoint import clip_gradients, walk
from vlmrl.learn.choosing import energy_score, fitted_value, parted
from vlmrl.learn.chunks import windows
from vlmrl.learn.device import carried, move
from vlmrl.learn.macro import chunked
from vlmrl.learn.sampling import FLOW_TIME, denoise, rounds, schedule
from vlmrl.learn.unet import Convolution
from vlmrl.nn import Normaliser, StackedMLP, pick_device, together
from vlmrl.policy import LearnedPolicy, LearnedValue, RerankedPolicy
from vlmrl.types import Transitions

TINY: dict[str, Any] = {
    "hidden": (16,),
    "time_width": 16,
    "history": 1,
    "horizon": 1,
    "execute": 1,
    "batch": 64,
    "lr": 3e-3,
    "warm_up": 20,
}
WIDE: dict[str, Any] = {**TINY, "hidden": (64,), "time_width": 32}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded_numpy() -> np.random.Generator:
    return np.random.default_rng(0)


def trained(name: str, config: Any, data: Transitions) -> Any:
    module, generator = learner(name), seeded()
    state = module.init(config, data, generator=generator)
    batches = module.batches(config, data, generator=generator)
    for _ in range(config.updates):
        module.update(config, state, next(batches))
    return module.policy(state)


def chain(rewards: list[float], episodes: list[int]) -> Transitions:
    """Rows of one number that counts up; a next observation is the following row's."""
    obs = np.arange(len(rewards), dtype=np.float32)[:, None]
    return Transitions(
        obs=obs,
        action=obs / 10,
        reward=np.array(rewards, np.float32),
        mask=np.ones(len(rewards), np.float32),
        next_obs=obs + 1,
        episode=np.array(episodes, np.int32),
    )


def test_a_chunk_of_actions_is_one_with_its_discounted_rewards_and_what_follows() -> None:
    data = chain([1, 2, 4, 8, 16, 32, 64], [0, 0, 0, 0, 1, 1, 1])
    data = dataclasses.replace(data, mask=np.array([1, 1, 1, 0, 1, 1, 1], np.float32))
    found = chunked(data, 3, 0.5)
    np.testing.assert_array_equal(found.obs[:, 0], [0, 1, 4])  # those whose episode has three actions from there
    np.testing.assert_allclose(found.action, np.array([[0, 1, 2], [1, 2, 3], [4, 5, 6]]) / 10, rtol=1e-6)
    np.testing.assert_allclose(found.reward, [1 + 1 + 1, 2 + 2 + 2, 16 + 16 + 16])
    np.testing.assert_allclose(found.mask, [0.25, 0, 0.25])  # times the learner's own discount: 0.5 ** 3
    np.testing.assert_array_equal(found.next_obs[:, 0], [3, 4, 7])
    assert chunked(data, 1, 0.5) is data
    with pytest.raises(DataError, match="no episode has 5 actions"):
        chunked(data, 5, 0.5)


def later(generator: np.random.Generator) -> Transitions:
    """Two actions, the second of which pays where it is above zero."""
    action = generator.uniform(-1, 1, (2000, 1)).astype(np.float32)
    place = np.tile(np.float32([0, 1]), 1000)[:, None]
    reward = np.where(place[:, 0] == 1, np.where(action[:, 0] > 0, 1.0, -1.0), 0.0).astype(np.float32)
    mask = np.tile(np.float32([1, 0]), 1000)
    episode = np.repeat(np.arange(1000, dtype=np.int32), 2)
    return Transitions(place, action, reward, mask, place + 1, episode)


def test_idql_chooses_chunks_by_all_that_they_do() -> None:
    critic = iql.Config(hidden=(32,), lr=3e-3, compile="never")
    actor = diffusion.Config(**{**WIDE, "horizon": 2, "execute": 2})
    policy = trained("idql", idql.Config(updates=300, samples=8, critic=critic, actor=actor), later(seeded_numpy()))
    assert len(policy.critic.action.shift) == 2
    chunks = policy.draw(torch.zeros(100, 1), torch.randn(100, *policy.chance, generator=seeded()))
    assert chunks.shape == (100, 2, 1)
    assert (chunks[:, 1, 0] > 0).float().mean() > 0.9


def test_iql_of_chunks_values_what_pays_only_later(tmp_path: Path) -> None:
    """A critic of both tells chunks apart, and its policy draws two actions."""
    generator = seeded_numpy()
    data = later(generator)
    config = iql.Config(updates=400, hidden=(32,), compile="never")
    state = iql.init(config, chunked(data, 2, config.discount), generator=seeded())
    batches = iql.batches(config, chunked(data, 2, config.discount), generator=seeded())
    for _ in range(config.updates):
        iql.update(config, state, next(batches))
    LearnedValue(iql.critic(state), "critic", ("state",), chunk=2).save_pretrained(tmp_path / "critic")
    LearnedPolicy(iql.policy(state), "policy", ("state",), chunk=2).save_pretrained(tmp_path / "policy")
    critic, policy = (
        kind.from_pretrained(tmp_path / name) for kind, name in ((LearnedValue, "critic"), (LearnedPolicy, "policy"))
    )
    seen = {"state": np.zeros((1, 1), np.float32)}
    good, bad = critic.value(seen, np.float32([[[-0.5, 0.7], [-0.5, -0.7]]]))[0]
    assert good - bad > 1
    policy.reset(np.array([True]), [""], generator)
    drawn = policy.propose(seen, 4, [generator])
    assert drawn.shape == (1, 4, 2, 1)
    assert policy.act(seen)[0, 1, 0] > 0.2


def two_rows() -> Batch:
    return Batch(
        obs=torch.zeros(2, 3),
        action=torch.tensor([[0.0], [1.0]]),
        reward=torch.tensor([1.0, 2.0]),
        mask=torch.tensor([1.0, 0.0]),
        next_obs=torch.zeros(2, 3),
        to_go=torch.tensor([5.0, -5.0]),
    )


def test_filtered_cloning_keeps_the_best_episodes_whole() -> None:
    data = chain([1, 1, 5, 0, 0, 3, 3], [0, 0, 1, 2, 2, 4, 4])
    kept = filtered_bc.best(filtered_bc.Config(top=0.5), data)
    assert kept.episode.tolist() == [1, 4, 4]
    assert kept.reward.tolist() == [5, 3, 3]
    assert len(filtered_bc.best(filtered_bc.Config(top=1e-6), data)) == 2  # one episode at least: the one of 6
    with pytest.raises(ConfigError, match="share of episodes"):
        filtered_bc.best(filtered_bc.Config(top=0.0), data)


def test_td3bc_losses_equal_hand_computed_values() -> None:
    config = td3bc.Config(hidden=(8,), layer_norm=False, noise=0.0)
    state = td3bc.init(config, bandit(16), generator=seeded())
    constant_net(state.q, 1.0)
    constant_net(state.target_q, 2.0)
    constant_net(state.actor.net, math.atanh(0.5))
    losses = td3bc.loss(config, state, two_rows())
    # targets 1 + 0.99 * 2 and 2, both critics say 1; the actor says 0.5, its value 1 and 1 / mean |1| = 1
    assert losses["critic_loss"].item() == pytest.approx(2 * (1.98**2 + 1.0**2) / 2, rel=1e-5)
    assert losses["actor_loss"].item() == pytest.approx(-2.5 + 0.25, rel=1e-5)


def test_td3bc_targets_are_smoothed_within_the_clip_and_the_range() -> None:
    config = td3bc.Config(hidden=(8,), layer_norm=False, noise=100.0, noise_clip=0.25)
    state = td3bc.init(config, bandit(16), generator=seeded())
    seen: list[Tensor] = []
    state.target_q.forward = lambda both, *_: seen.append(both[:, -1]) or torch.zeros(2, len(both), 1)  # type: ignore[method-assign,func-returns-value]
    constant_net(state.target_actor.net, math.atanh(0.9))
    td3bc.critic_loss(config, state, two_rows())
    assert set(seen[0].round(decimals=3).tolist()) <= {np.float32(0.65).round(3).item(), 1.0}


def test_td3bc_actor_rests_between_its_turns() -> None:
    config = td3bc.Config(hidden=(8,), updates=4)
    state = td3bc.init(config, bandit(64), generator=seeded())
    batches, moved = td3bc.batches(config, bandit(64), generator=seeded(1)), []
    for _ in range(4):
        before = state.actor.net.weights[0].clone()
        td3bc.update(config, state, next(batches))
        moved.append(not torch.equal(before, state.actor.net.weights[0]))
    assert moved == [True, False, True, False]


def test_returns_to_go_are_discounted_and_end_with_their_episode() -> None:
    data = chain([1, 2, 4, 8, 16], [0, 0, 0, 1, 1])
    found = calql.returns_to_go(data, data.reward, 0.5)
    assert found.tolist() == [1 + 0.5 * 2 + 0.25 * 4, 2 + 0.5 * 4, 4, 8 + 0.5 * 16, 16]


def test_batches_carry_the_return_of_their_own_row_in_the_critic_s_reward() -> None:
    data = chain([1, 2, 4, 8, 16], [0, 0, 0, 1, 1])
    config = calql.Config(batch=64, normalise_reward=True, discount=0.5)
    batch = next(calql.batches(config, data, generator=seeded()))
    standard = (data.reward - data.reward.mean()) / data.reward.std()
    wanted = dict(zip(standard.round(4).tolist(), calql.returns_to_go(data, standard, 0.5).tolist(), strict=True))
    assert batch.to_go is not None
    for reward, to_go in zip(batch.reward.tolist(), batch.to_go.tolist(), strict=True):
        assert to_go == pytest.approx(wanted[min(wanted, key=lambda w: abs(w - reward))], abs=1e-5)


@pytest.mark.parametrize("calibrate", [True, False])
def test_the_conservative_loss_equals_the_hand_computed_value(calibrate: bool) -> None:
    config = calql.Config(hidden=(8,), layer_norm=False, actions=3, calibrate=calibrate)
    state = calql.init(config, bandit(16), generator=seeded())
    constant_net(state.q, 1.0)
    batch = two_rows()
    generator = state.generator.clone_state()
    found = calql.conservative_loss(config, state, batch, torch.full((2, 2), 1.0)).item()
    twin = dataclasses.replace(state, generator=generator)
    torch.rand((3, 2, 1), generator=generator)
    # the same draws again; Q is 1 everywhere, floored at 5 in the first row only
    log_prob = torch.stack([sac.draw(twin, torch.zeros(6, 3))[1].reshape(3, 2) for _ in range(2)]).reshape(6, 2)
    value = torch.tensor([5.0, 1.0]) if calibrate else torch.tensor([1.0, 1.0])
    total = 0.0
    for row in range(2):
        terms = [math.exp(1 + math.log(2))] * 3 + [math.exp(value[row] - p) for p in log_prob[:, row].tolist()]
        total += math.log(sum(terms)) - 1
    assert found == pytest.approx(2 * total / 2, rel=1e-4)


def test_the_backup_takes_the_best_of_the_policy_s_next_actions_and_stops_at_the_end() -> None:
    config = calql.Config(hidden=(8,), layer_norm=False, actions=64)
    state = calql.init(config, bandit(16), generator=seeded())
    state.target.forward = lambda both, *_: torch.stack([both[:, -1:], both[:, -1:] + 1])  # type: ignore[method-assign]
    twin = dataclasses.replace(state, generator=state.generator.clone_state())
    best = sac.draw(twin, torch.zeros(128, 3))[0].reshape(64, 2).amax(0)
    found = calql.backup(config, state, two_rows())
    assert found.tolist() == pytest.approx([1 + 0.99 * best[0].item(), 2.0], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("filtered_bc", filtered_bc.Config(updates=300, hidden=(32, 32), lr=3e-3, top=0.2)),
        ("td3bc", td3bc.Config(updates=500, hidden=(32, 32), lr=3e-3, alpha=10.0)),
        ("calql", calql.Config(updates=400, batch=64, hidden=(32, 32), critic_lr=3e-3, actor_lr=3e-3, alpha=0.1)),
        (
            "calql",
            calql.Config(
                updates=400, batch=64, hidden=(32, 32), critic_lr=3e-3, actor_lr=3e-3, alpha=0.1, calibrate=False
            ),
        ),
    ],
    ids=["filtered_bc", "td3bc", "calql", "cql"],
)
def test_the_better_actions_are_found_where_cloning_cannot(name: str, config: Any) -> None:
    data = bandit()
    action = trained(name, config, data).act(torch.from_numpy(data.obs[:200])).mean().item()
    assert action == pytest.approx(0.5, abs=0.15)


def test_windows_stop_at_the_end_of_a_run_and_repeat_its_last_row() -> None:
    data = chain([0] * 6, [0, 0, 0, 1, 1, 1])
    data.next_obs[4] = 99  # a gap inside episode 1
    assert windows(data, 0, 2).tolist() == [[0, 1, 2], [1, 2, 2], [2, 2, 2], [3, 4, 4], [4, 4, 4], [5, 5, 5]]
    assert windows(data, 1, 1).tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 4], [3, 4, 4], [5, 5, 5]]


def test_a_chunk_begins_with_the_oldest_observation_and_is_executed_from_the_latest_on() -> None:
    """Data that count: a perfect denoiser of the action's number at each place gives those of now and after."""
    data = chain([0] * 8, [0] * 8)
    config = flow.Config(hidden=(8,), time_width=8, history=3, horizon=6, execute=2, batch=200, steps=1)
    batch = next(flow.batches(config, data, generator=seeded()))
    scale = (data.obs.max() - data.obs.min()) / 2
    seen, acted = batch.obs * scale + 3.5, batch.chunk[..., 0] * scale + 3.5
    for row in range(200):
        now = round(seen[row, -1].item())
        assert seen[row].round().tolist() == [max(now - 2, 0), max(now - 1, 0), now]
        assert acted[row].round().tolist() == [min(max(now - 2 + k, 0), 7) for k in range(6)]
    policy = flow.policy(flow.init(config, data, generator=seeded()))
    places = torch.linspace(-1, 1, 6)[:, None]
    policy.net.forward = lambda x, t, s: places - x  # type: ignore[method-assign]
    drawn = policy.draw(torch.zeros(4, 3), torch.randn(4, *policy.chance, generator=seeded()))
    wanted = policy.action.invert(places[2:4]).expand(4, 2, 1)
    torch.testing.assert_close(drawn, wanted)


def test_the_denoising_loss_of_a_network_that_finds_nothing_is_the_noise_s_power() -> None:
    config = diffusion.Config(**TINY)
    state = diffusion.init(config, bandit(16), generator=seeded())
    batch = next(diffusion.batches(config, bandit(16), generator=seeded(1)))
    torch.nn.init.zeros_(state.network.net.last[1].weight)  # pyright: ignore[reportArgumentType]
    torch.nn.init.zeros_(state.network.net.last[1].bias)  # pyright: ignore[reportArgumentType]
    twin = state.generator.clone_state()
    found = diffusion.loss(config, state, batch)["denoising_loss"].item()
    torch.randint(100, (64,), generator=twin)
    assert found == pytest.approx(torch.randn(64, 1, 1, generator=twin).square().mean().item(), rel=1e-5)


def test_the_network_is_shown_the_mixture_that_the_schedule_says() -> None:
    config = diffusion.Config(**TINY)
    state = diffusion.init(config, bandit(16), generator=seeded())
    batch = next(diffusion.batches(config, bandit(16), generator=seeded(1)))
    seen: list[Tensor] = []
    state.network.net.forward = lambda x, t, s: seen.extend((x, t)) or x  # type: ignore[method-assign,func-returns-value]
    twin = state.generator.clone_state()
    diffusion.loss(config, state, batch)
    at = torch.randint(100, (64,), generator=twin)
    noise = torch.randn(64, 1, 1, generator=twin)
    # squared cosine (Nichol, Dhariwal 2021): abar(t) = f(t) / f(0), f = cos^2(((t + 0.008) / 1.008) pi / 2)
    f = torch.cos((torch.arange(101) / 100 + 0.008) / 1.008 * math.pi / 2).square()
    kept = (1 - (1 - f[1:] / f[:-1]).clamp(max=0.999)).cumprod(0)[at][:, None, None]
    torch.testing.assert_close(seen[0], kept.sqrt() * batch.chunk + (1 - kept).sqrt() * noise, rtol=1e-3, atol=1e-4)
    assert torch.equal(seen[1], at.float())


def test_the_velocity_loss_equals_the_hand_computed_value() -> None:
    config = flow.Config(**TINY)
    state = flow.init(config, bandit(16), generator=seeded())
    batch = next(flow.batches(config, bandit(16), generator=seeded(1)))
    seen: list[Tensor] = []
    state.network.net.forward = lambda x, t, s: seen.extend((x, t)) or torch.zeros_like(x)  # type: ignore[method-assign,func-returns-value]
    twin = state.generator.clone_state()
    found = flow.loss(config, state, batch)["velocity_loss"].item()
    noise = torch.randn(64, 1, 1, generator=twin)
    time = torch.rand(64, generator=twin)
    assert found == pytest.approx((batch.chunk - noise).square().mean().item(), rel=1e-5)
    mixed = noise + time[:, None, None] * (batch.chunk - noise)
    torch.testing.assert_close(seen[0], mixed, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(seen[1], FLOW_TIME * time)


SPREAD = 0.3


def perfect_noise(x: Tensor, time: Tensor, seen: Tensor) -> Tensor:
    """The noise to be expected where data are normal with deviation SPREAD."""
    kept = schedule("ddim", 100).alphas_cumprod[time.long()][:, None, None]
    return (1 - kept).sqrt() * x / (kept * SPREAD**2 + 1 - kept)


def perfect_velocity(x: Tensor, time: Tensor, seen: Tensor) -> Tensor:
    t = (time / FLOW_TIME)[:, None, None]
    return (t * SPREAD**2 - (1 - t)) / (t**2 * SPREAD**2 + (1 - t) ** 2) * x


def deviation(steps: int, *, eta: float, first: int | None = None) -> float:
    """Of what DDIM makes of unit normal numbers with `perfect_noise`: each step is linear, so variances follow."""
    f = np.cos((np.arange(101) / 100 + 0.008) / 1.008 * np.pi / 2) ** 2
    kept = np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))
    variance, stride = 1.0, 100 // steps
    for t in range(100 - stride if first is None else first, -1, -stride):
        after = kept[t - stride] if t >= stride else 1.0
        fresh = eta**2 * (1 - after) / (1 - kept[t]) * (1 - kept[t] / after)
        total = kept[t] * SPREAD**2 + 1 - kept[t]
        whole, noise = np.sqrt(kept[t]) * SPREAD**2 / total, np.sqrt(1 - kept[t]) / total
        variance = (np.sqrt(after) * whole + np.sqrt(1 - after - fresh) * noise) ** 2 * variance + fresh
    return float(np.sqrt(variance))


@pytest.mark.parametrize(
    ("sampler", "steps", "wanted"),
    [
        ("ddpm", 100, deviation(100, eta=1)),
        ("ddpm", 5, deviation(5, eta=1, first=99)),
        ("ddim", 100, deviation(100, eta=0)),
        ("ddim", 10, deviation(10, eta=0)),
        ("dpm_solver", 20, 0.94 * SPREAD),
        ("euler", 50, SPREAD),
    ],
)
def test_samplers_with_a_perfect_network_draw_what_theory_says(sampler: Any, steps: int, wanted: float) -> None:
    """Data with deviation SPREAD: DDIM loses what the recursion says, DPM-Solver less with as many steps."""
    assert deviation(20, eta=0) / SPREAD == pytest.approx(0.90, abs=0.005)
    chance = torch.randn(4000, rounds(sampler, steps), 1, 1, generator=seeded())
    network = perfect_velocity if sampler == "euler" else perfect_noise
    drawn = denoise(network, torch.zeros(4000, 1), chance, sampler=sampler, steps=steps, training_steps=100)
    assert drawn.mean().item() == pytest.approx(0, abs=5 * SPREAD / math.sqrt(4000))
    assert drawn.std().item() == pytest.approx(wanted, rel=0.05)


def test_ddpm_as_ddim_with_eta_one_takes_the_steps_of_ddpm() -> None:
    """Against the posterior of Ho et al. 2020, equations 6 and 7, with the chunk found kept within -1 and 1."""
    chance = torch.randn(5, 100, 2, 3, generator=seeded())

    def network(x: Tensor, time: Tensor, seen: Tensor) -> Tensor:
        return 0.9 * x + 0.1 * torch.sin(time)[:, None, None]

    found = denoise(network, torch.zeros(5, 1), chance, sampler="ddpm", steps=100, training_steps=100)
    kept = schedule("ddim", 100).alphas_cumprod
    x = chance[:, 0]
    for k, t in enumerate(range(99, -1, -1)):
        before = kept[t - 1] if t else torch.tensor(1.0)
        beta = 1 - kept[t] / before
        noise = network(x, torch.full((5,), float(t)), x)
        whole = ((x - (1 - kept[t]).sqrt() * noise) / kept[t].sqrt()).clamp(-1, 1)
        mean = before.sqrt() * beta / (1 - kept[t]) * whole
        mean = mean + (1 - beta).sqrt() * (1 - before) / (1 - kept[t]) * x
        deviation = ((1 - before) / (1 - kept[t]) * beta).sqrt()
        x = mean + (deviation * chance[:, k + 1] if t else 0)
    torch.testing.assert_close(found, x.clamp(-1, 1), rtol=1e-3, atol=1e-3)


def either(n: int = 1000) -> Transitions:
    """One step: half of the actions lie at -0.8 and half at 0.8, whatever is seen; the reward is the action."""
    data = bandit(n)
    action = np.where(np.random.default_rng(3).random((n, 1)) < 0.5, -0.8, 0.8).astype(np.float32)
    action += np.random.default_rng(4).normal(0, 0.05, (n, 1)).astype(np.float32)
    return dataclasses.replace(data, action=action, reward=action[:, 0])


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("diffusion", diffusion.Config(updates=400, **WIDE)),
        ("flow", flow.Config(updates=600, steps=10, **WIDE)),
    ],
)
def test_both_of_two_ways_are_learned_and_nothing_between(name: str, config: Any) -> None:
    data = either()
    policy = trained(name, config, data)
    chance = torch.randn(400, *policy.chance, generator=seeded(5))
    action = policy.draw(torch.from_numpy(data.obs[:400]), chance)[:, 0, 0]
    assert 0.3 < (action > 0).float().mean() < 0.7
    assert ((action.abs() - 0.8).abs() < 0.25).float().mean() > 0.85


def test_idql_takes_the_better_of_two_ways_and_is_its_parts_reranked(tmp_path: Path) -> None:
    data = either()
    critic = iql.Config(hidden=(32, 32), lr=3e-3, compile="never")
    config = idql.Config(updates=400, samples=8, critic=critic, actor=diffusion.Config(**WIDE))
    policy = trained("idql", config, data)
    LearnedPolicy(policy, "idql", facts={"a": 1}).save_pretrained(tmp_path)
    saved = LearnedPolicy.from_pretrained(tmp_path)
    parts = RerankedPolicy(LearnedPolicy(policy.policy, "diffusion"), LearnedValue(policy.critic, "critic"), samples=8)
    found = []
    for one in (saved, parts):
        for k in range(40):
            one.reset(np.arange(40) == k, [""] * 40, np.random.default_rng([k, 1]))
        found.append(one.act({"state": data.obs[:40]}))
    assert (found[0] > 0.5).mean() > 0.9
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize("name", ["diffusion", "flow"])
def test_a_chunk_depends_neither_on_neighbours_nor_on_saving(name: str, tmp_path: Path) -> None:
    module = learner(name)
    config = module.Config(hidden=(8, 16), time_width=8, history=1, horizon=8, execute=5, steps=3)
    policy = LearnedPolicy(module.policy(module.init(config, bandit(50), generator=seeded())), name)
    policy.save_pretrained(tmp_path)
    again = LearnedPolicy.from_pretrained(tmp_path)
    obs = bandit(50).obs[:20]
    for k in range(20):
        policy.reset(np.arange(20) == k, [""] * 20, np.random.default_rng([k, 1]))
    chunks = policy.act({"state": obs})
    assert chunks.shape == (20, 5, 1)
    for k in (0, 19):
        again.reset(np.ones(1, np.bool_), [""], np.random.default_rng([k, 1]))
        np.testing.assert_array_equal(again.act({"state": obs[k : k + 1]})[0], chunks[k])


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="horizon divisible by 2"):
        diffusion.init(diffusion.Config(hidden=(8, 8), horizon=5, execute=2), bandit(16), generator=seeded())
    with pytest.raises(ConfigError, match=r"that 8 divides wanted, found \[12\]"):
        diffusion.init(diffusion.Config(hidden=(12, 16)), bandit(16), generator=seeded())


def cloned(data: Transitions, updates: int) -> Any:
    return trained("bc", learner("bc").Config(updates=updates, hidden=(32,), lr=3e-3), data)


def graded() -> Transitions:
    """Actions half the observation; the reward is highest where the action is large."""
    generator = np.random.default_rng(0)
    obs = generator.uniform(-1, 1, (600, 1)).astype(np.float32)
    action = (obs / 2 + generator.normal(0, 0.1, obs.shape)).astype(np.float32)
    episode = np.repeat(np.arange(60, dtype=np.int32), 10)
    return Transitions(obs, action, action[:, 0], np.ones(600, np.float32), np.roll(obs, -1, 0), episode)


def test_the_energy_score_is_that_of_the_formula_and_less_for_the_better_clone() -> None:
    data = graded()
    train, held = parted(data, 0.2, seed=0)
    assert set(train.episode).isdisjoint(held.episode)
    assert len(set(held.episode)) == 12
    early, late = (energy_score(cloned(train, updates), held) for updates in (1, 400))
    assert late < early
    assert late == energy_score(cloned(train, 400), held)  # the same chance each time

    normal = cloned(data, 1)
    normal.draw = lambda obs, chance: chance[:, None]
    numbers = np.random.default_rng(1).standard_normal((600, 1)).astype(np.float32)
    score = energy_score(normal, dataclasses.replace(data, action=numbers))
    scale = normal.action
    # For standard normal numbers E|x - y| is 2 / sqrt(pi), of which the score is half, in the unit of the range.
    unit = float((scale.apply_to(torch.ones(1)) - scale.apply_to(torch.zeros(1))).abs())
    assert score / unit == pytest.approx(1 / math.sqrt(math.pi), rel=0.15)


def test_fitted_q_evaluation_ranks_policies_as_their_returns_do() -> None:
    data = graded()

    def value(action: float) -> float:
        policy = cloned(data, 1)
        policy.draw = lambda obs, chance: torch.full((len(obs), 1, 1), action)
        return fitted_value(policy, data, discount=0.5, updates=400)

    low, high = value(-0.4), value(0.4)
    # Rewards are actions in deviations: worth v / deviation now and, at discount 0.5, as much again afterwards.
    wanted = 2 * 0.8 / float(data.reward.std())
    assert high - low == pytest.approx(wanted, rel=0.25)


CHUNKS = {"hidden": (8, 16), "time_width": 8, "horizon": 8, "execute": 4}
SMALL: dict[str, dict[str, Any]] = {
    "diffusion": {"hidden": (8,), "batch": 4, **CHUNKS},
    "flow": {"hidden": (8,), "batch": 4, **CHUNKS},
    "idql": {
        "critic": iql.Config(hidden=(8,), batch=4),
        "actor": diffusion.Config(**{"batch": 4, **CHUNKS}),
        "scores": "first",
    },
}


@pytest.mark.parametrize("name", sorted(set(LEARNERS) - {"cpl"}))
def test_an_update_meets_no_tensor_of_another_device(name: str) -> None:
    # PyTorch's device "meta" holds shapes only: like a GPU it refuses to compute with what lies elsewhere.
    module, meta = learner(name), torch.device("meta")
    config = module.Config(**SMALL.get(name, {"hidden": (8,), "batch": 4}))
    state = module.init(config, bandit(32), generator=seeded())
    batch = next(carried(module.batches(config, bandit(32), generator=seeded()), meta))
    for owner, field, _, part in walk(state):
        # Between these two devices a tensor cannot stay the same one.
        if isinstance(part, Tensor) and part.requires_grad:
            setattr(owner, field, part.detach().to(meta).requires_grad_())
    move(state, meta)
    found = module.update(config, state, batch)
    assert {value.device.type for value in found.values()} == {"meta"}
    with pytest.raises((RuntimeError, NotImplementedError), match=r"meta|device"):
        module.update(config, state, next(module.batches(config, bandit(32), generator=seeded())))


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no device 'cuda:7': PyTorch finds \d+ CUDA devices here"):
        pick_device("cuda:7")
    with pytest.raises(ConfigError, match="unknown device 'tpus'"):
        pick_device("tpus")


def test_a_floor_counts_failures_that_were_cut_as_failures_for_ever() -> None:
    data = dataclasses.replace(
        bandit(4),
        episode=np.array([0, 0, 1, 1], np.int32),
        reward=np.full(4, -1, np.float32),
        mask=np.array([1, 0, 1, 1], np.float32),
    )
    data = dataclasses.replace(data, next_obs=np.roll(data.obs, -1, 0))
    config = calql.Config(batch=64, normalise_reward=False, discount=0.5)
    batch = next(calql.batches(config, data, generator=seeded()))
    assert batch.to_go is not None
    assert set(batch.to_go.tolist()) == {-1.5, -1.0, -2.0}


def test_a_gap_ends_what_a_return_to_go_adds_up() -> None:
    data = dataclasses.replace(bandit(3), episode=np.zeros(3, np.int32), mask=np.ones(3, np.float32))
    data = dataclasses.replace(data, reward=np.ones(3, np.float32), next_obs=np.roll(data.obs, -1, 0))
    np.testing.assert_allclose(calql.returns_to_go(data, data.reward, 0.5), [1.75, 1.5, 1.0])
    gap = dataclasses.replace(data, next_obs=data.next_obs + np.array([[0], [1], [0]], np.float32))
    np.testing.assert_allclose(calql.returns_to_go(gap, data.reward, 0.5), [1.5, 1.0, 1.0])


def test_a_constant_is_shifted_only_in_stores_of_any_size() -> None:
    found = Normaliser.standard(np.full((1_000_000, 1), 0.1, np.float32))
    assert found.shift.item() == pytest.approx(0.1, abs=1e-7)
    assert found.scale.item() == 1.0


def test_clipping_leaves_a_group_alone_that_has_no_gradient_yet() -> None:
    config = iql.Config(hidden=(8,), batch=4, order="paper")
    state = iql.init(config, bandit(32), generator=seeded())
    clip_gradients(state, 1.0)
    found = iql.update(config, state, next(iql.batches(config, bandit(32), generator=seeded())))
    assert all(torch.isfinite(value) for value in found.values())


@pytest.mark.parametrize("kernel", [1, 5])
def test_a_compiled_convolution_is_the_same_convolution(kernel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    convolution, x = Convolution(6, 3, kernel), torch.randn(4, 6, 8, requires_grad=True)
    convolution.products = torch.float32
    wanted = convolution(x)
    wanted.square().sum().backward()
    gradients = [x.grad, convolution.weight.grad, convolution.bias.grad]
    x.grad = convolution.weight.grad = convolution.bias.grad = None
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = convolution(x)
    found.square().sum().backward()
    torch.testing.assert_close(found, wanted)
    for mine, theirs in zip((x.grad, convolution.weight.grad, convolution.bias.grad), gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("hidden", [(), (16,), (16, 16)])
def test_compiled_networks_are_the_same_networks(
    layer_norm: bool, hidden: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = seeded()
    sizes = [(2, 7, 1), (1, 4, 1), (1, 4, 3)]  # critics, value and actor: other inputs, other outputs
    nets = [
        StackedMLP(members, (inputs, *hidden, outputs), layer_norm=layer_norm, generator=generator)
        for members, inputs, outputs in sizes
    ]
    shown = [torch.randn(5, inputs, requires_grad=True) for _, inputs, _ in sizes]

    def outcome() -> list[torch.Tensor]:
        out = together(list(zip(nets, shown, strict=True)))
        sum(one.square().sum() for one in out).backward()
        everything = [*shown, *(p for net in nets for p in net.parameters())]
        gradients = [one.grad for one in everything]
        for one in everything:
            one.grad = None
        return [*out, *gradients]

    wanted = outcome()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for mine, theirs in zip(outcome(), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)
