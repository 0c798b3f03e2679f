"""Comparisons that people made of segments reach the ledger once, with sides that cross episodes as several spans."""

from pathlib import Path

import numpy as np
import pytest

from vlmrl.annotate import Ledger
from vlmrl.annotate.comparisons import Config, import_comparisons
from vlmrl.annotate.recorded import read
from vlmrl.errors import DataError
from vlmrl.store import Store, d4rl
from vlmrl.types import Preferences, Span


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Episodes of 4 and 6 steps; each has a row without action behind its steps, which segments do not count."""
    steps = np.arange(10, dtype=np.float32)[:, None]
    arrays = {"observations": steps, "next_observations": steps, "actions": steps, "episode_ends": np.array([4, 10])}
    np.savez(tmp_path / "logs.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return d4rl.run(d4rl.Config(str(tmp_path / "logs.npz"), str(tmp_path / "store"))).store


def compared(folder: Path, first: list[int], second: list[int], label: list[int]) -> Config:
    path = folder / "people.npz"
    np.savez(path, first_start=np.array(first), second_start=np.array(second), label=np.array(label))
    return Config(str(path), steps=3, annotator="Ada")


def imported(store: Store, config: Config) -> Preferences:
    with Ledger(store.path.parent / "labels.db") as ledger:
        return import_comparisons(ledger, store, config, instruction="go on")


def test_labels_and_borders_come_through(store: Store, tmp_path: Path) -> None:
    found = imported(store, compared(tmp_path, [0, 2, 4], [7, 3, 0], [0, 1, -1]))
    one, two = store.episodes.id
    assert found.a == (
        (Span(one, 0, 3, ""),),
        (Span(one, 2, 4, ""), Span(two, 0, 1, "")),
        (Span(two, 0, 3, ""),),
    )
    assert found.b[1] == (Span(one, 3, 4, ""), Span(two, 0, 2, ""))
    assert found.p_a.tolist() == [1, 0, 0.5]
    assert found.by == ("Ada",) * 3


def test_they_are_written_down_once_and_can_be_replayed(store: Store, tmp_path: Path) -> None:
    config = compared(tmp_path, [0, 2], [7, 3], [0, 1])
    first, second = imported(store, config), imported(store, config)
    assert first.snapshot == second.snapshot
    records = read(str(tmp_path / "labels.db"))
    assert [(r.items, r.sentence) for r in records] == [
        (items, "go on") for items in zip(first.a, first.b, strict=True)
    ]
    with Ledger(tmp_path / "labels.db") as ledger:
        keys = ledger.keys()
        assert [len(ledger.replies(key)) for key in keys] == [1, 1]


def test_two_people_s_answers_about_one_pair_are_two_labels(store: Store, tmp_path: Path) -> None:
    found = imported(store, compared(tmp_path, [0, 0], [7, 7], [0, 1]))
    assert found.p_a.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("first", "label", "message"),
    [
        (8, 0, "comparison 0: 3 steps from 8, but the store has 10"),
        (-1, 0, "3 steps from -1"),
        (0, 2, r"label 2; wanted 0 \(first\), 1 \(second\) or -1"),
    ],
)
def test_what_does_not_fit_is_named(store: Store, tmp_path: Path, first: int, label: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        imported(store, compared(tmp_path, [first], [0], [label]))


def test_a_file_without_an_array_says_which_it_has(store: Store, tmp_path: Path) -> None:
    np.savez(tmp_path / "people.npz", first_start=np.zeros(1), label=np.zeros(1))
    with pytest.raises(DataError, match="has no second_start; have: first_start, label"):
        imported(store, Config(str(tmp_path / "people.npz")))


def test_real_labels_of_the_door_are_read_whole(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "adroit_door_human"
    store = d4rl.run(d4rl.Config(str(folder / "demos.npz"), str(tmp_path / "door"))).store
    found = imported(store, Config(str(folder / "human_preferences.npz")))
    assert (len(found), int((found.p_a == 0.5).sum()), int((found.p_a == 1).sum())) == (1400, 107, 671)
    crossing = [len(a) > 1 or len(b) > 1 for a, b in zip(found.a, found.b, strict=True)]  # type: ignore[arg-type]
    assert sum(not c and p != 0.5 for c, p in zip(crossing, found.p_a, strict=True)) == 808
