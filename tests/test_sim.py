"""Simulated tasks: starts, success, progress, state and Gymnasium's contract."""

import json
import math
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import pytest

from vlmrl.errors import ConfigError, DataError
from vlmrl.sim import Task, expert, load_task, make
from vlmrl.sim.register import ANY, ids, register_envs

if TYPE_CHECKING:
    from vlmrl.sim.env import SimEnv

IDS = ids()
TASKS = [name for name in sorted(IDS.values()) if load_task(name).physics.family not in ("gymnasium", "robosuite")]
"""Other packages' environments have tests of their own."""
FIXED = ("drawer_open_paper", "soccer_paper", "sweep_into_paper")
TWINS = ("cartpole_paper", "dress_arm_held_out", "soccer_paper", "sweep_into_paper")
"""Tasks that differ from another one in numbers only."""
WITHOUT_EXPERT = {"humanoid"}
"""Families for whose tasks nobody has written a controller."""


def _laws(names: Iterable[str]) -> list[Any]:
    """Of a group, the first task stands for the others in a quick run, and of twins the other."""
    seen: set[str] = set()
    marked = []
    for name in names:
        task = IDS.get(name, name)
        group = task.rpartition("/")[0]
        marked.append(pytest.param(name, marks=pytest.mark.slow) if group in seen or task in TWINS else name)
        seen |= {group} - {""}
    return marked


@pytest.fixture(params=_laws(TASKS))
def env(request: pytest.FixtureRequest) -> Iterator["SimEnv"]:
    yield from _environment(request.param)


@pytest.fixture
def drawer() -> Iterator["SimEnv"]:
    yield from _environment("drawer_open")


@pytest.fixture
def cart() -> Iterator["SimEnv"]:
    yield from _environment("cartpole")


def _environment(name: str) -> Iterator["SimEnv"]:
    _needs(load_task(name))
    env = make(load_task(name))
    yield env
    env.close()


def _needs(task: Task) -> None:
    if task.physics.family == "metaworld":
        pytest.importorskip("metaworld", reason="extra 'sims' is not installed")


def _actions(env: "SimEnv", steps: int, seed: int = 0) -> np.ndarray:
    # A step of a task of one step is a whole fold.
    steps = min(steps, 2 * env.task.horizon)
    return np.random.default_rng(seed).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)


def _run(env: "SimEnv", actions: np.ndarray) -> list[np.ndarray]:
    return [np.concatenate([env.step(a)[0]["state"], env.sim_state()]) for a in actions]


# Starts


def test_a_seed_gives_the_same_start_whatever_happened_before(env: "SimEnv") -> None:
    first, _ = env.reset(seed=5)
    state = env.sim_state()
    env.reset(seed=6)
    _run(env, _actions(env, 20))
    again, _ = env.reset(seed=5)
    np.testing.assert_array_equal(first["state"], again["state"])
    np.testing.assert_array_equal(state, env.sim_state())


def test_seeds_start_differently_unless_the_task_says_fixed(env: "SimEnv") -> None:
    starts = {env.reset(seed=s)[0]["state"].tobytes() for s in range(8)}
    assert len(starts) == (1 if env.task.resets.fixed else 8)
    assert env.task.resets.fixed == (env.task.name in FIXED)


def test_unseeded_episodes_continue_the_seed_s_stream(drawer: "SimEnv") -> None:
    drawer.reset(seed=1)
    second = drawer.reset()[0]["state"]
    assert not np.array_equal(second, drawer.reset()[0]["state"])
    drawer.reset(seed=1)
    np.testing.assert_array_equal(second, drawer.reset()[0]["state"])


def test_first_observation_shows_the_drawer_where_it_is(drawer: "SimEnv") -> None:
    for seed in range(3):
        observation, _ = drawer.reset(seed=seed)
        closed = np.add(drawer.model.body("drawer").pos, [0, -0.01 - 0.16, 0.09])
        np.testing.assert_allclose(observation["state"][4:7], closed, atol=1e-6)
        np.testing.assert_array_equal(observation["state"][:18], observation["state"][18:36])


def test_paper_variant_starts_at_the_paper_s_poses() -> None:
    for env in _environment("drawer_open_paper"):
        observation, _ = env.reset(seed=3)
        np.testing.assert_allclose(env.model.body("drawer").pos, [0, 0.9, 0])
        np.testing.assert_allclose(observation["state"][:3], [0, 0.75, 0.15], atol=0.02)


def test_the_goal_is_not_in_the_observation(drawer: "SimEnv") -> None:
    drawer.reset(seed=0)
    observation = drawer.step(np.zeros(4, np.float32))[0]["state"]
    assert dict(zip(drawer.state_names, observation, strict=True))["goal_y"] == 0
    np.testing.assert_array_equal(observation[36:], 0)


# Success and progress


def test_success_is_false_at_reset_and_after_random_actions(env: "SimEnv") -> None:
    _, info = env.reset(seed=2)
    assert info["success"] is False
    assert not any(env.step(a)[4]["success"] for a in _actions(env, 20))


def test_open_drawer_is_success_and_full_progress(drawer: "SimEnv") -> None:
    _, start = drawer.reset(seed=0)
    assert start["progress"] == pytest.approx(0, abs=1e-6)
    for opening, progress, success in ((0.08, 0.5, False), (0.1605, 1.0, True)):
        drawer.reset(seed=0)
        drawer.data.qpos[drawer.model.joint("goal_slidey").qposadr[0]] = -opening
        _, _, _, _, info = drawer.step(np.zeros(4, np.float32))
        assert info["progress"] == pytest.approx(progress, abs=0.02)
        assert info["success"] is success


def test_drawer_success_agrees_with_meta_world_at_every_step(drawer: "SimEnv") -> None:
    policy, stock = expert(drawer.task), drawer._dynamics._env
    for seed in range(3):
        observation, _ = drawer.reset(seed=seed)
        both = set()
        for _ in range(drawer.task.horizon):
            action = policy.action(observation)
            observation, reward, _, _, info = drawer.step(action)
            theirs, details = stock.evaluate_state(stock._last_stable_obs, action)
            assert (info["success"], reward) == (bool(details["success"]), float(theirs))
            both.add(info["success"])
        assert both == {False, True}


def test_upright_pole_is_full_progress_and_success_only_after_the_whole_episode(cart: "SimEnv") -> None:
    cart.reset(seed=0)
    cart.data.qpos[:], cart.data.qvel[:] = 0, 0
    told = [cart.step(np.zeros(1, np.float32))[4] for _ in range(cart.task.horizon)]
    assert [t["success"] for t in told] == [False] * 99 + [True]
    assert {t["progress"] for t in told} == {1.0}


def test_expert_solves_its_task(env: "SimEnv") -> None:
    if env.task.physics.family in WITHOUT_EXPERT:
        with pytest.raises(ConfigError, match=f"{env.task.name!r} has no scripted expert"):
            expert(env.task)
        pytest.skip(f"nobody has written an expert for the family {env.task.physics.family}")
    policy = expert(env.task)
    policy.reset(0)
    observation, info = env.reset(seed=11)
    for _ in range(env.task.horizon):
        observation, _, terminated, truncated, info = env.step(policy.action(observation))
        if info["success"]:
            return
    assert terminated or truncated
    pytest.fail(f"no success in {env.task.horizon} steps; progress {info['progress']}")


def test_episode_is_truncated_at_the_horizon_and_never_terminated(cart: "SimEnv") -> None:
    cart.reset(seed=0)
    ends = [cart.step(a)[2:4] for a in _actions(cart, 100)]
    assert ends == [(False, False)] * 99 + [(False, True)]


# Cart-pole


def test_cart_pole_moves_by_the_textbook_equations(cart: "SimEnv") -> None:
    cart.reset(seed=0)
    x, x_dot, theta, theta_dot, force = 0.1, -0.2, 0.3, 0.7, 0.6
    cart.data.qpos[:], cart.data.qvel[:] = (x, theta), (x_dot, theta_dot)
    cart.step(np.array([force], np.float32))
    # Florian (2005), equations 23 and 24, with 1 kg cart, 0.1 kg pole of half-length 0.5 m, 10 N.
    push = (10 * force + 0.1 * 0.5 * theta_dot**2 * math.sin(theta)) / 1.1
    spin = (9.8 * math.sin(theta) - math.cos(theta) * push) / (0.5 * (4 / 3 - 0.1 * math.cos(theta) ** 2 / 1.1))
    slide = push - 0.1 * 0.5 * spin * math.cos(theta) / 1.1
    np.testing.assert_allclose(cart.data.qvel, [x_dot + 0.02 * slide, theta_dot + 0.02 * spin], rtol=1e-4)


def test_pole_rests_on_its_stop_and_pays_its_angle_in_degrees(cart: "SimEnv") -> None:
    cart.reset(seed=0)
    cart.data.qpos[1], cart.data.qvel[1] = 0.5, 3.0
    observation, reward, _, _, info = cart.step(np.zeros(1, np.float32))
    assert observation["state"][2] == pytest.approx(math.radians(30))
    assert observation["state"][3] == 0
    assert (reward, info["progress"]) == (pytest.approx(-30), pytest.approx(0, abs=1e-6))


# State


def test_a_restored_state_continues_exactly_in_another_environment(env: "SimEnv") -> None:
    env.reset(seed=3)
    _run(env, _actions(env, 30, seed=1))
    state, picture, actions = env.sim_state(), env.frame(), _actions(env, 15, seed=2)
    onward = _run(env, actions)
    for other in _environment(env.task.name):
        other.set_sim_state(state)  # as the first thing that it is asked to do
        np.testing.assert_array_equal(other.sim_state(), state)
        other.reset(seed=99)
        other.set_sim_state(state)
        np.testing.assert_array_equal(other.sim_state(), state)
        np.testing.assert_array_equal(other.frame(), picture)
        np.testing.assert_array_equal(other.frame("video"), _video(env, state))
        np.testing.assert_array_equal(_run(other, actions), onward)


def _video(env: "SimEnv", state: np.ndarray) -> np.ndarray:
    env.set_sim_state(state)
    return env.frame("video")


def test_a_foreign_state_is_refused(cart: "SimEnv") -> None:
    with pytest.raises(DataError, match=r"task 'cartpole' has \d+ numbers, found \(3,\)"):
        cart.set_sim_state(np.zeros(3))


# Gymnasium


@pytest.mark.parametrize("name", _laws(name for name, task in sorted(IDS.items()) if task in TASKS))
def test_gymnasium_s_own_check_passes(name: str) -> None:
    from gymnasium.utils.env_checker import check_env

    _needs(load_task(IDS[name]))
    register_envs()
    env = gymnasium.make(name, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.reset(seed=0)
    assert env.render().shape[2] == 3
    env.close()


def test_sync_and_async_vectors_give_the_same_trajectories() -> None:
    pytest.importorskip("metaworld", reason="extra 'sims' is not installed")
    register_envs()
    seeds, rows = [4, 9], []
    for mode in ("sync", "async"):
        envs = gymnasium.make_vec("vlmrl/DrawerOpen-v0", num_envs=2, vectorization_mode=mode)
        observation, _ = envs.reset(seed=seeds)
        steps = [observation["state"]]
        for action in np.random.default_rng(0).uniform(-1, 1, (25, 2, 4)).astype(np.float32):
            observation, reward, _, _, info = envs.step(action)
            steps.append(np.column_stack([observation["state"], reward, info["progress"], info["success"]]))
        rows.append(np.concatenate(steps, axis=1))
        envs.close()
    np.testing.assert_array_equal(*rows)
    assert not np.array_equal(rows[0][0], rows[0][1])


def test_any_task_folder_is_an_environment() -> None:
    register_envs()
    env = gymnasium.make(ANY, task="cartpole")
    assert env.unwrapped.task == load_task("cartpole")
    env.close()


def test_registering_does_not_import_mujoco() -> None:
    code = "import vlmrl.sim.gym, sys; assert 'mujoco' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_gymnasium_finds_our_environments_by_itself() -> None:
    code = "import gymnasium; gymnasium.make('vlmrl.sim.gym:vlmrl/Cartpole-v0').reset(seed=0)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_bad_actions_are_refused(cart: "SimEnv") -> None:
    cart.reset(seed=0)
    for action in (np.zeros(2, np.float32), np.array([np.nan], np.float32)):
        with pytest.raises(DataError, match=r"finite action of shape \(1,\) wanted"):
            cart.step(action)


def test_actions_beyond_the_range_act_as_its_edge(cart: "SimEnv") -> None:
    cart.reset(seed=0)
    state = cart.sim_state()
    far = cart.step(np.array([7], np.float32))[0]["state"]
    cart.set_sim_state(state)
    np.testing.assert_array_equal(far, cart.step(np.array([1], np.float32))[0]["state"])


def test_missing_meta_world_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld.env_dict", None)
    monkeypatch.setitem(sys.modules, "metaworld.policies", None)
    for build in (make, expert):
        with pytest.raises(ConfigError, match=r"pip install 'vlmrl\[sims\]'"):
            build(load_task("drawer_open"))


def test_a_control_rate_that_the_scene_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="control_hz is 30"):
        make(replace(load_task("cartpole"), control_hz=30.0))


def test_unknown_physics_and_environments_list_what_exists() -> None:
    task = load_task("cartpole")
    with pytest.raises(ConfigError, match=r"unknown physics family 'bullet'; have: cartpole, .*metaworld"):
        make(replace(task, physics=replace(task.physics, family="bullet")))
    pytest.importorskip("metaworld", reason="extra 'sims' is not installed")
    with pytest.raises(ConfigError, match=r"unknown Meta-World environment 'drawer'; have: .*drawer-open-v3"):
        make(replace(task, physics=replace(task.physics, family="metaworld", name="drawer")))


@pytest.mark.parametrize("name", TASKS)
def test_settings_are_json_and_tell_every_picture_apart(name: str) -> None:
    task = load_task(name)
    assert json.loads(json.dumps(task.settings())) == task.settings()
    assert task.settings() != task.settings("video")
    assert task.settings() != replace(task, render=replace(task.render, shadows=True)).settings()
