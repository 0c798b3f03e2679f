"""What `vlmrl task` tells and draws of a task."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vlmrl.cli.utilities import app
from vlmrl.sim import load_task
from vlmrl.sim.card import card, pictures
from vlmrl.sim.sheet import sheet


def test_a_card_tells_sentence_units_success_and_id() -> None:
    told = card(load_task("cartpole"))
    for line in (
        "sentence      to balance the brown pole on the black cart upright",
        "100 control steps at 50 Hz (2 s)",
        "joint_within (joint hinge, limit 0.0872665): The joint is nearer to zero than `limit`., held for 100 steps",
        "pole_velocity, rad/s (-100 to 100)",
        "force: 1 is 10 N",
        "vlmrl/Cartpole-v0",
    ):
        assert line in told


def test_a_card_says_that_fixed_starts_are_for_papers_only() -> None:
    pytest.importorskip("metaworld", reason="extra 'sims' is not installed")
    assert "rates are 0 or 100 %" in card(load_task("drawer_open_paper"))


def test_pictures_show_start_and_what_the_expert_reaches() -> None:
    shots = pictures(load_task("cartpole"))
    assert list(shots) == ["start, judge", "start, video", "success, judge", "success, video"]
    assert not np.array_equal(shots["start, judge"], shots["success, judge"])


def test_a_sheet_holds_every_picture(tmp_path: Path) -> None:
    colours = [np.full((20, 30, 3), value, np.uint8) for value in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    cells = [(f"task {i}", "a sentence " * 40, {"start": colour}) for i, colour in enumerate(colours)]
    drawn = np.asarray(Image.open(sheet(cells, tmp_path / "sheet.png", columns=2, height=20)))
    for colour in colours:
        assert (drawn == colour[0, 0]).all(axis=-1).sum() >= 20 * 30 * 0.9


def test_show_prints_the_card_with_the_question_a_model_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["task", "show", "cartpole"])
    assert "question      The goal is: to balance the brown pole on the black cart upright. Compare" in done.output
    assert (tmp_path / "cartpole.png").is_file()


def test_an_unknown_start_of_a_name_lists_the_tasks() -> None:
    done = CliRunner().invoke(app, ["task", "sheet", "bicycle"])
    assert "no task starts with 'bicycle'; have: adroit_door, " in str(done.exception)
