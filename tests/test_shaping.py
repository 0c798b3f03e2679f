"""Derived reward columns by hand, and laws of shaping."""

import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vlmrl.cli.utilities import app
from vlmrl.errors import ConfigError
from vlmrl.reward.shaping import SHAPINGS, Config, check, shape
from vlmrl.store import Store
from vlmrl.types import Episode

MEAN = np.array([1, 3, 2, np.nan, -1, 5, np.nan], np.float32)
STD = np.array([0.5, 1, 0, np.nan, 2, 0, np.nan], np.float32)
NAN = float("nan")


def episode(rows: int, *, terminated: bool, gap: int = -1) -> Episode:
    """`gap` is a row whose next row was lost."""
    inner = (np.arange(rows) < rows - 1) & (np.arange(rows) != gap)
    return Episode(
        action=np.zeros((rows, 1), np.float32),
        obs={"state": np.zeros((rows, 1), np.float32)},
        time=np.arange(rows) / 10,
        has_action=inner,
        has_next=inner,
        terminated=terminated,
        truncated=not terminated,
        task="t",
        instruction="",
        source=f"{rows}",
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.create(tmp_path / "s")
    made.append([episode(4, terminated=False), episode(3, terminated=True)])
    made.add_reward("r", MEAN, STD, {"rewarder": "test"})
    made.add_reward("base", np.where(np.isnan(MEAN), np.nan, np.float32(10)), np.zeros(7, np.float32) + MEAN * 0, {})
    return made


def shaped(store: Store, operation: str, **settings: object) -> tuple[list[float], list[float]]:
    shape(store, Config(operation, "r", out="new", **settings))  # pyright: ignore[reportArgumentType]
    return store.column("reward/new/mean").tolist(), store.column("reward/new/std").tolist()


def test_operations_are_checked_before_anything_is_spent() -> None:
    check(["since_start", "bounded"], of_actions=False)
    with pytest.raises(ConfigError, match="unknown operation 'since'; have: bounded, difference"):
        check(["since"], of_actions=False)
    with pytest.raises(ConfigError, match=r"since_start is not for rewards of actions: say shaping=\[\]"):
        check(["since_start"], of_actions=True)


def test_gain_since_the_start_is_zero_at_the_start_and_says_what_it_removed(store: Store) -> None:
    mean, std = shaped(store, "since_start")
    assert mean == near([0, 2, 1, NAN, 0, 6, NAN])
    assert std == near([0, math.hypot(1, 0.5), 0.5, NAN, 0, 2, NAN])
    # Offsets 1, 1, 1, -1, -1 around their mean, against the column's own variance.
    assert store.rewards()["new"]["removed"] == pytest.approx(0.96 / 4)


def near(values: list[float]) -> object:
    return pytest.approx(values, nan_ok=True, rel=1e-5)


def test_pessimism_takes_deviations_off_the_mean_and_says_how_many(store: Store) -> None:
    mean, std = shaped(store, "pessimism", amount=2.0)
    assert mean == near([0, 1, 2, NAN, -5, 5, NAN])
    assert std == near(STD.tolist())
    found = store.rewards()["new"]
    assert (found["amount"], found["operation"]) == (2, "pessimism")
    assert found["of"]["r"]["rewarder"] == "test"


def test_standardise_gives_zero_mean_and_unit_deviation_and_keeps_both_numbers(store: Store) -> None:
    mean, std = shaped(store, "standardise")
    assert np.nanmean(mean) == pytest.approx(0, abs=1e-6)
    assert np.nanstd(mean) == pytest.approx(1)
    found = store.rewards()["new"]
    assert mean[1] * found["scale"] + found["shift"] == pytest.approx(3)
    assert std[0] == pytest.approx(0.5 / found["scale"])


def test_bounded_is_how_surely_a_row_beats_the_behaviour(store: Store) -> None:
    mean, _ = shaped(store, "bounded", references=1)
    scale = float(np.nanstd(MEAN))
    # one reference: the median, 2
    assert store.rewards()["new"]["references"] == [2]
    assert mean[:3] == near([1 / (1 + math.exp(-x / scale)) - 0.5 for x in (-1, 1, 0)])
    known = np.array(mean)[~np.isnan(MEAN)]
    assert np.array_equal(np.argsort(known), np.argsort(MEAN[~np.isnan(MEAN)]))
    assert np.abs(known).max() < 0.5


def test_differences_telescope_within_episodes(store: Store) -> None:
    mean, std = shaped(store, "difference")
    assert mean == near([0, 2, -1, NAN, 0, 6, NAN])
    assert sum(mean[:3]) == MEAN[2] - MEAN[0]
    assert std == near([0.5, math.hypot(0.5, 1), 1, NAN, 2, 2, NAN])


def test_potential_is_zero_where_an_episode_ends_for_good(store: Store) -> None:
    mean, _ = shaped(store, "potential", base="base", discount=0.5)
    # the first episode is cut off, the second ends for good: its last transition loses the whole potential
    assert mean == near([10 + 0.5, 10 + 0.5, 10 - 2, NAN, 10 - 0.5, 10 + 1, NAN])
    assert (store.rewards()["new"]["discount"], store.rewards()["new"]["first"]) == (0.5, 0)


def test_whatever_first_action_is_taken_discounted_potentials_come_to_the_same(tmp_path: Path) -> None:
    """Two ends from one first row: a good next row must not be fined for being good."""
    made = Store.create(tmp_path / "s")
    made.append([episode(4, terminated=True), episode(3, terminated=True)])
    made.add_reward("r", MEAN, STD, {})
    mean, _ = shaped(made, "potential", discount=0.5)
    totals = [sum(0.5**t * r for t, r in enumerate(rows)) for rows in (mean[:3], mean[4:6])]
    assert totals[0] == pytest.approx(totals[1])


@pytest.mark.parametrize("operation", ["difference", "potential"])
def test_nothing_is_gained_across_a_gap(tmp_path: Path, operation: str) -> None:
    made = Store.create(tmp_path / "s")
    made.append([episode(7, terminated=False, gap=3)])
    made.add_reward("r", MEAN, STD, {})
    mean, _ = shaped(made, operation, discount=0.5)
    assert np.isfinite(made.transitions(("state",), "new").reward).all()
    assert mean[4] == pytest.approx(0 if operation == "difference" else 0.5 * MEAN[4] - (MEAN[0] + MEAN[4]) / 2)


def test_a_reward_of_actions_is_no_potential(store: Store) -> None:
    store.add_reward("acts", MEAN, STD, {"rewarder": "preference", "config": {"input": "state_action"}})
    shape(store, Config("pessimism", "acts", out="careful"))
    for name in ("acts", "careful"):
        with pytest.raises(ConfigError, match=f"reward '{name}' depends on actions"):
            shape(store, Config("potential", name, out="new"))


@pytest.mark.parametrize("operation", SHAPINGS)
def test_every_operation_leaves_a_column_that_trainings_can_read(store: Store, operation: str) -> None:
    shaped(store, operation)
    assert np.isfinite(store.transitions(("state",), "new").reward).all()


def test_what_does_not_exist_is_named(store: Store) -> None:
    with pytest.raises(ConfigError, match="unknown operation 'squash'; have: bounded, difference, pessimism"):
        shape(store, Config("squash", "r", "new"))
    with pytest.raises(ConfigError, match="unknown reward 'q'; have: base, r"):
        shape(store, Config("pessimism", "q", "new"))
    with pytest.raises(ConfigError, match="say the new column's name"):
        shape(store, Config("pessimism", "r"))


def test_the_command_writes_a_column(store: Store) -> None:
    settings = ["operation=pessimism", "reward=r", "amount=0.5", "out=careful"]
    done = CliRunner().invoke(app, ["data", "shape", str(store.path), *settings])
    assert done.exit_code == 0, done.output
    store.refresh()
    assert store.column("reward/careful/mean")[0] == pytest.approx(0.75)
