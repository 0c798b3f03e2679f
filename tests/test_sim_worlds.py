"""Tasks without Python of their own: Meta-World's fifty, Gymnasium environments by id, Adroit, the papers' variants."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import pytest
import yaml
from gymnasium import spaces

from vlmrl.errors import ConfigError, DataError
from vlmrl.sim import expert, load_task, make, task_names
from vlmrl.sim.register import ids
from vlmrl.sim.task import Camera, Physics, Task

if TYPE_CHECKING:
    from vlmrl.sim.env import SimEnv

METAWORLD = [name for name in task_names() if name.startswith("metaworld/")]
GYMNASIUM = [n for n in task_names() if load_task(n).physics.family == "gymnasium"]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with room for one's own Meta-World tasks."""
    (tmp_path / "tasks" / "metaworld").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tasks"


@contextmanager
def _made(task: Task) -> Iterator["SimEnv"]:
    package = {"metaworld": "metaworld", "gymnasium": "gymnasium_robotics", "robosuite": "robosuite"}
    if task.physics.family in package and task.physics.name != "vlmrl_tests/Walk-v0":
        pytest.importorskip(package[task.physics.family], reason="extra 'sims' is not installed", exc_type=ImportError)
    env = make(task)
    yield env
    env.close()


def _run(env: "SimEnv", steps: int, seed: int) -> np.ndarray:
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)
    rows = []
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        rows.append(np.concatenate([observation["state"], [reward, info["progress"]], env.sim_state()]))
    return np.stack(rows)


def _some(chosen: list[str], everything: list[str]) -> list[Any]:
    return [*chosen, *(pytest.param(n, marks=pytest.mark.slow) for n in everything if n not in chosen)]


# What must hold for every task


@pytest.mark.parametrize("name", _some(["metaworld/reach-v3", "adroit_relocate", "fetch_push"], METAWORLD + GYMNASIUM))
def test_starts_come_from_the_seed_and_are_no_success_and_a_state_continues_exactly(name: str) -> None:
    with _made(load_task(name)) as env:
        assert len({env.reset(seed=s)[0]["state"].tobytes() for s in range(4)}) == 4
        _, info = env.reset(seed=5)
        start = env.sim_state()
        assert info["success"] is False
        assert info["progress"] < 0.99
        env.reset(seed=6)
        _run(env, 15, seed=0)
        env.reset(seed=5)
        np.testing.assert_array_equal(env.sim_state(), start)
        _run(env, 20, seed=1)
        state, picture = env.sim_state(), env.frame()
        onward = _run(env, 10, seed=2)
        with _made(env.task) as other:
            other.reset(seed=99)
            other.set_sim_state(state)
            np.testing.assert_array_equal(other.sim_state(), state)
            np.testing.assert_array_equal(other.frame(), picture)
            again = _run(other, 10, seed=2)
        if name == "metaworld/bin-picking-v3":
            # Its reward depends on what its earlier rewards were, which it does not keep in the state.
            again[:, onward.shape[1] - start.size - 2] = onward[:, onward.shape[1] - start.size - 2]
        np.testing.assert_array_equal(again, onward)


@pytest.mark.parametrize("name", _some(["metaworld/assembly-v3", "metaworld/window-close-v3"], METAWORLD))
def test_expert_s_progress_goes_from_nothing_to_all(name: str) -> None:
    with _made(load_task(name)) as env:
        policy, solved = expert(env.task), 0
        for seed in range(4):
            observation, info = env.reset(seed=seed)
            assert info["progress"] == pytest.approx(0, abs=0.01)
            for _ in range(env.task.horizon):
                observation, _, _, _, info = env.step(policy.action(observation))
                if info["success"]:
                    assert info["progress"] >= 0.95
                    solved += 1
                    break
        assert solved >= 2


# Meta-World


def test_every_task_of_meta_world_is_here_by_its_own_name() -> None:
    table = pytest.importorskip("metaworld.env_dict", reason="extra 'sims' is not installed").ALL_V3_ENVIRONMENTS
    assert {f"metaworld/{name}" for name in table} == set(METAWORLD)
    assert all(load_task(name).physics.name == name.partition("/")[2] for name in METAWORLD)


def test_meta_world_tasks_say_the_judge_s_first_sentence(root: Path) -> None:
    told = yaml.safe_load((root / "conf" / "judge" / "tasks.yaml").read_text())["tasks"]
    for name in METAWORLD:
        task = load_task(name)
        assert task.instruction == f"to {told[task.physics.name]['sentences'][0]}"
        assert task.caption
        assert task.baseline
        assert task.render.sites == (told[task.physics.name].get("goal") == "marker")


def test_ids_of_groups_are_gymnasium_s_kind() -> None:
    assert ids()["vlmrl/MetaworldWindowCloseV3-v0"] == "metaworld/window-close-v3"
    assert len(set(ids())) == len(task_names())


def test_one_file_of_one_s_own_is_a_new_meta_world_task(mine: Path) -> None:
    text = """
instruction: to close the window
physics: {name: window-close-v3, options: {moves: object, done: 0.1}}
horizon: 120
cameras:
  judge: {position: [0.3, -0.3, 0.6], xyaxes: [0.94, 0.34, 0, -0.15, 0.4, 0.9]}
"""
    (mine / "metaworld" / "mine.yaml").write_text(text)
    assert "metaworld/mine" in task_names()
    with _made(load_task("metaworld/mine")) as env:
        policy = expert(env.task)
        observation, info = env.reset(seed=0)
        first = info["progress"]
        while not info["success"]:
            observation, _, _, truncated, info = env.step(policy.action(observation))
            assert not truncated
        assert (first, info["progress"]) == (0, pytest.approx(1, abs=0.06))
        assert env.frame().shape == (128, 128, 3)
        assert env.frame("video").shape == (320, 400, 3)


def test_state_tells_the_goal_only_where_the_task_says_so() -> None:
    with _made(load_task("metaworld/reach-v3")) as env:
        observation, _ = env.reset(seed=1)
        goal = observation["state"][36:]
        np.testing.assert_allclose(goal, env._dynamics.target, atol=1e-6)
        assert env.observation_space.contains(observation)
        hidden = replace(env.task, physics=replace(env.task.physics, options={"done": 0.05}))
    with _made(hidden) as env:
        np.testing.assert_array_equal(env.reset(seed=1)[0]["state"][36:], 0)


def test_the_mark_stands_at_the_goal_and_nothing_else_is_marked() -> None:
    task = load_task("metaworld/push-v3")
    with _made(task) as env, _made(replace(task, render=replace(task.render, sites=False))) as plain:
        places = []
        for seed in range(2):
            env.reset(seed=seed)
            plain.reset(seed=seed)
            rows, columns = np.nonzero((env.frame() != plain.frame()).any(axis=-1))
            assert 4 < len(rows) < 400
            assert np.ptp(rows) < 25
            places.append((rows.mean(), columns.mean()))
        assert np.abs(np.subtract(*places)).max() > 3
        np.testing.assert_allclose(env.data.site("goal").xpos, env._dynamics.target)


def test_unknown_options_and_places_are_refused_with_the_choices() -> None:
    pytest.importorskip("metaworld", reason="extra 'sims' is not installed")
    task = load_task("metaworld/assembly-v3")
    for options, message in (
        ({"goals": True}, r"unknown key 'goals'; have: .*goal"),
        ({"moves": "ring"}, r"unknown site or body 'ring'; have: .*RoundNut"),
        ({"paint": {"ring": [1.0, 0.0, 0.0]}}, r"unknown body to paint 'ring'; have: .*RoundNut"),
        ({"paint": {"peg": [1.0]}}, r"red, green and blue wanted, found \[1.0\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            make(replace(task, physics=replace(task.physics, options=options)))
    with pytest.raises(ConfigError, match="has no mark for its goal"):
        make(replace(task, render=replace(task.render, sites=True)))


# RL-VLM-F's variants


@pytest.mark.parametrize(
    ("name", "place", "goal", "hand"),
    [
        ("soccer_paper", (0, 0.65), (0, 0.85, 0), (0, 0.56, 0.05)),
        ("sweep_into_paper", (0, 0.65), (0, 0.84, 0.02), (0, 0.53, 0.05)),
    ],
)
def test_paper_variants_start_at_the_paper_s_poses(
    name: str, place: tuple[float, ...], goal: tuple[float, ...], hand: tuple[float, ...]
) -> None:
    with _made(load_task(name)) as env:
        observation, info = env.reset(seed=3)
        np.testing.assert_allclose(observation["state"][4:6], place, atol=0.005)
        np.testing.assert_allclose(env._dynamics.target, goal)
        # The table with the hole is 5 cm higher than the hand is told to go.
        np.testing.assert_allclose(observation["state"][:3], hand, atol=0.05)
        assert (env.task.resets.fixed, env.task.horizon, info["success"]) == (True, 500, False)
        assert env.frame().shape == (300, 300, 3)


def test_ball_in_the_goal_and_cube_in_the_hole_are_success() -> None:
    for name, joint in (("soccer", None), ("sweep_into", "objjoint")):
        with _made(load_task(name)) as env:
            env.reset(seed=2)
            body = env.model.body("soccer_ball" if joint is None else "obj")
            address = env.model.jnt_qposadr[body.jntadr[0]]
            env.data.qpos[address : address + 2] = env._dynamics.target[:2]
            info = env.step(np.zeros(4, np.float32))[4]
            assert (info["success"], info["progress"]) == (True, pytest.approx(1))


def test_the_paper_s_pole_goes_on_gathering_speed_at_its_stop() -> None:
    speeds = []
    for name in ("cartpole", "cartpole_paper"):
        with _made(load_task(name)) as env:
            env.reset(seed=0)
            env.data.qpos[1], env.data.qvel[1] = 0.52, 1.0
            for _ in range(5):
                observation = env.step(np.zeros(1, np.float32))[0]["state"]
            speeds.append(observation[3])
            assert observation[2] == pytest.approx(np.radians(30))
    assert speeds[0] == 0
    assert speeds[1] > 1.3


# Gymnasium


class Walk(gymnasium.Env[Any, Any]):
    """A walk on a line that ends at 3, pushed about by chance."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own way)
    observation_space = spaces.Dict({"achieved_goal": spaces.Box(-9, 9, (1,)), "desired_goal": spaces.Box(-9, 9, (1,))})
    action_space = spaces.Box(-2, 4, (1,), np.float32)
    secret: "list[Any] | None" = None

    def __init__(self, render_mode: str | None = None, step_size: float = 0.1, *, hides: bool = False) -> None:
        self.render_mode, self.step_size, self.last, self.hides = render_mode, step_size, None, hides

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.last = (float(self.np_random.uniform(-1, 1)),), None
        self.secret = [{"place": self.place[0]}]
        return self._told(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        start = self.secret[0]["place"] if self.hides else self.place[0]
        self.place = (start + float(action[0]) * self.step_size + self.np_random.normal(0, 1e-3),)
        self.secret[0]["place"] = self.place[0]
        self.last = float(action[0])
        return self._told(), self.last, self.place[0] >= 3, False, {"near": np.bool_(self.place[0] > 2.5), "name": "x"}

    def render(self) -> Any:
        picture = np.zeros((40, 60, 3), np.uint8)
        picture[:, int(np.clip(20 + 10 * self.place[0], 0, 59))] = 255
        return picture

    def _told(self) -> Any:
        return {"achieved_goal": np.float32(self.place), "desired_goal": np.float32([3])}


def _walk(**arguments: Any) -> Task:
    if "vlmrl_tests/Walk-v0" not in gymnasium.registry:
        gymnasium.register("vlmrl_tests/Walk-v0", Walk, max_episode_steps=5)
    options = {"arguments": arguments, "signals": {"place": ["achieved_goal_0"]}}
    camera = Camera((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), height=20, width=30)
    return Task(
        "walk",
        "to walk",
        Physics("gymnasium", "vlmrl_tests/Walk-v0", options),
        40,
        10.0,
        {"judge": camera, "video": camera},
        {"predicate": "signal_above", "signal": "near", "value": 1},
        {"measure": "signal_travel", "signal": "place", "start": 0, "end": 3},
    )


def test_actions_are_scaled_and_time_limits_are_the_task_s() -> None:
    with _made(_walk(step_size=0.01)) as env:
        env.reset(seed=0)
        rewards = [env.step(np.array([a], np.float32))[1] for a in (-1, 0, 1)]
        assert rewards == [-2, 1, 4]
        assert env.action_units == ("4",)
        ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(37)]
        assert ends == [(False, False)] * 36 + [(False, True)]


def test_what_ended_stands_still_and_pays_nothing() -> None:
    with _made(_walk()) as env:
        _, info = env.reset(seed=0)
        assert (info["signals"]["terminated"], info["signals"]["near"]) == (0, 0)
        while not info["signals"]["terminated"]:
            _, reward, terminated, _, info = env.step(np.ones(1, np.float32))
            assert (reward, terminated) == (4, False)
        assert (info["success"], info["progress"], info["signals"]["to_goal"] <= 0.4) == (True, 1, True)
        state = env.sim_state()
        after = env.step(-np.ones(1, np.float32))
        assert (after[1], after[4]["success"]) == (0, True)
        np.testing.assert_array_equal(env.sim_state()[1:], [state[1] + 1, *state[2:]])


def test_pictures_are_the_environment_s_own_at_the_size_asked_for() -> None:
    with _made(_walk()) as env:
        env.reset(seed=0)
        first = env.frame()
        env.step(np.ones(1, np.float32))
        assert first.shape == (20, 30, 3)
        assert not np.array_equal(first, env.frame())


def test_numbers_and_chance_of_an_environment_are_its_state() -> None:
    with _made(_walk()) as env, _made(_walk()) as other:
        env.reset(seed=3)
        state = env.sim_state()
        onward = _run(env, 6, seed=0)
        other.reset(seed=8)
        _run(other, 3, seed=1)
        other.set_sim_state(state)
        assert other._dynamics._inner.last is None
        np.testing.assert_array_equal(_run(other, 6, seed=0), onward)


def test_a_state_that_cannot_be_put_back_is_refused() -> None:
    with _made(_walk(hides=True)) as env:
        env.reset(seed=0)
        with pytest.raises(DataError, match="cannot be put back"):
            env.set_sim_state(env.sim_state())


def test_choices_share_the_range_of_the_action() -> None:
    from vlmrl.sim.tasks.gym_spaces import actions

    act = actions(spaces.Discrete(3, start=1), "x")
    assert [act(np.array([a], np.float32)) for a in (-1, -0.4, -0.3, 0.3, 0.4, 1)] == [1, 1, 2, 2, 3, 3]
    with pytest.raises(ConfigError, match="bounded Box or Discrete wanted, found Box"):
        actions(spaces.Box(-np.inf, np.inf, (2,)), "x")


def test_missing_packages_and_wrong_arguments_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    task = _walk()
    for name, arguments, message in (
        ("AdroitHandDor-v1", {}, r"cannot make 'AdroitHandDor-v1'.*pip install 'vlmrl\[sims\]'"),
        ("vlmrl_tests/Walk-v0", {"stride": 1}, r"does not take \{.*'stride': 1\}"),
    ):
        physics = Physics("gymnasium", name, {"arguments": arguments})
        with pytest.raises(ConfigError, match=message):
            make(replace(task, physics=physics))
    physics = replace(task.physics, options={"signals": {"far": ["obs_7"]}})
    with pytest.raises(ConfigError, match="unknown number of the state 'obs_7'; have: achieved_goal_0, desired_goal_0"):
        make(replace(task, physics=physics))
    with pytest.raises(ConfigError, match="family 'gymnasium' has no scripted experts"):
        expert(task)
    monkeypatch.setitem(sys.modules, "pygame", None)
    classic = replace(task, physics=Physics("gymnasium", "MountainCarContinuous-v0"), control_hz=30.0)
    with make(classic) as env, pytest.raises(ConfigError, match=r"needs more than is installed.*vlmrl\[sims\]"):
        env.frame()


@pytest.mark.parametrize("name", ["MountainCarContinuous-v0", "MountainCar-v0", "Acrobot-v1", "CartPole-v1"])
def test_classic_control_needs_only_its_id(name: str) -> None:
    rates = {"MountainCarContinuous-v0": 30.0, "MountainCar-v0": 30.0, "Acrobot-v1": 15.0, "CartPole-v1": 50.0}
    still = {"predicate": "signal_above", "signal": "terminated", "value": 1}
    place = {"measure": "signal_travel", "signal": "place", "start": 0, "end": 1}
    physics = Physics("gymnasium", name, {"signals": {"place": ["obs_0"]}})
    task = replace(_walk(), physics=physics, control_hz=rates[name], success=still, progress=place)
    env, other = make(task), make(task)
    env.reset(seed=0)
    _run(env, 5, seed=0)
    state = env.sim_state()
    onward = _run(env, 30, seed=1)
    other.set_sim_state(state)
    np.testing.assert_array_equal(_run(other, 30, seed=1), onward)
    env.close()
    other.close()


# Adroit


@pytest.mark.parametrize("episodes", [(0, 8, 11, 24), pytest.param(tuple(range(25)), marks=pytest.mark.slow)])
def test_people_s_door_demonstrations_replay_as_they_were_recorded(
    shared_data: Path, episodes: tuple[int, ...]
) -> None:
    """The recordings reach 1.35 rad in eight of 25 themselves; all of them open the door by more than a radian."""
    demos = np.load(shared_data / "adroit_door_human" / "demos.npz")
    starts = [0, *demos["episode_ends"][:-1]]
    agreed = 0
    with _made(load_task("adroit_door")) as env:
        for e in episodes:
            start, end = starts[e], demos["episode_ends"][e]
            env.reset(seed=0)
            names = {"qpos": "init_qpos", "qvel": "init_qvel", "door_body_pos": "init_door_body_pos"}
            env._dynamics._inner.set_env_state({k: demos[v][e] for k, v in names.items()})
            told = [env.step(action)[4] for action in demos["actions"][start:end]]
            recorded = demos["observations"][start:end, 28].max()
            reached = max(t["progress"] for t in told) * 1.35
            assert min(recorded, 1.35) == pytest.approx(reached, abs=0.07)
            assert reached > 1
            agreed += any(t["success"] for t in told) == (recorded >= 1.35)
    assert agreed >= len(episodes) - 1


# robosuite


@pytest.mark.parametrize("name", ["lift", *(pytest.param(n, marks=pytest.mark.slow) for n in ("can", "square"))])
def test_robosuite_s_states_continue_exactly_and_its_keys_are_robomimic_s(name: str) -> None:
    with _made(load_task(f"robosuite/{name}")) as env:
        assert len({env.reset(seed=s)[0]["state"].tobytes() for s in range(3)}) == 3
        observation, info = env.reset(seed=5)
        start = env.sim_state()
        values = dict(zip(env.state_names, observation["state"], strict=True))
        np.testing.assert_allclose(
            [values[f"robot0_gripper_qpos_{i}"] for i in range(2)], env.data.qpos[7:9], rtol=1e-6
        )
        assert (info["success"], info["progress"] < 0.2) == (False, True)
        _run(env, 8, seed=0)
        env.reset(seed=5)
        np.testing.assert_array_equal(env.sim_state(), start)
        _run(env, 8, seed=1)
        state, picture = env.sim_state(), env.frame()
        onward = _run(env, 5, seed=2)
        with _made(env.task) as other:
            other.set_sim_state(state)
            np.testing.assert_array_equal(other.frame(), picture)
            np.testing.assert_array_equal(_run(other, 5, seed=2), onward)


def test_people_s_lifts_end_in_success(shared_data: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="extra 'hdf5' is not installed")
    import mujoco

    with (
        _made(load_task("robosuite/lift")) as env,
        h5py.File(shared_data / "robosuite_lift_human" / "demo.hdf5") as file,
    ):
        env.reset(seed=0)
        for demonstration in file["data"].values():
            told = []
            for state in (demonstration["states"][0], demonstration["states"][-1]):
                env.data.qpos[:], env.data.qvel[:] = state[1 : 1 + env.model.nq], state[1 + env.model.nq :]
                mujoco.mj_forward(env.model, env.data)
                told.append(bool(env._dynamics._env._check_success()))
            assert told == [False, True]
