"""Variation from episode to episode: what it changes, what it leaves alone, and that states bring it back."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vlmrl.errors import ConfigError
from vlmrl.sim import load_task, make
from vlmrl.sim.ranges import Variation, Variations, check_apart
from vlmrl.sim.task import Task
from vlmrl.sim.variation import draw, varied

if TYPE_CHECKING:
    from vlmrl.sim.env import SimEnv

LOOKS = {"camera_m": 0.05, "camera_turn": 0.1, "light": 1.5, "colour": 0.5, "distractors": 4}
MOVES = {"mass": 2.0, "delay_steps": 3, "push": 0.5}
SENSES = {"noise": 0.01, "drop": 0.5}


def _with(name: str, **amounts: float) -> Task:
    return replace(load_task(name), variation=Variation(**{k: (float(v), float(v)) for k, v in amounts.items()}))


def _env(task: Task) -> "SimEnv":
    if task.physics.family == "metaworld":
        pytest.importorskip("metaworld", reason="extra 'sims' is not installed")
    return make(task)


@pytest.fixture
def stock() -> Iterator["SimEnv"]:
    env = _env(load_task("cartpole"))
    yield env
    env.close()


def _steps(env: "SimEnv", count: int = 20) -> np.ndarray:
    actions = np.random.default_rng(0).uniform(-1, 1, (count, len(env.action_names))).astype(np.float32)
    return np.stack([env.step(action)[0]["state"] for action in actions])


def test_every_kind_is_tried_here() -> None:
    assert {*LOOKS, *MOVES, *SENSES, "friction"} == {field.name for field in fields(Variation)}


def test_no_variation_leaves_states_as_long_as_they_were(stock: "SimEnv") -> None:
    varying = _env(_with("cartpole", light=1.5))
    stock.reset(seed=0)
    varying.reset(seed=0)
    assert len(varying.sim_state()) > len(stock.sim_state())
    assert stock.sim_state()[0] == 0
    varying.close()


@pytest.mark.parametrize("name", ["cartpole", "drawer_open"])
def test_objects_of_a_seed_start_alike_with_and_without_variation(name: str) -> None:
    plain, varying = _env(load_task(name)), _env(_with(name, **LOOKS, **SENSES, delay_steps=2, push=0.5))
    for seed in range(3):
        plain.reset(seed=seed)
        varying.reset(seed=seed)
        np.testing.assert_array_equal(plain.data.qpos, varying.data.qpos)
        np.testing.assert_array_equal(plain.model.body_pos, varying.model.body_pos)
    plain.close()
    varying.close()


@pytest.mark.parametrize("kind", LOOKS)
def test_looks_change_the_judge_s_picture_and_not_the_motion(kind: str) -> None:
    plain, varying = _env(load_task("drawer_open")), _env(_with("drawer_open", **{kind: LOOKS[kind]}))
    plain.reset(seed=0)
    varying.reset(seed=0)
    assert not np.array_equal(plain.frame(), varying.frame())
    np.testing.assert_array_equal(_steps(plain), _steps(varying))
    plain.close()
    varying.close()


def test_a_shifted_camera_leaves_the_video_s() -> None:
    plain, varying = _env(load_task("cartpole")), _env(_with("cartpole", camera_m=0.5))
    plain.reset(seed=0)
    varying.reset(seed=0)
    assert not np.array_equal(plain.frame(), varying.frame())
    np.testing.assert_array_equal(plain.frame("video"), varying.frame("video"))
    plain.close()
    varying.close()


@pytest.mark.parametrize("kind", MOVES)
def test_dynamics_change_the_motion(kind: str, stock: "SimEnv") -> None:
    varying = _env(_with("cartpole", **{kind: MOVES[kind]}))
    stock.reset(seed=0)
    varying.reset(seed=0)
    assert not np.allclose(_steps(stock, 60), _steps(varying, 60))
    varying.close()


def test_a_delay_of_k_steps_is_the_same_motion_k_steps_later(stock: "SimEnv") -> None:
    late = _env(_with("cartpole", delay_steps=3))
    stock.reset(seed=0)
    late.reset(seed=0)
    actions = np.random.default_rng(1).uniform(-1, 1, (12, 1)).astype(np.float32)
    now = np.concatenate([np.zeros((3, 1), np.float32), actions])
    expected = [stock.step(action)[0]["state"] for action in now][: len(actions)]
    np.testing.assert_array_equal([late.step(action)[0]["state"] for action in actions], expected)
    late.close()


def test_twice_the_mass_is_half_the_acceleration_of_a_push(stock: "SimEnv") -> None:
    heavy = _env(_with("cartpole", mass=2.0))
    found = []
    for env in (stock, heavy):
        env.reset(seed=0)
        env.data.qpos[:], env.data.qvel[:] = 0, 0
        env.step(np.ones(1, np.float32))
        found.append(env.data.qvel[0])
    assert found[0] == pytest.approx(2 * found[1], rel=1e-6)
    heavy.close()


def test_the_model_is_stock_again_where_the_next_episode_draws_nothing() -> None:
    env = _env(replace(load_task("cartpole"), variation=Variation(mass=(1.0, 3.0), colour=(0.0, 0.5))))
    mass = load_and_mass("cartpole")
    found = []
    for seed in range(5):
        env.reset(seed=seed)
        drawn = draw(env.task.variation, seed)
        np.testing.assert_allclose(env.model.body_mass, mass * drawn.mass)
        found.append(drawn.mass)
    assert len(set(found)) == 5
    assert 1 <= min(found) < max(found) <= 3
    env.close()


def load_and_mass(name: str) -> np.ndarray:
    env = make(load_task(name))
    mass = env.model.body_mass.copy()
    env.close()
    return mass


def test_friction_is_scaled() -> None:
    plain, slippery = _env(load_task("drawer_open")), _env(_with("drawer_open", friction=0.5))
    plain.reset(seed=0)
    slippery.reset(seed=0)
    np.testing.assert_allclose(slippery.model.geom_friction[:, 0], plain.model.geom_friction[:, 0] / 2)
    np.testing.assert_array_equal(slippery.model.geom_friction[:, 1:], plain.model.geom_friction[:, 1:])
    plain.close()
    slippery.close()


def test_noise_has_the_stated_deviation_and_lost_observations_repeat_the_last(stock: "SimEnv") -> None:
    noisy, lossy = _env(_with("cartpole", noise=0.01)), _env(_with("cartpole", drop=0.5))
    for env in (stock, noisy, lossy):
        env.reset(seed=0)
    true, seen, held = _steps(stock, 90), _steps(noisy, 90), _steps(lossy, 90)
    assert (seen - true).std() == pytest.approx(0.01, rel=0.15)
    lost = (held != true).any(axis=1)
    assert 0.3 < lost.mean() < 0.7
    for t in np.flatnonzero(lost[1:]) + 1:
        np.testing.assert_array_equal(held[t], held[t - 1])
    noisy.close()
    lossy.close()


@pytest.mark.parametrize("name", ["cartpole", "drawer_open"])
def test_a_restored_state_goes_on_and_looks_as_it_did(name: str) -> None:
    task = _with(name, **LOOKS, **MOVES, **SENSES, friction=1.5)
    env, other = _env(task), _env(task)
    env.reset(seed=4)
    _steps(env, 10)
    state, picture, seen = env.sim_state(), env.frame(), env.observe()["state"]
    onward = _steps(env, 8)
    other.reset(seed=9)
    _steps(other, 5)
    other.set_sim_state(state)
    np.testing.assert_array_equal(other.sim_state(), state)
    np.testing.assert_array_equal(other.frame(), picture)
    np.testing.assert_array_equal(other.observe()["state"], seen)
    np.testing.assert_array_equal(_steps(other, 8), onward)
    env.close()
    other.close()


def test_things_stay_where_they_are_while_the_episode_moves_on() -> None:
    env = _env(_with("drawer_open", distractors=5))
    env.reset(seed=3)
    camera, look, drawn = env.task.cameras["judge"], env._look, env._drawn
    before = look.distractors(drawn, env.data, camera)
    _steps(env, 30)
    after = look.distractors(drawn, env.data, camera)
    assert len(before) == 5
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a.place_m, b.place_m, atol=1e-9)
    env.close()


def test_splits_are_apart_and_overlaps_are_refused() -> None:
    task = load_task("cartpole")
    assert varied(task, "train").variation == task.variations.train
    assert varied(task, "held_out").variation == task.variations.held_out
    check_apart(Variations(), "here")
    overlapping = Variations(train=Variation(light=(0.5, 1.4)), held_out=Variation(light=(1.3, 1.6)))
    with pytest.raises(ConfigError, match=r"here: light is \[0.5, 1.4\] in train and \[1.3, 1.6\] in held_out"):
        check_apart(overlapping, "here")
    with pytest.raises(ConfigError, match=r"unknown split 'test'; have: held_out, train"):
        varied(task, "test")
    with pytest.raises(ConfigError, match=r"here.train.noise: \[low, high\] from 0 up wanted, found \[0.2, 0.1\]"):
        check_apart(Variations(train=Variation(noise=(0.2, 0.1))), "here")


def test_draws_lie_in_their_ranges_and_one_kind_does_not_move_another() -> None:
    ranges = Variations().train
    drawn = [draw(ranges, number) for number in range(300)]
    for field in fields(Variation):
        low, high = getattr(ranges, field.name)
        found = [getattr(d, field.name) for d in drawn]
        assert low <= min(found) <= max(found) <= high
    assert {d.distractors for d in drawn} == {0, 1, 2, 3}
    assert draw(replace(ranges, light=(1.0, 1.0)), 7).mass == draw(ranges, 7).mass


def test_settings_tell_what_varies() -> None:
    task = load_task("cartpole")
    assert "variation" not in task.settings()
    assert replace(task, variation=Variation(light=(0.5, 2.0))).settings()["variation"] == {"light": [0.5, 2.0]}
