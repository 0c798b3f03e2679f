"""kill -9 loses at most the part being written. The long versions are slow; `python -m tests.kill_store` is longer."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.kill_store import Harness, every_operation, random_kills
from vlmrl.store import Store


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(Store.create(tmp_path / "store").path, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("moment", "phase"),
    [
        (r"^open .*/tmp/.*/step/action/c/0", "writing"),
        (r"^open .*/episode/end/c/0", "writing under the lock"),
        (r"^os.rename .*/tmp/.*/parts/", "about to rename"),
        (r"^open .*/manifest\.json\.new", "renamed, not committed"),
        (r"^os.rename .*/manifest\.json$", "renamed, not committed"),
        (r"^os.remove .*/lock", "committed, not yet tidied"),
        (r"^os.rename .*/tmp/.*/columns/reward/", "about to rename"),
    ],
)
def test_a_kill_in_each_phase_leaves_a_whole_store(harness: Harness, moment: str, phase: str) -> None:
    harness.at_operation(re.compile(moment))
    assert harness.phases == Counter({phase: 1})


def test_a_survivor_is_not_held_up_by_a_killed_writer(harness: Harness) -> None:
    harness.two_writers()
    harness.two_writers()
    assert harness.kills == 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    assert sum(harness.kills for harness in random_kills(tmp_path, 100, seed=1)) >= 100


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_throughout_an_append_and_a_reward_lose_nothing(tmp_path: Path) -> None:
    runs = list(every_operation(tmp_path, seed=2, step=4))
    assert sum(harness.kills for harness in runs) >= 100
