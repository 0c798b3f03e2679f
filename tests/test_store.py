"""The store gives back what it was given, counts transitions as Gymnasium means them, and notices damage."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from vlmrl.errors import ConfigError, DataError
from vlmrl.store import Store, manifest
from vlmrl.store.lock import Owner, draft, locked
from vlmrl.store.show import contact_sheet, describe
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


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, Path.unlink, flip])
@pytest.mark.parametrize(
    ("file", "use"),
    [
        ("step/action/c/0/0", lambda s: s.column("action")),
        ("step/image/front/pixels/c/0/0/0/0", lambda s: s.frames("front", [5])),
        ("episodes.json", lambda s: s.episodes),
        ("step/obs/state/zarr.json", lambda s: s.transitions()),
    ],
)
def test_a_damaged_file_is_named_when_it_is_read_and_by_validate(
    store: Store, damage: Callable[[Path], None], file: str, use: Callable[[Store], object]
) -> None:
    store.append([episode(5, seed=1)])
    store.append([episode(5, seed=2)])
    entry = store.snapshot.manifest.parts[1]
    path = store.path / entry.folder / file
    damage(path)
    again = Store.open(store.path)
    with pytest.raises(DataError, match=f"part {entry.id}.*{re.escape(file)}") as error:
        use(again)
    assert "\n" not in str(error.value)
    problems = again.validate()
    assert len(problems) == 1
    assert file in problems[0]


def test_validate_finds_what_never_was_committed(store: Store) -> None:
    store.append([episode(5, seed=1)])
    assert store.validate() == []
    stranger = store.path / store.snapshot.manifest.parts[0].folder / "step/obs/stranger"
    stranger.write_text("x")
    assert [str(stranger) in line for line in store.validate()] == [True]


def test_a_damaged_reward_is_named(store: Store) -> None:
    store.append([episode(3, seed=1)])
    values = np.array([1, 2, np.nan], np.float32)
    store.add_reward("r", values, values, {})
    truncate(next((store.path / "columns").rglob("mean/c/0")))
    with pytest.raises(DataError, match=r"column reward/r.*mean/c/0"):
        Store.open(store.path).column("reward/r/mean")
    assert len(store.validate()) == 1


@pytest.mark.parametrize("damage", [truncate, flip])
def test_a_damaged_manifest_is_refused(store: Store, damage: Callable[[Path], None]) -> None:
    store.append([episode(3, seed=1)])
    damage(store.path / "manifest.json")
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        Store.open(store.path)


def test_a_missing_store_and_an_existing_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no store at .*nowhere"):
        Store.open(tmp_path / "nowhere")
    Store.create(tmp_path / "s")
    with pytest.raises(DataError, match="is not empty"):
        Store.create(tmp_path / "s")


def test_a_manifest_of_an_older_schema_is_migrated_and_of_a_newer_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    old = {"format": "vlmrl-store", "schema": 1, "bits": []}
    migrations = {
        1: lambda c: {**c, "schema": 2, "pieces": c["bits"]},
        2: lambda c: {**c, "schema": 3, "parts": c["pieces"]},
    }
    got = manifest.migrate(old, path=path, migrations=migrations, schema=3)
    assert (got["schema"], got["parts"]) == (3, [])
    with pytest.raises(DataError, match="which nothing migrates; have: "):
        manifest.migrate(old, path=path, migrations={}, schema=2)
    with pytest.raises(DataError, match="schema 9, this vlmrl reads up to 1: upgrade"):
        manifest.migrate(old | {"schema": 9}, path=path)


def test_episodes_that_do_not_fit_are_refused_and_nothing_is_left(store: Store) -> None:
    store.append([episode(3, seed=1, id="a")])
    before = store.hash
    wide = replace(episode(3, seed=2), action=np.zeros((3, 7), np.float32))
    with pytest.raises(DataError, match=r"'action': \[7\].*'action': \[3\]"):
        store.append([wide])
    with pytest.raises(DataError, match="does not fit the first"):
        store.append([episode(3, seed=2), wide])
    with pytest.raises(DataError, match="already holds an episode 'a'"):
        store.append([episode(3, seed=2, id="a")])
    with pytest.raises(DataError, match="different sizes"):
        store.append([episode(3, seed=2), episode(3, seed=3, size=(4, 4))])
    image = episode(3, seed=2).images["front"]
    assert isinstance(image, Frames)
    far = replace(episode(3, seed=2), images={"front": replace(image, index=np.array([0, 1, 2], np.int32))})
    with pytest.raises(DataError, match="has 2 frames, but a row refers to frame 2"):
        store.append([far])
    odd = replace(episode(3, seed=2), obs={"../up": np.zeros((3, 1), np.float32)})
    with pytest.raises(DataError, match=r"obs name '../up'"):
        store.append([odd])
    store.refresh()
    assert store.hash == before
    assert list((store.path / "tmp").iterdir()) == []


def test_names_must_count_the_entries(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", names={"action": ["x", "y"]}, units={"action": "m", "obs/state": ["rad"] * 4})
    with pytest.raises(DataError, match="names 2 entries"):
        store.append([episode(3)])
    good = Store.create(tmp_path / "t", names={"action": ["x", "y", "z"]}, meta={"render": {"width": 128}})
    good.append([episode(3)])
    again = Store.open(good.path)
    assert again.names("action") == ["x", "y", "z"]
    assert again.names("obs/state") is None
    assert again.meta == {"render": {"width": 128}}
    part = zarr.open_group(again.path / again.snapshot.manifest.parts[0].folder, mode="r")
    assert part["step/action"].attrs["names"] == ["x", "y", "z"]
    with pytest.raises(DataError, match="must be JSON without NaN"):
        Store.create(tmp_path / "u", meta={"x": float("nan")})


def test_equal_episodes_get_ids_of_their_own(store: Store) -> None:
    twins = [episode(3, seed=1), episode(3, seed=1)]
    first, second = store.append(twins)
    (third,) = store.append(twins[:1])
    assert (second, third) == (f"{first}-2", f"{first}-3")


def test_bits_that_compare_equal_are_still_kept_apart(store: Store) -> None:
    odd = np.array([[-0.0, np.nan, np.inf], [0.0, -np.nan, 1e-45]], np.float32)
    given = replace(episode(2, seed=1), action=odd)
    assert store.episode(store.append([given])[0]).action.tobytes() == odd.tobytes()


def test_an_episode_without_a_camera_that_others_have(store: Store) -> None:
    blind = replace(episode(3, seed=2), images={})
    no_frames = replace(
        episode(2, seed=3),
        images={"front": Frames(np.zeros((0, 8, 10, 3), np.uint8), np.full(2, NO_FRAME, np.int32))},
    )
    ids = store.append([episode(3, seed=1), blind, no_frames])
    assert_same(store.episode(ids[1]), blind)
    assert_same(store.episode(ids[2]), no_frames)
    assert store.frame_rows("front").tolist() == [0, 2]
    assert list(store.episode(ids[0], images=False).images) == []


def test_columns_are_shared_and_so_cannot_be_written(store: Store) -> None:
    store.append([episode(3)])
    with pytest.raises(ValueError, match="read-only"):
        store.column("action")[0] = 1
    assert store.column("action") is store.column("action")
    with pytest.raises(ConfigError, match=r"unknown column 'obs/sate'; have: .*obs/state"):
        store.column("obs/sate")


def test_a_column_that_only_some_parts_have_is_refused_by_name(store: Store) -> None:
    store.append([episode(3, seed=1)])
    store.append([replace(episode(3, seed=2), truth={})])
    with pytest.raises(DataError, match="has no column 'truth/progress'"):
        store.column("truth/progress")


def test_rewards_of_parts_that_came_while_it_was_computed_are_missing_not_wrong(store: Store) -> None:
    store.append([episode(3, seed=1)])
    other = Store.open(store.path)
    other.append([episode(2, seed=2)])
    values = np.array([1, 2, np.nan], np.float32)
    store.add_reward("r", values, values, {})
    np.testing.assert_array_equal(store.column("reward/r/mean"), [1, 2, np.nan, np.nan, np.nan])


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        (np.ones(2, np.float32), r"float32 \(3,\) wanted"),
        (np.array([np.inf, 1, np.nan], np.float32), "infinite at row 0"),
        (np.full(3, np.nan, np.float32), "no value on any row"),
    ],
)
def test_rewards_that_do_not_fit_are_refused(store: Store, mean: np.ndarray, message: str) -> None:
    store.append([episode(3)])
    with pytest.raises(DataError, match=message):
        store.add_reward("r", mean, mean, {})
    assert store.rewards() == {}


def test_the_cache_is_bounded_and_evicts_what_was_used_longest_ago(tmp_path: Path) -> None:
    sizes = {"a": (8, 10), "b": (4, 5), "c": (8, 10)}
    store = Store.create(tmp_path / "s")
    store.append([episode(40, seed=1, every=1)])
    room = 40 * 8 * 10 * 3 + 40 * 4 * 5 * 3 + 600
    small = Store.open(store.path, cache_bytes=room)
    small.frames("front", [0], size=sizes["a"])
    small.frames("front", [0], size=sizes["b"])
    os.utime(next(small.cache.folder.glob("*8x10.npy")), (1, 1))
    small.frames("front", [0], size=(5, 4))
    assert {p.stem.rsplit("-")[-1] for p in small.cache.folder.glob("*.npy")} == {"4x5", "5x4"}
    assert Store.open(store.path).cache.limit_bytes() == room
    # what can never fit is decoded without being kept, and right
    tiny = Store.open(store.path, cache_bytes=100)
    assert (tiny.frames("front", [3, 1, 3]) == store.frames("front", [3, 1, 3])).all()


def test_pictures_larger_than_one_shard_come_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmrl.store.layout.SHARD_BYTES", 16 * 8 * 10 * 3)
    monkeypatch.setattr("vlmrl.store.part._READ_BYTES", 10 * 8 * 10 * 3)
    given = [episode(50, seed=1, every=1), episode(7, seed=2, every=3), episode(30, seed=3, every=1)]
    for one, id in zip(given, store.append(given), strict=True):
        assert_same(one, store.episode(id))
    images = [e.images["front"] for e in given]
    pixels = np.concatenate([i.pixels for i in images if isinstance(i, Frames)])
    assert (store.frames("front", store.frame_rows("front")) == pixels).all()


def dead_owner(path: Path, **changes: object) -> Owner:
    """Of a process that has ended, written as a lock."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    owner = replace(Owner.current(), **({"pid": child.pid, "start": "1"} | changes))
    path.write_text(json.dumps(asdict(owner)))
    return owner


def test_a_dead_owners_lock_is_broken(store: Store) -> None:
    dead_owner(store.path / "lock")
    assert len(store.append([episode(3)])) == 1
    assert not (store.path / "lock").exists()


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"machine": "container"}])
def test_another_hosts_lock_is_never_broken(store: Store, changes: dict[str, str]) -> None:
    owner = dead_owner(store.path / "lock", **changes)
    with (
        pytest.raises(
            DataError, match=f"locked by process {owner.pid} on {owner.host}; if that writer is gone, remove"
        ),
        locked(store.path, wait_s=0.1),
    ):
        pytest.fail("entered")
    assert (store.path / "lock").exists()


def test_a_lock_from_before_a_reboot_is_broken(store: Store) -> None:
    dead_owner(store.path / "lock", boot="earlier", pid=os.getpid())
    with locked(store.path, wait_s=0.1):
        pass


def test_a_living_owners_lock_is_waited_for(store: Store) -> None:
    message = f"locked by process {os.getpid()}"
    with locked(store.path), pytest.raises(DataError, match=message), locked(store.path, wait_s=0.1):
        pytest.fail("entered")
    with locked(store.path, wait_s=0.1):
        pass


def test_writers_at_the_same_time_lose_nothing(store: Store) -> None:
    def work(writer: int) -> list[str]:
        own = Store.open(store.path)
        return [own.append([episode(3, seed=10 * writer + i)])[0] for i in range(3)]

    with ThreadPoolExecutor(3) as pool:
        ids = [id for found in pool.map(work, range(3)) for id in found]
    store.refresh()
    assert sorted(store.episodes.id) == sorted(ids)
    assert store.validate() == []


def test_a_living_writers_draft_is_left_alone(store: Store) -> None:
    with draft(store.path) as made:
        (made.folder / "half").write_text("x")
        store.append([episode(3)])
        assert (made.folder / "half").exists()
    assert list((store.path / "tmp").iterdir()) == []


def test_a_record_that_names_a_folder_outside_removes_nothing(store: Store, tmp_path: Path) -> None:
    for i, part in enumerate([str(tmp_path / "precious"), "../precious", "parts/../../precious", "parts", ""]):
        dead_owner(store.path / "tmp" / f"{i}.json", part=part)
    (tmp_path / "precious").mkdir()
    store.append([episode(3)])
    assert (tmp_path / "precious").exists()
    assert list((store.path / "tmp").iterdir()) == []
    assert store.validate() == []


def test_a_store_that_cannot_be_written_caches_elsewhere(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append([episode(3)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    Store.open(store.path).frames("front", [0])
    assert len(list((tmp_path / "home/vlmrl/frames").glob("*.npy"))) == 1
    assert not (store.path / ".cache").exists()


def test_describe_tells_what_is_inside(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", names={"obs/state": ["x", "y", "z", "w"]}, units={"obs/state": "m"})
    assert "no episodes yet" in describe(store)
    store.append([episode(3, seed=1, terminated=True), episode(5, seed=2)])
    values = np.where(store.column("has_next"), 1, np.nan).astype(np.float32)
    store.add_reward("vlm", values, values, {"rewarder": "preference"})
    text = describe(store)
    for words in (
        "2 with 8 rows and 6 transitions",
        "3 to 5 rows, median 4",
        "1 terminated, 1 truncated",
        "1 succeeded, 1 failed",
        "“open the drawer” (2)",
        "x, y, z, w [m]",
        "stored pictures, 10×8 pixels, 5 frames on 5 of 8 rows",
        "covers 100% of the rows",
        "rewarder: preference",
        store.hash[:16],
    ):
        assert words in text, words


def test_a_contact_sheet_shows_the_frames(tmp_path: Path, store: Store) -> None:
    green = np.zeros((6, 8, 10, 3), np.uint8) + np.array([0, 200, 0], np.uint8)
    one = replace(episode(6), images={"front": Frames(green, np.arange(6, dtype=np.int32))})
    with pytest.raises(DataError, match="no camera"):
        contact_sheet(store, tmp_path / "sheet.png")
    store.append([one])
    with Image.open(contact_sheet(store, tmp_path / "sheet.png", columns=3, width=40)) as sheet:
        shown = (np.asarray(sheet) == [0, 200, 0]).all(axis=2).sum()
    assert shown == 3 * 40 * 32
    assert not store.cache.folder.exists()
