"""The success classifier rewards few failures, says how few, and is judged on episodes kept aside."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from vlmrl.errors import DataError
from vlmrl.reward import settings, success
from vlmrl.reward.success import Config, SuccessReward, conformal, train
from vlmrl.runfolder import Metrics
from vlmrl.store import Store
from vlmrl.types import Episode

ROWS = 10
SMALL = settings.Config(input="state", members=2, hidden=(8,), updates=150, batch=32, lr=1e-2)


def episode(seed: int, *, succeeds: bool) -> Episode:
    """A drawer that opens over time, or does not."""
    generator = np.random.default_rng(seed)
    opened = np.linspace(0, 1 if succeeds else 0.3, ROWS) + generator.normal(0, 0.05, ROWS)
    inner = np.arange(ROWS) < ROWS - 1
    return Episode(
        action=np.zeros((ROWS, 1), np.float32),
        obs={"state": opened[:, None].astype(np.float32)},
        time=np.arange(ROWS) / 10,
        has_action=inner,
        has_next=inner,
        terminated=False,
        truncated=True,
        task="t",
        instruction="",
        source="test",
        success=int(succeeds),
        id=f"e{seed}",
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.create(tmp_path / "s")
    made.append([episode(seed, succeeds=seed % 5 == 0) for seed in range(100)])
    return made


def trained(store: Store, **changes: object) -> SuccessReward:
    config = dataclasses.replace(Config(SMALL, tail=2), **changes)  # pyright: ignore[reportArgumentType]
    return train(store, config, camera="", seed=0, metrics=Metrics(store.path.parent / "m.jsonl"), quiet=True)


def test_the_threshold_is_the_conformal_quantile() -> None:
    failed = np.arange(19, dtype=np.float64)[::-1]
    assert conformal(failed, 0.05) == 18
    assert conformal(failed, 0.10) == 17
    assert conformal(failed, 0.50) == 9
    with pytest.raises(DataError, match=r"18 failed episodes are kept aside; .* 0\.05 of them at most, 19 are wanted"):
        conformal(failed[1:], 0.05)


def test_a_new_failure_exceeds_the_threshold_no_more_often_than_stated() -> None:
    generator = np.random.default_rng(0)
    wrong = [generator.normal() > conformal(generator.normal(size=30), 0.1) for _ in range(4_000)]
    # exactly 3 of 31 for continuous scores
    assert np.mean(wrong) == pytest.approx(3 / 31, abs=3 * math.sqrt(0.1 * 0.9 / 4_000))


def test_new_successes_are_seen_and_new_failures_are_not(store: Store, tmp_path: Path) -> None:
    made = trained(store)
    assert made.facts["episodes_aside"] == {"failed": 40, "succeeded": 10}
    assert made.facts["successes_seen"] >= 9
    seen = [bool(np.nansum(made.reward(episode(1_000 + k, succeeds=k < 20))[0])) for k in range(100)]
    assert np.mean(seen[:20]) > 0.9
    assert np.mean(seen[20:]) < 0.1
    mean, std = made.reward(episode(2_000, succeeds=True))
    # it has not opened further than failures do
    assert mean[:2].tolist() == [0, 0]
    # what row 9 shows is the reward of row 8
    assert mean[8] == 1
    assert np.isnan([mean[9], std[9]]).all()
    made.save_pretrained(tmp_path / "model")
    again = SuccessReward.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(again.column(store)[0], made.column(store)[0])
    assert again.provenance() == made.provenance()


def test_only_ends_of_successes_and_failures_teach(store: Store) -> None:
    label = success._labels(store, np.arange(len(store)), 2)  # pyright: ignore[reportPrivateUsage]
    assert label[ROWS : 2 * ROWS].tolist() == [0.0] * ROWS
    assert np.isnan(label[: ROWS - 2]).all()
    assert label[ROWS - 2 : ROWS].tolist() == [1, 1]
    # a slow camera that shows no row of the tail: its last picture counts
    assert success._labels(store, np.array([0, 3, 6]), 2)[2] == 1  # pyright: ignore[reportPrivateUsage]


def test_logs_without_outcomes_are_refused(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    store.append([dataclasses.replace(episode(seed, succeeds=False), success=-1) for seed in range(3)])
    with pytest.raises(DataError, match="both successful and failed episodes are wanted"):
        trained(store)
