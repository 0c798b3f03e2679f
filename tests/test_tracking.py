"""Trackers mirror what metrics.jsonl holds, value for value."""

import sys
import time
from pathlib import Path

import pytest

from vlmrl.errors import ConfigError
from vlmrl.tracking import TrackerName, tracked

FIGURES = ((0, {"loss": 2.5, "success": 0.25}), (10, {"loss": 1.5, "success": 0.5}))


def write(name: TrackerName, folder: Path) -> list[dict[str, float]]:
    with tracked(name, folder / "metrics.jsonl", run="bc, seed 0", facts={"seed": 0}) as metrics:
        for step, values in FIGURES:
            metrics.write("train", step, values)
    return metrics.read("train")


def test_tensorboard_receives_every_figure_that_the_file_has(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert write("tensorboard", tmp_path) == [{"name": "train", "step": s, **v} for s, v in FIGURES]
    events = EventAccumulator(str(tmp_path)).Reload()
    for key in ("loss", "success"):
        found = [(event.step, event.value) for event in events.Scalars(f"train/{key}")]
        assert found == [(step, values[key]) for step, values in FIGURES]


def test_wandb_keeps_a_run_of_its_own_for_each_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("seed0", "seed1"):
        (tmp_path / name).mkdir()
        write("wandb", tmp_path / name)
        (kept,) = (tmp_path / name / "wandb").glob("offline-run-*/*.wandb")
        until = time.monotonic() + 60  # a process of W&B's own writes the file
        while b"train/success" not in kept.read_bytes():
            assert time.monotonic() < until, f"{kept} never received the figures"
            time.sleep(0.05)


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_tracker_that_is_not_installed_is_named(
    name: TrackerName, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with (
        pytest.raises(ConfigError, match=rf"pip install 'vlmrl\[{name}\]'"),
        tracked(name, tmp_path / "metrics.jsonl", run="", facts={}),
    ):
        pass
