"""Recordings in which a vector environment has reset itself are found; honest ones are left alone."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from vlmrl.cli import jobs, train
from vlmrl.config import compose
from vlmrl.store import Store
from vlmrl.store.autoreset import autoresets
from vlmrl.types import Episode


def walk(generator: np.random.Generator, steps: int = 12) -> np.ndarray:
    """A robot that starts anywhere and goes on in small steps."""
    return generator.uniform(-1, 1, 3) + np.cumsum(0.01 * generator.normal(size=(steps, 3)), axis=0)


def store_of(folder: Path, walks: list[np.ndarray], *, time_of: list[np.ndarray] | None = None) -> Store:
    episodes = []
    for k, seen in enumerate(walks):
        rows = len(seen)
        inner = np.arange(rows) < rows - 1
        episodes.append(
            Episode(
                action=np.zeros((rows, 1), np.float32),
                obs={"state": seen.astype(np.float32)},
                time=time_of[k] if time_of else np.arange(rows) / 10,
                has_action=inner,
                has_next=inner.copy(),
                terminated=True,
                truncated=False,
                id=f"e{k}",
                task="walk",
                instruction="to walk",
                source="test",
            )
        )
    store = Store.create(folder / "store")
    store.append(episodes)
    return store


@pytest.fixture
def walks() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [walk(generator) for _ in range(8)]


def test_an_honest_recording_has_no_sign_of_it(walks: list[np.ndarray], tmp_path: Path) -> None:
    assert autoresets(store_of(tmp_path, walks)) == []


def test_a_reset_within_the_step_is_found_by_the_last_row(walks: list[np.ndarray], tmp_path: Path) -> None:
    same_step = [np.concatenate([a[:-1], b[:1]]) for a, b in zip(walks, [*walks[1:], walks[0]], strict=True)]
    lines = autoresets(store_of(tmp_path, same_step))
    assert any("end with an observation that another begins with" in line for line in lines)
    assert any("the last step" in line for line in lines)


def test_a_reset_in_the_next_step_is_found_by_the_first_row(walks: list[np.ndarray], tmp_path: Path) -> None:
    next_step = [walks[0], *(np.concatenate([a[-1:], b]) for a, b in pairwise(walks))]
    assert any("the first step" in line for line in autoresets(store_of(tmp_path, next_step)))


def test_an_episode_inside_another_is_found_by_its_clock(walks: list[np.ndarray], tmp_path: Path) -> None:
    clock = [np.arange(12) / 10 for _ in walks]
    clock[3] = np.concatenate([np.arange(6), np.arange(6)]) / 10
    assert any(
        "time goes back" in line and "e3" in line for line in autoresets(store_of(tmp_path, walks, time_of=clock))
    )


def test_a_robot_that_stands_still_is_no_reset(tmp_path: Path) -> None:
    assert autoresets(store_of(tmp_path, [np.zeros((6, 3)) for _ in range(4)])) == []


def test_training_on_such_data_warns(
    walks: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same_step = [np.concatenate([a[:-1], b[:1]]) for a, b in zip(walks, [*walks[1:], walks[0]], strict=True)]
    store = store_of(tmp_path, same_step)
    settings = ["learner=bc", "learner.updates=1", "workers=1", f"store={store.path}"]
    jobs.register()
    train.main(compose("train", settings), tmp_path / "run")
    assert f"warning, {store.path}: " in capsys.readouterr().out
