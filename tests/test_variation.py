"""Variation: what is drawn anew for each episode changes what it says, nothing else, and comes back exactly."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
import pytest

from vlmrl.errors import ConfigError, DataError
from vlmrl.evaluate import suites
from vlmrl.evaluate.candidates import Candidate
from vlmrl.evaluate.collect import Config, collect, create_store
from vlmrl.evaluate.job import Plan
from vlmrl.sim import Task, load_task, looks, make, task_names, varied
from vlmrl.sim.dynamics import FAMILIES, family
from vlmrl.sim.env import _STATE
from vlmrl.sim.variation import COUNTS, RANGES, Variation, draw

if TYPE_CHECKING:
    from pathlib import Path

    from vlmrl.sim.env import SimEnv

PLACES = {"cartpole": (-1.0, 1.0, 0.4, 0.7, -0.06), "drawer_open": (0.25, 0.42, 0.5, 0.85, 0.0)}
LOOKS = {
    "camera_position_m": (0.05, 0.05),
    "camera_rotation_rad": (0.01, 0.01),
    "light_factor": (0.5, 0.6),
    "colour_factor": (0.5, 0.9),
    "distractors": (3, 3),
}
FORCES = {"mass_factor": (2.0, 2.0), "friction_factor": (3.0, 3.0), "push_n": (20.0, 20.0)}
ACTIONS = {"action_delay_steps": (3, 3), "action_noise": (0.3, 0.3)}
SENSES = {"observation_noise": (0.02, 0.02), "dropped_frames": (0.5, 0.5)}


def _task(name: str, **ranges: Any) -> Task:
    if name != "cartpole":
        pytest.importorskip("metaworld", reason="extra 'sims' is not installed")
    size = (0.1, 0.2) if name == "cartpole" else (0.015, 0.035)
    places = {"distractor_places": PLACES[name], "distractor_size_m": size} if "distractors" in ranges else {}
    floats = {key: tuple(map(float, bounds)) for key, bounds in (ranges | places).items()}
    return replace(load_task(name), variation=Variation(**floats))


@contextmanager
def _opened(task: Task) -> Iterator["SimEnv"]:
    env = make(task)
    yield env
    env.close()


def _actions(env: "SimEnv", steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, len(env.action_names))).astype(np.float32)


def _physics(env: "SimEnv") -> np.ndarray:
    return np.concatenate([env.data.qpos, env.data.qvel, env.data.mocap_pos.ravel()])


def _model(env: "SimEnv") -> dict[str, np.ndarray]:
    arrays = {k: getattr(env.model, k) for k in dir(env.model) if not k.startswith("_")}
    found = {k: v.copy() for k, v in arrays.items() if isinstance(v, np.ndarray)}
    return found | {f"headlight {k}": getattr(env.model.vis.headlight, k).copy() for k in ("ambient", "diffuse")}


def _run(env: "SimEnv", actions: np.ndarray) -> list[np.ndarray]:
    return [np.concatenate([env.step(a)[0]["state"], env.sim_state()]) for a in actions]


# Off, on, and by seed


def test_a_task_with_ranges_that_nobody_chose_does_not_vary() -> None:
    task = load_task("cartpole")
    assert set(task.variations) == {"train", "held_out"}
    assert not task.variation.active
    assert "variation" not in task.settings()


@pytest.mark.parametrize("name", ["cartpole", "drawer_open"])
def test_without_variation_an_episode_is_its_family_s_to_the_bit(name: str) -> None:
    task = _task(name)
    dynamics = family(task).build(task)
    with _opened(task) as env:
        start = env.reset(seed=7)[0]["state"]
        dynamics.reset(np.random.Generator(np.random.PCG64(7)))
        np.testing.assert_array_equal(start, dynamics.observe())
        for action in _actions(env, 20):
            observation, reward, *_ = env.step(action)
            assert reward == dynamics.step(action)
            np.testing.assert_array_equal(observation["state"], dynamics.observe())
        assert len(env.sim_state()) == 2 + mujoco.mj_stateSize(env.model, _STATE) + len(dynamics.memory())
        assert env.drawn == {}


@pytest.mark.parametrize("name", ["cartpole", "drawer_open"])
def test_a_seed_gives_the_same_initial_state_with_and_without_variation(name: str) -> None:
    with _opened(_task(name)) as env, _opened(_task(name, **LOOKS, mass_factor=(0.5, 2.0))) as other:
        for seed in (3, 4):
            env.reset(seed=seed), other.reset(seed=seed)
            np.testing.assert_array_equal(_physics(env), _physics(other))
            np.testing.assert_array_equal(env.model.body_pos, other.model.body_pos)
        # Also where episodes follow each other without seeds.
        env.reset(), other.reset()
        np.testing.assert_array_equal(_physics(env), _physics(other))


def test_a_seed_decides_the_draw_whatever_happened_before() -> None:
    with _opened(load_task("cartpole@train")) as env:
        env.reset(seed=5)
        drawn, picture, second = env.drawn, env.frame(), env.reset()
        again = env.drawn
        env.reset(seed=9)
        assert env.drawn != drawn
        env.reset(seed=5)
        assert env.drawn == drawn != again
        np.testing.assert_array_equal(env.frame(), picture)
        np.testing.assert_array_equal(env.reset()[0]["state"], second[0]["state"])
        assert env.drawn == again


def test_the_model_is_as_loaded_before_every_episode() -> None:
    with _opened(_task("drawer_open", **LOOKS, mass_factor=(0.5, 2.0), friction_factor=(0.5, 2.0))) as env:
        env.reset(seed=1)
        env._varying.undress()
        loaded = _model(env)
        for seed in (2, 3, 1):
            env.reset(seed=seed)
            env.step(np.zeros(4, np.float32))
        varied_ = _model(env)
        env._varying.undress()
        for key, value in _model(env).items():
            np.testing.assert_array_equal(value, loaded[key], err_msg=key)
        changed = {key for key, value in varied_.items() if not np.array_equal(value, loaded[key])}
        assert {"mat_rgba", "light_diffuse", "body_mass", "dof_invweight0", "geom_friction"} <= changed


# Ranges


@pytest.mark.parametrize("name", [n for n in task_names() if load_task(n).variations])
def test_what_is_drawn_lies_in_its_range_and_splits_never_meet(name: str) -> None:
    task = load_task(name)
    for split in task.variations:
        variation = varied(task, split).variation
        for values in (draw(variation, episode) for episode in range(200)):
            for key, value in values.items():
                bounds = np.array(getattr(variation, key)).reshape(-1, 2)
                assert any(low <= value <= high for low, high in bounds), (key, value)
                assert key not in COUNTS or value == int(value)


def test_both_intervals_of_a_range_are_drawn_by_their_length() -> None:
    values = [draw(Variation(light_factor=(0.5, 0.6, 1.0, 1.3)), k)["light_factor"] for k in range(2000)]
    assert np.mean(np.array(values) > 0.8) == pytest.approx(0.75, abs=0.03)


def test_a_value_s_draw_does_not_depend_on_what_else_varies() -> None:
    alone, together = Variation(mass_factor=(0.5, 2.0)), Variation(mass_factor=(0.5, 2.0), light_factor=(0.5, 2.0))
    assert draw(alone, 3)["mass_factor"] == draw(together, 3)["mass_factor"]


GOOD = """
instruction: to wave
physics: {family: cartpole}
horizon: 10
control_hz: 50
success: {predicate: joint_within, joint: hinge, limit: 0.1}
progress: {measure: joint_centred, joint: hinge, limit: 1}
cameras:
  judge: {position: [0, -1, 0], xyaxes: [1, 0, 0, 0, 0, 1]}
  video: {position: [0, -2, 0], xyaxes: [1, 0, 0, 0, 0, 1]}
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "{train: {mass_factor: [0.5, 1]}, held_out: {mass_factor: [1, 2]}}",
            r"mass_factor is held out in \[1.0, 2.0\]",
        ),
        (
            "{train: {light_factor: [0.8, 1.2]}, held_out: {light_factor: [0.5, 0.6, 1.1, 2]}}",
            r"which meets \[0.8, 1.2\]",
        ),
        (
            "{train: {light_factor: [0.8, 1.2]}, held_out: {mass_factor: [0.9, 1.5]}}",
            r"mass_factor is held out in \[0.9, 1.5\], which meets \[1.0, 1.0\]",
        ),
        (
            "{train: {}, held_out: {action_delay_steps: [0, 2]}}",
            r"action_delay_steps is held out in \[0.0, 2.0\], which meets \[0.0, 0.0\]",
        ),
        ("{train: {mass_factor: [0.5]}}", r"train.mass_factor: pairs of low and high in rising order"),
        ("{train: {mass_factor: [2, 1]}}", r"rising order wanted, found \[2.0, 1.0\]"),
        ("{train: {mass_factor: [0, 1]}}", r"numbers from 0.001 wanted"),
        ("{train: {dropped_frames: [0, 2]}}", r"dropped_frames: numbers from 0 to 1 wanted"),
        ("{train: {action_delay_steps: [0, 1.5]}}", r"whole numbers wanted, found \[0.0, 1.5\]"),
        ("{train: {distractors: [1, 2]}}", r"distractors needs distractor_places"),
        ("{train: {distractors: [1, 2], distractor_places: [0, 1, 0]}}", r"x low, x high, y low, y high, ground"),
        ("{test: {mass_factor: [1, 2]}}", r"unknown split 'test'; have: held_out, train"),
        ("{train: {weight: [1, 2]}}", r"unknown key 'weight'; have: action_delay_steps, .*mass_factor"),
    ],
)
def test_a_mistake_in_ranges_is_told(
    given: str, message: str, tmp_path: "Path", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tasks" / "wave" / "task.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(GOOD + f"variations: {given}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_task("wave")


def test_a_task_is_named_with_its_variation() -> None:
    assert load_task("cartpole@held_out") == varied(load_task("cartpole"), "held_out")
    assert load_task("cartpole@train").name == "cartpole@train"
    with pytest.raises(ConfigError, match="no variation 'test'; have: 'train', 'held_out'"):
        load_task("cartpole@test")
    with pytest.raises(ConfigError, match="'drawer_open_paper' has no variation 'train'; have: none"):
        load_task("drawer_open_paper@train")


def test_what_would_change_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="friction_factor would change nothing: nothing touches"):
        make(_task("cartpole", friction_factor=(1, 2)))
    with pytest.raises(ConfigError, match="mass_factor would change nothing: nothing moves but the robot"):
        make(replace(_task("cartpole", mass_factor=(1, 2)), robot_bodies=("cart",)))


class _Painter:
    def __init__(self, inner: Any) -> None:
        self.__dict__.update(inner.__dict__)
        for name in dir(inner):
            if not name.startswith("_") and name not in self.__dict__:
                setattr(self, name, getattr(inner, name))

    def paint(self, height: int, width: int) -> np.ndarray:
        return np.zeros((height, width, 3), np.uint8)


def test_looks_of_an_environment_that_draws_itself_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cartpole = FAMILIES["cartpole"]()

    class Module:
        build = staticmethod(lambda task: _Painter(cartpole.build(task)))
        build_expert = staticmethod(cartpole.build_expert)

    monkeypatch.setitem(FAMILIES, "cartpole", lambda: Module)
    with pytest.raises(ConfigError, match="camera_position_m would change nothing: its environment draws itself"):
        make(_task("cartpole", camera_position_m=(0, 1)))


# Each has its effect


@pytest.mark.parametrize("name", ["cartpole", pytest.param("drawer_open", marks=pytest.mark.slow)])
def test_each_look_changes_the_picture_and_not_the_physics(name: str) -> None:
    with _opened(_task(name)) as env:
        env.reset(seed=2)
        plain = env.frame().astype(int)
        states = [env.step(a)[0]["state"] for a in _actions(env, 5)]
    for key, bounds in LOOKS.items():
        with _opened(_task(name, **{key: bounds})) as env:
            env.reset(seed=2)
            other = env.frame().astype(int)
            assert (np.abs(other - plain).max(axis=2) > 8).mean() > 0.005, key
            np.testing.assert_array_equal([env.step(a)[0]["state"] for a in _actions(env, 5)], states, err_msg=key)


def test_light_dims_what_is_lit_by_its_factor() -> None:
    levels = []
    for factor in (0.25, 0.5):
        with _opened(_task("cartpole", light_factor=(factor, factor))) as env:
            env.reset(seed=0)
            env.data.qpos[:] = 0
            env.step(np.zeros(1, np.float32))
            levels.append(env.frame()[60, 100].astype(float))
    # The brown pole, whose light is ambient alone.
    np.testing.assert_allclose(levels, [[51, 38, 25], [101, 76, 51]], atol=1.5)


def test_cameras_move_and_turn_as_far_as_they_say() -> None:
    stood = load_task("drawer_open").cameras
    for episode in range(5):
        moved = looks.cameras(stood, {"camera_position_m": 0.04, "camera_rotation_rad": 0.1}, episode)
        for key in ("judge", "video"):
            assert np.linalg.norm(np.subtract(moved[key].position, stood[key].position)) == pytest.approx(0.04)
            old, new = (np.reshape(c[key].xyaxes, (2, 3)) for c in (stood, moved))
            turned = _matrix(new) @ _matrix(old).T
            assert np.arccos((np.trace(turned) - 1) / 2) == pytest.approx(0.1)
        assert moved["judge"].crop == stood["judge"].crop
        assert moved["judge"].position != moved["video"].position


def _matrix(axes: np.ndarray) -> np.ndarray:
    right = axes[0] / np.linalg.norm(axes[0])
    up = axes[1] - right * (right @ axes[1])
    up = up / np.linalg.norm(up)
    return np.stack([right, up, np.cross(right, up)], axis=1)


def test_distractors_stand_in_their_places_beside_each_other() -> None:
    pytest.importorskip("metaworld", reason="extra 'sims' is not installed")
    variation = _task("drawer_open", distractors=(4, 4)).variation
    for episode in range(50):
        props = looks.props(variation, 4, episode)
        assert len(props) == 4
        for prop in props:
            assert 0.25 <= prop.position[0] <= 0.42
            assert 0.5 <= prop.position[1] <= 0.85
            assert prop.position[2] == pytest.approx(prop.size[2])
        gaps = [np.linalg.norm((a.position - b.position)[:2]) for k, a in enumerate(props) for b in props[:k]]
        assert min(gaps) > 0.02


def test_a_heavier_cart_is_slower_by_its_mass() -> None:
    speeds = []
    for factor in (1.0, 2.0):
        with _opened(_task("cartpole", mass_factor=(factor, factor))) as env:
            env.reset(seed=0)
            env.data.qpos[:], env.data.qvel[:] = 0, 0
            env.step(np.ones(1, np.float32))
            speeds.append(env.data.qvel.copy())
    # Twice cart and pole at the same force: half the acceleration, to the last digits.
    np.testing.assert_allclose(speeds[0], 2 * speeds[1], rtol=1e-9)


def test_friction_slows_the_drawer_and_not_the_arm() -> None:
    ways = []
    for factor in (0.5, 1.0, 20.0):
        with _opened(_task("drawer_open", friction_factor=(factor, factor))) as env:
            env.reset(seed=0)
            joint = env.model.joint("goal_slidey")
            env.data.qvel[joint.dofadr[0]] = -0.5
            for _ in range(3):
                env.step(np.zeros(4, np.float32))
            ways.append(-env.data.qpos[joint.qposadr[0]])
            assert env.model.dof_damping[0] == 10
            assert env.model.dof_damping[joint.dofadr[0]] == pytest.approx(2 * factor)
    assert ways[0] > 1.02 * ways[1] > 1.04 * ways[2] > 0


def test_a_delay_of_k_steps_carries_out_actions_exactly_k_steps_later() -> None:
    with _opened(_task("cartpole", action_delay_steps=(0, 5))) as env, _opened(_task("cartpole")) as plain:
        seen = set()
        for seed in range(12):
            env.reset(seed=seed), plain.reset(seed=seed)
            late = int(env.drawn["action_delay_steps"])
            seen.add(late)
            actions = _actions(env, 12, seed)
            shifted = np.concatenate([np.zeros((late, 1), np.float32), actions])[:12]
            for ours, theirs in zip(actions, shifted, strict=True):
                np.testing.assert_array_equal(env.step(ours)[0]["state"], plain.step(theirs)[0]["state"])
        assert len(seen) > 3


def test_noise_on_actions_is_of_its_size_and_changes_the_trajectory() -> None:
    with _opened(_task("cartpole", action_noise=(0.2, 0.2))) as env:
        env.reset(seed=0)
        done = np.array([env._varying.act(np.zeros(1, np.float32), k)[0] for k in range(2000)])
        assert done.std() == pytest.approx(0.2, rel=0.05)
        assert abs(done.mean()) < 0.02


def test_pushes_act_a_fifth_of_the_time_and_leave_nothing_behind() -> None:
    with _opened(_task("drawer_open", push_n=(20, 20))) as env:
        env.reset(seed=0)
        pushed, drawer = [], env.model.body("drawer_link").id
        for k in range(4000):
            env._varying.push(k)
            forces = env.data.xfrc_applied
            assert np.flatnonzero(forces.any(axis=1)).tolist() in ([], [drawer])
            pushed.append(np.linalg.norm(forces[drawer, :3]))
        assert set(np.round(pushed, 6)) == {0.0, 20.0}
        assert np.mean(pushed) / 20 == pytest.approx(0.2, abs=0.05)
        env.step(np.zeros(4, np.float32))
        assert not env.data.xfrc_applied.any()


@pytest.mark.parametrize(
    "key", ["mass_factor", *ACTIONS, *(pytest.param(k, marks=pytest.mark.slow) for k in ("friction_factor", "push_n"))]
)
def test_what_acts_changes_the_trajectory(key: str) -> None:
    name = "drawer_open" if key in ("friction_factor", "push_n") else "cartpole"
    ends = []
    for ranges in ({}, {key: (FORCES | ACTIONS)[key]}):
        with _opened(_task(name, **ranges)) as env:
            env.reset(seed=1)
            if name == "drawer_open":
                env.data.qvel[-1] = -0.5
            for action in _actions(env, 25):
                env.step(action)
            ends.append(_physics(env))
    assert np.abs(ends[0] - ends[1]).max() > 1e-4


def test_noise_on_observations_is_of_its_size_and_leaves_the_truth_alone() -> None:
    with _opened(_task("cartpole", observation_noise=(0.02, 0.02))) as env, _opened(_task("cartpole")) as plain:
        env.reset(seed=3), plain.reset(seed=3)
        gaps = []
        for action in _actions(env, 300):
            noisy, reward, *_, info = env.step(action)
            true, wanted, *_, told = plain.step(action)
            gaps.append((noisy["state"] - true["state"])[[0, 1, 3]])
            assert (reward, info["progress"], info["success"]) == (wanted, told["progress"], told["success"])
            assert env.observation_space.contains(noisy)
        assert np.std(gaps) == pytest.approx(0.02, rel=0.1)


def test_dropped_frames_show_what_was_seen_before() -> None:
    with _opened(_task("cartpole", dropped_frames=(0.4, 0.4))) as env, _opened(_task("cartpole")) as plain:
        seen, true = [env.reset(seed=3)[0]["state"]], [plain.reset(seed=3)[0]["state"]]
        for action in _actions(env, 100):
            seen.append(env.step(action)[0]["state"])
            true.append(plain.step(action)[0]["state"])
        dropped = [not np.array_equal(s, t) for s, t in zip(seen, true, strict=True)]
        for k in np.flatnonzero(dropped):
            np.testing.assert_array_equal(seen[k], seen[k - 1])
        assert not dropped[0]
        assert 0.25 < np.mean(dropped) < 0.55


# State, store, Gymnasium


@pytest.mark.parametrize("name", ["cartpole", "drawer_open"])
def test_a_restored_state_continues_exactly_and_looks_the_same(name: str) -> None:
    forces = {k: v for k, v in FORCES.items() if name != "cartpole" or k != "friction_factor"}
    delay = {"action_delay_steps": (1, 4), "action_noise": (0.1, 0.1)}
    task = _task(name, **LOOKS, **forces, **delay, **SENSES)
    with _opened(task) as env, _opened(task) as other:
        env.reset(seed=3)
        _run(env, _actions(env, 12, seed=1))
        state, picture, seen = env.sim_state(), env.frame(), env.observe()["state"]
        video, actions = env.frame("video"), _actions(env, 15, seed=2)
        onward = _run(env, actions)
        for again in (other, env):
            again.set_sim_state(state)
            np.testing.assert_array_equal(again.sim_state(), state)
            np.testing.assert_array_equal(again.observe()["state"], seen)
            np.testing.assert_array_equal(again.frame(), picture)
            np.testing.assert_array_equal(again.frame("video"), video)
            np.testing.assert_array_equal(_run(again, actions), onward)
            assert again.drawn == env.drawn


def test_a_state_of_another_variation_is_refused() -> None:
    light, dark = (_task("cartpole", light_factor=bounds) for bounds in ((1.0, 1.5), (0.5, 0.9)))
    with _opened(light) as env, _opened(dark) as other, _opened(_task("cartpole")) as plain:
        env.reset(seed=0)
        with pytest.raises(DataError, match=r"another variation of 'cartpole', which here is {'light_factor': \[0.5"):
            other.set_sim_state(env.sim_state())
        with pytest.raises(DataError, match="numbers, found"):
            plain.set_sim_state(env.sim_state())


def test_settings_and_store_say_what_varies(tmp_path: "Path") -> None:
    task = load_task("cartpole@train")
    assert task.settings()["variation"] == task.variation.settings()
    assert json.loads(json.dumps(task.settings())) == task.settings()
    store = create_store(tmp_path / "store", task)
    store.append(list(collect(task, Config(episodes=2, steps=3))))
    assert store.meta["render"]["judge"]["variation"]["mass_factor"] == [0.7, 1.4]
    episode = store.episode(store.episodes.id[1])
    assert episode.sim_state is not None
    with _opened(task) as env:
        env.set_sim_state(episode.sim_state[0])
        np.testing.assert_array_equal(env.frame(), episode.images["judge"].pixels[0])


@pytest.mark.parametrize("name", ["cartpole@held_out", pytest.param("drawer_open@held_out", marks=pytest.mark.slow)])
def test_gymnasium_s_own_check_passes_for_varied_tasks(name: str) -> None:
    import gymnasium
    from gymnasium.utils.env_checker import check_env

    from vlmrl.sim.register import ANY, register_envs

    if name.startswith("drawer"):
        pytest.importorskip("metaworld", reason="extra 'sims' is not installed")
    register_envs()
    env = gymnasium.make(ANY, task=name, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.close()


# Suites


@pytest.mark.parametrize("name", suites.suite_names())
def test_every_suite_has_conditions_of_rising_strength(name: str) -> None:
    found = suites.conditions(load_task("drawer_open"), name)
    assert found[0] == suites.Condition("nominal", load_task("drawer_open"))
    assert len({c.task.name for c in found}) == len(found) == 5
    strengths = [sum(max(getattr(c.task.variation, key), default=0) for key in RANGES) for c in found]
    assert strengths == sorted(set(strengths))
    assert suites.about(name)


def test_there_are_suites_of_delay_disturbance_dropped_frames_and_camera_shift() -> None:
    assert {"delay", "disturbance", "dropped_frames", "camera_shift"} <= set(suites.suite_names())


def test_a_suite_starts_every_condition_from_the_same_states_and_compares_with_the_nominal(tmp_path: "Path") -> None:
    task = load_task("cartpole")
    starts = []
    for condition in suites.conditions(task, "delay"):
        with _opened(condition.task) as env:
            starts.append([env.reset(seed=s)[0]["state"] for s in (1_000_000, 1_000_001)])
    for start in starts[1:]:
        np.testing.assert_array_equal(start, starts[0])
    lines = suites.run(task, "delay", Candidate("expert"), Plan(2), tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    assert suites.text(suites.run(task, "delay", Candidate("expert"), Plan(2, workers=2), tmp_path)) == suites.text(
        lines
    )
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    assert [line.label for line in lines][:2] == ["nominal", "action_delay_steps 1"]
    assert (lines[0].success.estimate, lines[-1].success.estimate, lines[-1].versus.estimate) == (1, 0, -1)
    assert lines[0].versus.estimate == 0
    assert "action_delay_steps 8" in suites.text(lines)
    assert json.loads(json.dumps(suites.as_json(lines)))[-1]["episodes"] == [False, False]


def test_a_suite_adds_to_what_a_task_varies() -> None:
    task = load_task("cartpole@train")
    last = suites.conditions(task, "delay")[-1].task
    assert last.variation == replace(task.variation, action_delay_steps=(8.0, 8.0))


def test_a_suite_of_one_s_own_is_found_and_its_mistakes_are_told(
    tmp_path: "Path", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "conf" / "suite"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("about: late\nconditions:\n  - {delay: 1}\n", encoding="utf-8")
    task = load_task("cartpole")
    with pytest.raises(ConfigError, match="unknown value that varies 'delay'; have: action_delay_steps"):
        suites.conditions(task, "mine")
    (folder / "mine.yaml").write_text("about: late\nconditions:\n  - {action_delay_steps: [1, 3]}\n", encoding="utf-8")
    assert suites.conditions(task, "mine")[1].label == "action_delay_steps 1 to 3"
    with pytest.raises(ConfigError, match=r"unknown suite 'yours'; have: camera_shift, .*mine"):
        suites.conditions(task, "yours")


def test_the_command_lists_suites_and_refuses_what_it_cannot_test() -> None:
    from vlmrl.cli.suite import main

    listed = main(None)
    assert all(name in listed for name in suites.suite_names())
    for settings in (["suite=delay"], ["suite=delay", "policy=expert", "judge=seen"]):
        with pytest.raises(ConfigError, match=r"either a policy .* or a judge"):
            main(settings)
    with pytest.raises(ConfigError, match="unknown setting 'sweet'; have: episodes, judge, out"):
        main(["sweet=delay"])


def test_the_command_writes_what_it_prints(tmp_path: "Path") -> None:
    from vlmrl.cli.suite import main

    printed = main(["suite=delay", "task=cartpole", "policy=expert", "episodes=1", f"out={tmp_path}"])
    content = json.loads((tmp_path / "suite.json").read_text())
    assert content["conditions"][0]["condition"] == "nominal"
    assert all(c["condition"] in printed for c in content["conditions"])


def test_a_judge_s_interval_is_that_of_its_episodes_not_of_its_pairs() -> None:
    from vlmrl.judge.robustness import Line

    many = 400
    episodes = np.repeat(np.arange(4)[:, None], many, axis=0).repeat(2, axis=1)
    correct = episodes[:, 0] < 3
    found = Line("x", 4 * many, correct, episodes).interval()
    # Three good episodes and a bad one: what four episodes can tell, however many pairs they give.
    assert found.estimate == 0.75
    assert found.low <= 0.25
    assert found.high == 1
    sure = Line("x", 8, np.ones(8, np.bool_), episodes[:8]).interval()
    assert (sure.low, sure.high) == (1, 1)


@pytest.mark.slow
def test_a_judge_is_asked_the_same_pairs_under_every_condition() -> None:
    from vlmrl.judge.robustness import examine

    pytest.importorskip("metaworld", reason="extra 'sims' is not installed")
    found = suites.conditions(load_task("drawer_open"), "camera_shift")
    name, lines = examine([found[0], found[0], found[-1]], "seen", episodes=4, pairs=100)
    assert name.startswith("judge seen")
    assert lines[0].asked == lines[1].asked == lines[2].asked > 0
    np.testing.assert_array_equal(lines[0].correct, lines[1].correct)
    assert lines[2].correct.mean() < lines[0].correct.mean()
