"""Reading `task.yaml`: strict keys, types, predicates."""

import re
from pathlib import Path

import mujoco
import numpy as np
import pytest

from vlmrl.errors import ConfigError
from vlmrl.sim import expert, load_task, make, matching, task_names
from vlmrl.sim.env import SimEnv
from vlmrl.sim.task import Task

GOOD = """
instruction: to wave
physics: {family: cartpole}
horizon: 10
control_hz: 50
success: {predicate: joint_within, joint: hinge, limit: 0.1}
progress: {measure: joint_centred, joint: hinge, limit: 1}
cameras:
  judge: {position: [0, -1, 0], xyaxes: [1, 0, 0, 0, 0, 1]}
  video: {position: [0, -2, 0], xyaxes: [1, 0, 0, 0, 0, 1], robot: true}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tasks" / "wave" / "task.yaml"
    path.parent.mkdir(parents=True)
    return path


def _load(path: Path, text: str) -> Task:
    path.write_text(text, encoding="utf-8")
    return load_task("wave")


def test_a_folder_of_one_s_own_is_a_task(own: Path) -> None:
    task = _load(own, GOOD)
    assert (task.name, task.folder, task.hold, task.resets.fixed) == ("wave", own.parent, 1, False)
    assert task.cameras["judge"].position == (0.0, -1.0, 0.0)
    assert [task.cameras[c].robot for c in ("judge", "video")] == [False, True]


def test_a_folder_of_one_s_own_hides_the_packaged_task(own: Path) -> None:
    own.parent.rename(own.parents[1] / "cartpole")
    (own.parents[1] / "cartpole" / "task.yaml").write_text(GOOD, encoding="utf-8")
    assert load_task("cartpole").instruction == "to wave"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "horizon: 10",
            "horizon: 10\nhorizont: 3",
            r"unknown key 'horizont'; have: ask, baseline, camera, cameras, .*horizon",
        ),
        ("horizon: 10", "horizon: ten", r"horizon: int wanted, found 'ten'"),
        ("horizon: 10", "horizon: true", r"horizon: int wanted, found True"),
        ("horizon: 10", "horizon: 0", r"must be positive"),
        ("control_hz: 50", "control_hz: 5e1", r"control_hz: float wanted, found '5e1'"),
        ("horizon: 10\n", "", r"missing key 'horizon'"),
        ("robot: true", "robots: true", r"cameras.video: unknown key 'robots'; have: crop, flip, follow"),
        ("position: [0, -1, 0]", "position: [0, -1]", r"cameras.judge: position has 3 numbers"),
        ("position: [0, -1, 0]", "position: [0, -1, x]", r"position\[2\]: float wanted, found 'x'"),
        ("position: [0, -1, 0]", "position: [0, -1, 0], crop: [0, 0, 0, 1]", r"crop: left, top, right, bottom"),
        ("joint_within", "joint_inside", r"unknown predicate 'joint_inside'; have: joint_beyond, joint_within"),
        ("hinge, limit: 0.1", "hinge, value: 0.1", r"joint_within takes joint, limit; found joint, value"),
        ("hinge, limit: 1}", "hinge, limit: wide}", r"limit: float wanted, found 'wide'"),
        (
            "{family: cartpole}",
            "{family: cartpole, engine: 3}",
            r"physics: unknown key 'engine'; have: family, name, options",
        ),
        ("{family: cartpole}", "cartpole", r"physics: Physics wanted, found 'cartpole'"),
        ("  video:", "  film:", r"unknown camera 'video'; have: film, judge"),
        ("instruction: to wave", "instruction: to wave\nname: x", r"keys 'name' and 'folder' follow"),
        ("{family: cartpole}", "{family", r"not valid YAML"),
    ],
)
def test_a_mistake_is_told_with_what_is_wanted(own: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=message):
        _load(own, GOOD.replace(old, new))


def test_the_documentation_s_example_works_as_printed(
    own: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("metaworld", reason="extra 'sims' is not installed")
    pages = (root / "docs" / "adding_a_task.md").read_text(encoding="utf-8")
    yaml, python = (re.search(rf"```{kind}\n(.*?)```", pages, re.DOTALL) for kind in ("yaml", "python"))
    assert yaml is not None
    assert python is not None
    path = own.parents[1] / "window_open" / "task.yaml"
    path.parent.mkdir()
    path.write_text(yaml.group(1), encoding="utf-8")
    exec(python.group(1), {})
    assert capsys.readouterr().out.count("'success': True") == 3
    assert len(list(Path.cwd().glob("*.png"))) == 6


def test_a_pattern_stands_for_the_tasks_that_fit_it() -> None:
    assert matching(["so101/*", "soccer", "so101/reach"]) == ["so101/pick", "so101/push", "so101/reach", "soccer"]
    with pytest.raises(ConfigError, match="unknown task 'nothing/\\*'"):
        matching(["nothing/*"])


def test_an_unknown_task_lists_those_there_are(own: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown task 'drawer'; have: .*cartpole, .*drawer_open, .*wave"):
        load_task("drawer")


def test_an_empty_folder_says_what_is_missing(own: Path) -> None:
    with pytest.raises(ConfigError, match=r"task 'wave': .*task.yaml is missing"):
        load_task("wave")


# Predicates


QUICK = ("cartpole", "metaworld/window-close-v3")
EVERY = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in task_names()]


@pytest.mark.parametrize("name", EVERY)
def test_success_is_stable_under_small_noise_at_the_start_and_at_the_goal(name: str) -> None:
    package = {"metaworld": "metaworld", "robosuite": "robosuite", "gymnasium": "gymnasium_robotics"}
    task = load_task(name)
    if task.physics.family in package:
        pytest.importorskip(package[task.physics.family], reason="not installed", exc_type=ImportError)
    env = make(task)
    try:
        env.reset(seed=3)
        assert not any(_shaken(env, env.sim_state(), np.zeros(env.action_space.shape, np.float32)))
        if reached := _reached(env):
            assert all(_shaken(env, *reached))
    finally:
        env.close()


def _reached(env: SimEnv) -> tuple[np.ndarray, np.ndarray] | None:
    """State and action before the fifth step of success in a row, or the last of an episode that ends in success."""
    try:
        policy = expert(env.task)
    except ConfigError:
        return None
    for seed in range(5):
        (observation, _), in_a_row = env.reset(seed=seed), 0
        policy.reset(seed)
        for step in range(env.task.horizon):
            state, action = env.sim_state(), policy.action(observation)
            observation, _, _, _, info = env.step(action)
            in_a_row = in_a_row + 1 if info["success"] else 0
            if in_a_row == 5 or (info["success"] and step == env.task.horizon - 1):
                return state, action
    pytest.fail(f"the expert of {env.task.name} never stays at the goal")


def _shaken(env: SimEnv, state: np.ndarray, action: np.ndarray) -> list[bool]:
    """Success one step after positions were moved by a tenth of a millimetre or milliradian."""
    generator, told = np.random.default_rng(0), []
    for _ in range(8):
        env.set_sim_state(state)
        env.data.qpos[:] += generator.normal(0, 1e-4, env.model.nq)
        mujoco.mj_forward(env.model, env.data)
        told.append(bool(env.step(action)[4]["success"]))
    return told
