"""Soft actor-critic: losses against hand-computed numbers, known optima, and on-line learning that can be repeated."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_learn import bandit, constant_net
from vlmrl.cli import collect as command
from vlmrl.errors import ConfigError
from vlmrl.evaluate import online
from vlmrl.learn import sac
from vlmrl.learn.batch import Batch
from vlmrl.policy import LearnedPolicy
from vlmrl.runfolder import Metrics
from vlmrl.sim import load_task, make

PLAIN = sac.Config(hidden=(16, 16), normalise_reward=False)


def fresh(config: sac.Config = PLAIN) -> sac.State:
    return sac.init(config, bandit(64), generator=torch.Generator().manual_seed(0))


def batch(**changes: torch.Tensor) -> Batch:
    some = Batch(
        obs=torch.zeros(2, 3),
        action=torch.tensor([[0.0], [1.0]]),
        reward=torch.tensor([1.0, 2.0]),
        mask=torch.tensor([1.0, 0.0]),
        next_obs=torch.zeros(2, 3),
    )
    return dataclasses.replace(some, **changes)


def test_log_density_of_a_squashed_gaussian_equals_torch_s_own() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, deviation, noise = (torch.randn(50, 3, generator=generator) for _ in range(3))
    before = mean + deviation.exp() * noise
    squashed = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, deviation.exp()), torch.distributions.TanhTransform(cache_size=1)
    )
    action = squashed.transforms[0](before)
    expected = squashed.log_prob(action).sum(-1)
    torch.testing.assert_close(sac.squashed_log_prob(noise, deviation, before), expected, rtol=1e-4, atol=1e-4)


def test_log_density_is_right_by_hand_and_finite_where_tanh_saturates() -> None:
    zero = torch.zeros(1, 1)
    # u = 0, std 1: log N = -log sqrt(2 pi), tanh has slope 1
    assert sac.squashed_log_prob(zero, zero, zero).item() == pytest.approx(-0.5 * math.log(2 * math.pi))
    # u = 1: minus log(1 - tanh(1)^2) more
    expected = -0.5 - 0.5 * math.log(2 * math.pi) - math.log(1 - math.tanh(1) ** 2)
    assert sac.squashed_log_prob(zero + 1, zero, zero + 1).item() == pytest.approx(expected, rel=1e-5)
    # far out 1 - tanh^2 is 4 exp(-2u), which float32 rounds to zero
    far = sac.squashed_log_prob(zero, zero, zero + 40).item()
    assert far == pytest.approx(-0.5 * math.log(2 * math.pi) + 80 - math.log(4), rel=1e-5)


def test_deviations_stay_within_their_bounds_and_move_smoothly() -> None:
    out = torch.tensor([[-1e3, 0.0, 1e3]], requires_grad=True)
    found = sac.log_std(out)
    assert found[0].tolist() == pytest.approx([-5.0, -1.5, 2.0])
    found.sum().backward()
    assert out.grad is not None
    assert out.grad[0, 1].item() == pytest.approx(3.5)


def test_losses_equal_hand_computed_values(monkeypatch: pytest.MonkeyPatch) -> None:
    state = fresh()
    constant_net(state.q, 1.0)
    constant_net(state.target, 2.0)
    with torch.no_grad():
        state.target.biases[-1][1] = 5.0
    drawn = (torch.zeros(2, 1), torch.tensor([-0.5, 1.5]))
    monkeypatch.setattr(sac, "draw", lambda *_: drawn)
    with torch.no_grad():
        state.log_temperature.fill_(math.log(0.2))
    losses = sac.loss(PLAIN, state, batch())
    # the smaller target critic says 2; soft value of the first row 2 + 0.2 * 0.5 = 2.1, the second row is terminal
    first, second = 1 + 0.99 * 2.1 - 1, 2 - 1
    assert losses["critic_loss"].item() == pytest.approx(2 * (first**2 + second**2) / 2, rel=1e-5)
    # alpha * mean log pi - Q = 0.2 * 0.5 - 1
    assert losses["actor_loss"].item() == pytest.approx(0.2 * 0.5 - 1, rel=1e-5)
    # -alpha * (mean log pi - 1), one action
    assert losses["temperature_loss"].item() == pytest.approx(-0.2 * (0.5 - 1), rel=1e-5)


def test_a_truncated_step_bootstraps_and_a_terminated_one_does_not() -> None:
    state = fresh()
    constant_net(state.q, 0.0)
    constant_net(state.target, 100.0)
    going, ended = (
        sac.critic_loss(PLAIN, state, batch(reward=torch.zeros(2), mask=torch.full((2,), mask))).item()
        for mask in (1.0, 0.0)
    )
    assert ended == 0
    assert going == pytest.approx(2 * 99.0**2, rel=0.05)


def test_critics_are_not_moved_by_the_actor_s_loss() -> None:
    state, other = fresh(), fresh()
    sac.update(PLAIN, state, batch())
    torch.optim.Optimizer.zero_grad(other.critic_optimiser)
    sac.descend(other.critic_optimiser, sac.critic_loss(PLAIN, other, batch()))
    for a, b in zip(state.q.parameters(), other.q.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.equal(state.actor.net.biases[-1], other.actor.net.biases[-1])


@pytest.mark.parametrize(("wanted", "rises"), [(5.0, True), (-50.0, False)])
def test_the_temperature_rises_where_the_policy_is_too_certain(wanted: float, rises: bool) -> None:
    config = dataclasses.replace(PLAIN, target_entropy=wanted)
    state = fresh(config)
    before = state.log_temperature.item()
    for _ in range(5):
        sac.update(config, state, batch())
    assert (state.log_temperature.item() > before) == rises


def test_the_best_action_of_a_bandit_is_found() -> None:
    transitions, generator = bandit(), torch.Generator().manual_seed(1)
    config = sac.Config(hidden=(32, 32), lr=3e-3, temperature=0.05, target_entropy=-3.0)
    state = sac.init(config, transitions, generator=torch.Generator().manual_seed(0))
    batches = sac.batches(config, transitions, generator=generator)
    for _ in range(300):
        sac.update(config, state, next(batches))
    action = sac.policy(state).act(torch.from_numpy(transitions.obs[:200])).mean().item()
    assert action == pytest.approx(0.5, abs=0.12)


def test_rewards_are_divided_by_their_deviation_where_asked() -> None:
    transitions = bandit(64)
    scaled = sac.init(sac.Config(hidden=(8,)), transitions, generator=torch.Generator().manual_seed(0))
    assert scaled.scale == pytest.approx(transitions.reward.std())
    assert fresh().scale == 1.0


# On-line


def test_the_last_transition_of_an_episode_keeps_its_own_next_observation_and_bootstraps() -> None:
    task = dataclasses.replace(load_task("cartpole"), horizon=3)
    env = make(task)
    try:
        walk = online.Walk(env, 7)
        starts = [walk.observation]
        steps = []
        for _ in range(6):
            some = walk.step(np.ones(1, np.float32))
            assert some is not None
            steps.append(some)
            starts.append(walk.observation)
        again = env.reset(seed=8)[0]["state"]
    finally:
        env.close()
    np.testing.assert_array_equal(steps[0].next_obs, steps[1].obs)
    assert not np.array_equal(steps[2].next_obs[0], starts[3])
    np.testing.assert_array_equal(starts[3], again)
    assert all(some.mask[0] == 1 for some in steps)
    np.testing.assert_allclose(steps[2].reward[0], -np.abs(np.degrees(steps[2].next_obs[0, 2])), atol=1e-3)


SMALL = ["task=cartpole", "steps=60", "start=40", "every=10", "episodes=1", "hidden=[8]", "batch=16"]


def test_one_seed_leaves_the_same_checkpoints_always(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        command.learn([*SMALL, f"out={tmp_path / name}", f"seed={seed}"])
    assert "step000060: return" in capsys.readouterr().out
    folders = sorted(p.name for p in (tmp_path / "a").glob("step*"))
    assert folders == ["step000050", "step000060"]
    one, two, other = (LearnedPolicy.from_pretrained(tmp_path / k / "step000060") for k in "abc")
    obs = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(one.actor.act(obs), two.actor.act(obs))
    assert not torch.equal(one.actor.act(obs), other.actor.act(obs))
    assert one.facts["task"] == "cartpole"
    assert [r["step"] for r in Metrics(tmp_path / "a" / "metrics.jsonl").read("sac")] == [50, 60]


def test_a_folder_that_holds_something_is_not_learned_into(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        command.learn([*SMALL, f"out={tmp_path}"])


@pytest.mark.parametrize(
    ("change", "message"),
    [("start=60", "start < steps"), ("every=0", "at least 1"), ("lrr=1", "unknown setting 'lrr'")],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, change: str, message: str) -> None:
    settings = [s for s in SMALL if s.split("=")[0] != change.split("=")[0]]
    with pytest.raises(ConfigError, match=message):
        command.learn([*settings, change, f"out={tmp_path / 'new'}"])
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_cartpole_is_solved_on_line(tmp_path: Path) -> None:
    config = online.Config(task="cartpole", out=str(tmp_path / "sac"), steps=4_000, every=4_000)
    point = online.learn(config, sac.Config(), quiet=True)[-1]
    assert point.success == 1
    assert point.mean > -100
