"""The store gives back what it was given, counts transitions as Gymnasium means them, and notices damage."""

from pathlib import Path

import numpy as np
import pytest

from vlmrl.errors import ConfigError, DataError
from vlmrl.store import Store
from vlmrl.types import NO_FRAME, Episode, Frames


def episode(
    rows: int = 5,
    *,
    seed: int = 0,
    terminated: bool = False,
    last_action: bool = False,
    every: int = 2,
    id: str = "",
    size: tuple[int, int] = (8, 10),
) -> Episode:
    """Random episode; as Gymnasium records it unless `last_action`, with a picture every few rows."""
    rng = np.random.default_rng(seed)
    index = np.full(rows, NO_FRAME, np.int32)
    index[::every] = np.arange(len(index[::every]))
    has_action = np.arange(rows) < rows - (0 if last_action else 1)
    return Episode(
        action=rng.normal(size=(rows, 3)).astype(np.float32) * has_action[:, None],
        obs={"state": rng.normal(size=(rows, 4)).astype(np.float32), "extra": np.full((rows, 1), seed, np.float32)},
        time=np.arange(rows) * 0.1,
        has_action=has_action,
        has_next=np.arange(rows) < rows - 1,
        terminated=terminated,
        truncated=not terminated,
        task="drawer_open",
        instruction="open the drawer",
        source=f"test {seed}",
        images={"front": Frames(rng.integers(0, 256, (len(index[::every]), *size, 3), np.uint8), index)},
        truth={"progress": rng.random(rows).astype(np.float32)},
        sim_state=rng.normal(size=(rows, 6)),
        robot="sawyer",
        seed=seed,
        success=int(terminated),
        id=id,
    )


def assert_same(a: Episode, b: Episode) -> None:
    """Bit for bit, the id left out."""
    for key in ("action", "time", "has_action", "has_next", "sim_state"):
        x, y = getattr(a, key), getattr(b, key)
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes(), key
    for key in ("obs", "truth"):
        assert list(getattr(a, key)) == list(getattr(b, key))
        for name, values in getattr(a, key).items():
            assert values.tobytes() == getattr(b, key)[name].tobytes(), name
    assert list(a.images) == list(b.images)
    for camera, image in a.images.items():
        other = b.images[camera]
        assert isinstance(image, Frames)
        assert isinstance(other, Frames)
        assert image.pixels.tobytes() == other.pixels.tobytes()
        assert image.index.tobytes() == other.index.tobytes()
    for key in ("terminated", "truncated", "task", "instruction", "source", "robot", "seed", "success"):
        assert getattr(a, key) == getattr(b, key), key


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "s")


def test_an_episode_comes_back_bit_for_bit(store: Store) -> None:
    given = [episode(5, seed=1), episode(40, seed=2, every=1), episode(1, seed=3, last_action=True)]
    ids = store.append(given[:2]) + store.append(given[2:])
    for again in (store, Store.open(store.path)):
        assert again.episodes.id == ids
        for one, id in zip(given, ids, strict=True):
            assert_same(one, again.episode(id))


def test_transitions_of_a_tiny_store_are_those_computed_by_hand(store: Store) -> None:
    store.append([episode(3, seed=1, terminated=True), episode(2, seed=2, last_action=True)])
    store.append([episode(3, seed=3)])
    got = store.transitions(("state", "extra"))
    state, extra, action = store.column("obs/state"), store.column("obs/extra"), store.column("action")
    # rows: episode 0 is 0..2, episode 1 is 3..4, episode 2 is 5..7
    rows = [0, 1, 3, 5, 6]
    assert got.obs.tolist() == np.hstack([state, extra])[rows].tolist()
    assert got.next_obs.tolist() == np.hstack([state, extra])[[r + 1 for r in rows]].tolist()
    assert got.action.tolist() == action[rows].tolist()
    assert got.mask.tolist() == [1, 0, 1, 1, 1]
    assert got.episode.tolist() == [0, 0, 1, 2, 2]
    assert got.reward.tolist() == [0] * 5


def test_frames_are_those_of_the_rows_asked_for_in_any_order(store: Store) -> None:
    one, two = episode(5, seed=1), episode(4, seed=2, every=1)
    store.append([one])
    store.append([two])
    assert store.frame_rows("front").tolist() == [0, 2, 4, 5, 6, 7, 8]
    got = store.frames("front", [8, 2, 2, 5])
    a, b = one.images["front"], two.images["front"]
    assert isinstance(a, Frames)
    assert isinstance(b, Frames)
    assert (got == np.stack([b.pixels[3], a.pixels[1], a.pixels[1], b.pixels[0]])).all()
    with pytest.raises(DataError, match="row 1 has no frame"):
        store.frames("front", [0, 1])
    with pytest.raises(ConfigError, match="front"):
        store.frames("back", [0])


def test_the_cache_follows_appends(store: Store) -> None:
    store.append([episode(5, seed=1)])
    before = store.frames("front", [0, 2], size=(4, 4))
    two = episode(3, seed=2, every=1)
    store.append([two])
    after = store.frames("front", [0, 2, 5, 6, 7], size=(8, 10))
    image = two.images["front"]
    assert isinstance(image, Frames)
    assert (after[2:] == image.pixels).all()
    assert (store.frames("front", [0, 2], size=(4, 4)) == before).all()


def test_a_reward_column_is_added_never_overwritten(store: Store) -> None:
    store.append([episode(3, seed=1), episode(2, seed=2)])
    mean = np.array([1, 2, np.nan, 4, np.nan], np.float32)
    std = mean * np.float32(0.5)
    store.add_reward("vlm", mean, std, {"version": 1})
    assert store.column("reward/vlm/mean").tobytes() == mean.tobytes()
    assert store.transitions(reward="vlm").reward.tolist() == [1, 2, 4]
    assert store.rewards() == {"vlm": {"version": 1, "coverage": 1.0}}
    with pytest.raises(DataError, match="never overwritten"):
        store.add_reward("vlm", mean, std, {})
    with pytest.raises(DataError, match="row 2 has no next row"):
        store.add_reward("late", np.ones(5, np.float32), np.ones(5, np.float32), {})
    store.append([episode(3, seed=3)])
    assert np.isnan(store.column("reward/vlm/mean")[5:]).all()
    with pytest.raises(DataError, match="covers 3 of 5 transitions"):
        store.transitions(reward="vlm")


def test_the_hash_changes_exactly_when_the_content_does(store: Store, tmp_path: Path) -> None:
    hashes = [store.hash]
    store.append([episode(3, seed=1)])
    hashes.append(store.hash)
    store.frames("front", [0])
    store.validate()
    assert Store.open(store.path).hash == hashes[-1]
    nan = np.array([1, 1, np.nan], np.float32)
    store.add_reward("r", nan, nan, {})
    hashes.append(store.hash)
    assert len(set(hashes)) == 3
    twin = Store.create(tmp_path / "twin")
    twin.append([episode(3, seed=1)])
    assert twin.hash == hashes[1]


def test_spans_stay_inside_one_episode(store: Store) -> None:
    store.append([episode(4, seed=1), episode(2, seed=2), episode(3, seed=3)])
    assert store.spans(3).tolist() == [[0, 1, 2], [1, 2, 3], [6, 7, 8]]
    assert store.spans(2, stride=2).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
