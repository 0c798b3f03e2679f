"""Reading `task.yaml`: strict keys, types, predicates."""

import re
from pathlib import Path

import pytest

from vlmrl.errors import ConfigError
from vlmrl.sim import load_task, matching
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
