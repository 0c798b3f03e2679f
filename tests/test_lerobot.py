"""LeRobot data sets of both layouts give the same episodes, and whatever is wrong with one is said in one line."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.lerobot_v30 import convert
from vlmrl.errors import ConfigError, DataError
from vlmrl.store import Store, importer, video
from vlmrl.store.lerobot import Config, import_lerobot, read, run
from vlmrl.types import Episode, Frames, Video

pa = pytest.importorskip("pyarrow", reason="pip install 'vlmrl[video]'")
pq = pytest.importorskip("pyarrow.parquet")
av = pytest.importorskip("av")


@pytest.fixture(scope="session")
def g1(shared_data: Path) -> Path:
    """Four real episodes of a humanoid, v2.1."""
    return shared_data / "g1_bottle_lerobot_v21"


ROWS = (3, 5, 4)


def write_video(path: Path, frames: int, *, first: int = 0) -> None:
    """Frame i is evenly grey, 10 * (first + i)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for i in range(frames):
            picture = np.full((16, 32, 3), 10 * (first + i), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))


def feature(dtype: str, shape: list[int]) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "names": None}


def png(value: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three tiny episodes, v2.1, with a video camera, a camera in the tables, and rewards."""
    root = tmp_path / "small"
    features = {
        "observation.state": feature("float32", [2]) | {"names": {"motors": ["hip", "knee"]}},
        "action": feature("float32", [2]),
        "observation.images.side": feature("video", [16, 32, 3]),
        "observation.images.wrist": feature("image", [6, 8, 3]),
        "observation.note": feature("string", [1]),
        "next.reward": feature("float32", [1]),
        "next.success": feature("bool", [1]),
    }
    info = {
        "codebase_version": "v2.1",
        "robot_type": "toy",
        "fps": 10,
        "total_episodes": len(ROWS),
        "total_frames": sum(ROWS),
        "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    (root / "meta").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "walk"}\n{"task_index": 1, "task": "run"}\n')
    lines = [{"episode_index": i, "tasks": ["walk"], "length": n} for i, n in enumerate(ROWS)]
    (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for i, n in enumerate(ROWS):
        numbers = np.arange(2 * n, dtype=np.float32).reshape(n, 2) + 100 * i
        table = pa.table(
            {
                "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), 2),
                "action": pa.array((-numbers).tolist(), pa.list_(pa.float32())),
                "observation.images.wrist": pa.array([png(10 * i + t) for t in range(n)]),
                "next.reward": pa.array(np.arange(n, dtype=np.float32)),
                "next.success": pa.array([t == n - 1 and i == 1 for t in range(n)]),
                "timestamp": pa.array((np.arange(n) / 10).astype(np.float32)),
                "episode_index": pa.array([i] * n),
                "task_index": pa.array([i % 2] * n),
            }
        )
        pq.write_table(table, root / f"data/chunk-000/episode_{i:06d}.parquet")
        write_video(root / f"videos/chunk-000/observation.images.side/episode_{i:06d}.mp4", n, first=3 * i)
    return root


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite a parquet file or a JSON file."""
    if path.suffix == ".parquet":
        pq.write_table(change(pq.read_table(path)), path)
    else:
        path.write_text(json.dumps(change(json.loads(path.read_text()))))


def with_column(table: Any, name: str, values: Any) -> Any:
    return table.set_column(table.column_names.index(name), name, values)


def test_a_small_data_set_reads_as_it_was_written(small: Path) -> None:
    one = list(read(small))[1]
    assert one.obs["state"].tolist() == [[100, 101], [102, 103], [104, 105], [106, 107], [108, 109]]
    assert one.action.tolist() == (-one.obs["state"]).tolist()
    assert one.has_action.all()
    assert one.has_next.tolist() == [True] * 4 + [False]
    assert (one.terminated, one.truncated, one.success) == (True, False, 1)
    assert (one.instruction, one.robot, one.task) == ("run", "toy", "small")
    np.testing.assert_allclose(one.time, [0, 0.1, 0.2, 0.3, 0.4], atol=1e-6)
    # next.reward of row i judges row i + 1
    np.testing.assert_array_equal(one.truth["reward"], np.array([np.nan, 0, 1, 2, 3], np.float32))
    assert one.images["wrist"].pixels[:, 0, 0, 0].tolist() == [10, 11, 12, 13, 14]
    assert [e.terminated for e in read(small)] == [False, True, False]


def test_names_and_left_out_features_are_told(small: Path, tmp_path: Path) -> None:
    report = run(Config(str(small), str(tmp_path / "out")))
    assert report.store.names("obs/state") == ["hip", "knee"]
    assert report.store.names("action") is None
    assert report.left_out == ["observation.note"]
    assert str(report).startswith("3 episodes imported; ")
    assert str(report).endswith("now holds 3 episodes, 12 rows; left out: observation.note")


def test_real_data_keeps_its_video_and_decodes_it(g1: Path, tmp_path: Path) -> None:
    store = run(Config(str(g1), str(tmp_path / "g1"))).store
    assert (len(store.episodes), len(store)) == (4, 1045)
    assert store.column("obs/state").shape == store.column("action").shape == (1045, 26)
    assert len(store.transitions()) == 1041
    assert set(store.episodes.instruction) == {"Pick up the yellow bottle on the table."}
    assert store.validate() == []
    own = g1 / "videos/chunk-000/observation.images.cam_high/episode_000002.mp4"
    kept = store.episode(store.episodes.id[2]).images["cam_high"]
    assert isinstance(kept, Video)
    assert kept.path.read_bytes() == own.read_bytes()
    assert kept.path.is_relative_to(store.path)
    rows = int(store.episodes.start[2]) + np.array([0, 100, 279])
    expected = np.stack(list(video.decode(own, [0, 100, 279], (60, 80))))
    assert (store.frames("cam_high", rows, size=(60, 80)) == expected).all()


@pytest.mark.parametrize(("tables", "videos"), [((0, 0, 0, 0), (0, 0, 0, 0)), ((0, 0, 1, 1), (0, 1, 1, 2))])
def test_both_layouts_of_real_data_give_equal_episodes(
    g1: Path, tmp_path: Path, tables: tuple[int, ...], videos: tuple[int, ...]
) -> None:
    new = tmp_path / g1.name
    convert(g1, new, tables=tables, videos=videos)
    for a, b in zip(read(g1), read(new), strict=True):
        assert a.id == b.id
        assert a.action.tobytes() == b.action.tobytes()
        assert a.obs["state"].tobytes() == b.obs["state"].tobytes()
        assert a.time.tobytes() == b.time.tobytes()
        facts = ("task", "instruction", "source", "robot", "success", "terminated", "truncated")
        assert all(getattr(a, k) == getattr(b, k) for k in facts)
        x, y = a.images["cam_high"], b.images["cam_high"]
        assert isinstance(x, Video)
        assert isinstance(y, Video)
        some = [0, 1, len(a) // 2, len(a) - 1]
        own, joined = (np.stack(list(video.decode(v.path, v.index[some], (48, 64)))) for v in (x, y))
        assert (own == joined).all()


def test_a_file_shared_by_several_parts_takes_its_space_once(g1: Path, tmp_path: Path) -> None:
    new = tmp_path / g1.name
    convert(g1, new, tables=(0, 0, 0, 0), videos=(0, 0, 0, 0))
    store = run(Config(str(new), str(tmp_path / "out"), batch=1)).store
    assert len(store.snapshot.parts) == 4
    assert len({p.stat().st_ino for p in (tmp_path / "out").rglob("*.mp4")}) == 1
    assert store.validate() == []


def test_an_interrupted_import_goes_on_without_duplicates(small: Path, tmp_path: Path) -> None:
    whole = run(Config(str(small), str(tmp_path / "whole"), batch=1)).store
    calls: list[int] = []

    def stop_after_one(count: int) -> None:
        calls.append(count)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Config(str(small), str(tmp_path / "cut"), batch=1), progress=stop_after_one)
    again = run(Config(str(small), str(tmp_path / "cut"), batch=1))
    assert calls == [1]
    assert (len(again.added), again.known) == (2, 1)
    assert again.store.hash == whole.hash
    assert run(Config(str(small), str(tmp_path / "cut"))).added == []


def test_a_converted_data_set_adds_nothing_new(g1: Path, tmp_path: Path) -> None:
    new = tmp_path / g1.name
    convert(g1, new, tables=(0, 0, 0, 0), videos=(0, 0, 1, 1))
    store = run(Config(str(g1), str(tmp_path / "out"))).store
    assert import_lerobot(new, store) == []


def _drop_video(root: Path) -> None:
    (root / "videos/chunk-000/observation.images.side/episode_000002.mp4").unlink()


def _drop_table(root: Path) -> None:
    (root / "data/chunk-000/episode_000002.parquet").unlink()


def _tear_table(root: Path) -> None:
    path = root / "data/chunk-000/episode_000002.parquet"
    path.write_bytes(path.read_bytes()[:-200])


def _tear_video(root: Path) -> None:
    path = root / "videos/chunk-000/observation.images.side/episode_000002.mp4"
    path.write_bytes(path.read_bytes()[:60])


def _short_video(root: Path) -> None:
    write_video(root / "videos/chunk-000/observation.images.side/episode_000002.mp4", 3)


def _short_table(root: Path) -> None:
    edit(root / "data/chunk-000/episode_000002.parquet", lambda t: t.slice(0, 3))


def _wrong_version(root: Path) -> None:
    edit(root / "meta/info.json", lambda info: info | {"codebase_version": "v1.6"})


def _wrong_total(root: Path) -> None:
    edit(root / "meta/info.json", lambda info: info | {"total_frames": 99})


def _integers(root: Path) -> None:
    path = root / "data/chunk-000/episode_000002.parquet"
    edit(path, lambda t: with_column(t, "action", pa.array([[1, 2]] * 4, pa.list_(pa.int64()))))


def _texts(root: Path) -> None:
    path = root / "data/chunk-000/episode_000002.parquet"
    edit(path, lambda t: with_column(t, "observation.state", pa.array(["a"] * 4)))


def _narrow(root: Path) -> None:
    path = root / "data/chunk-000/episode_000002.parquet"
    edit(path, lambda t: with_column(t, "action", pa.array([[1.0]] * 4, pa.list_(pa.float32()))))


def _holes(root: Path) -> None:
    path = root / "data/chunk-000/episode_000002.parquet"
    edit(path, lambda t: with_column(t, "action", pa.array([[1.0, None]] * 4, pa.list_(pa.float32()))))


def _no_state(root: Path) -> None:
    edit(root / "data/chunk-000/episode_000002.parquet", lambda t: t.drop_columns(["observation.state"]))


def _bad_picture(root: Path) -> None:
    cells = pa.array([{"bytes": b"not a picture", "path": None}] * 4)
    path = root / "data/chunk-000/episode_000002.parquet"
    edit(path, lambda t: with_column(t, "observation.images.wrist", cells))


def _late(root: Path) -> None:
    times = pa.array(np.array([0, 0.1, 0.2, 0.9], np.float32))
    edit(root / "data/chunk-000/episode_000002.parquet", lambda t: with_column(t, "timestamp", times))


@pytest.mark.parametrize(
    ("damage", "message", "kept"),
    [
        (_drop_video, r"episode_000002\.mp4 is missing", 0),
        (_drop_table, r"episode_000002\.parquet is missing", 0),
        (_wrong_version, r"info\.json: codebase_version 'v1.6' is not known; have: v2.0, v2.1, v3.0", 0),
        (_wrong_total, r"counts 3 episodes and 99 rows, but meta/episodes lists 3 and 12", 0),
        (_tear_table, r"episode_000002\.parquet cannot be read", 2),
        (_tear_video, r"episode_000002\.mp4", 2),
        (_short_video, r"episode_000002\.mp4 has 3 frames for episode 2, but .*parquet has 4 rows", 2),
        (_short_table, r"has 3 rows of episode 2, but the metadata counts 4", 2),
        (_integers, r"action holds list<.*int64> .*float32 wanted", 2),
        (_texts, r"observation.state holds string .*float32 wanted", 2),
        (_narrow, r"action has 4 numbers in 4 rows, \[2\] a row wanted", 2),
        (_holes, r"action holds .* 4 empty entries", 2),
        (_no_state, r"has no column observation.state; have: ", 2),
        (_bad_picture, r"a picture of observation.images.wrist cannot be read", 2),
        (_late, r"no frame at 0.9000 s \(row 3 of episode 2\)", 2),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_input_gives_one_line_and_loses_nothing(
    small: Path, tmp_path: Path, damage: Callable[[Path], None], message: str, kept: int
) -> None:
    damage(small)
    out = tmp_path / "out"
    with pytest.raises(DataError, match=message) as error:
        run(Config(str(small), str(out)))
    assert "\n" not in str(error.value)
    if kept:
        store = Store.open(out)
        assert len(store.episodes) == kept
        assert store.validate() == []


def test_a_folder_that_is_no_data_set_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"info\.json is missing: a LeRobot data set is a folder that holds it"):
        run(Config(str(tmp_path), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_v30_offsets_that_do_not_fit_are_refused(g1: Path, tmp_path: Path) -> None:
    new = tmp_path / g1.name
    convert(g1, new, tables=(0, 0, 0, 0), videos=(0, 0, 0, 0))
    meta = new / "meta/episodes/chunk-000/file-000.parquet"
    key = "videos/observation.images.cam_high/to_timestamp"
    edit(meta, lambda t: with_column(t, key, pa.array([v - 0.1 for v in t.column(key).to_pylist()])))
    with pytest.raises(DataError, match=r"file-000\.mp4 has 218 frames for episode 0, but .* has 221 rows"):
        list(read(new))
    edit(meta, lambda t: t.drop_columns([key]))
    with pytest.raises(DataError, match=r"lacks the columns videos/observation\.images\.cam_high/to_timestamp"):
        list(read(new))


def test_an_unknown_format_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="unknown format 'hdf'; have: d4rl, lerobot, rlds"):
        importer("hdf")
    assert importer("lerobot").Config is Config


def test_a_sparse_video_column_round_trips_and_decodes(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    write_video(source, 20)
    store = Store.create(tmp_path / "s")
    one = with_video(source, [0, -1, 7, 7, -1, 19])
    store.append([one, with_video(source, [3])])
    back = store.episode(store.episodes.id[0]).images["side"]
    assert isinstance(back, Video)
    assert back.index.tolist() == [0, -1, 7, 7, -1, 19]
    assert store.frame_rows("side").tolist() == [0, 2, 3, 5, 6]
    shown = store.frames("side", [6, 5, 3, 2, 0])[:, 8, 16, 0]
    assert np.abs(shown.astype(int) - [30, 190, 70, 70, 0]).max() <= 4
    with pytest.raises(DataError, match=r"a\.mp4 has 20 frames, but a row refers to frame 20"):
        store.append([with_video(source, [20])])
    with pytest.raises(DataError, match=r"a\.mp4 has 20 frames, but frame 20 is wanted"):
        list(video.decode(source, [3, 20]))
    mixed = Frames(np.zeros((1, 16, 32, 3), np.uint8), np.zeros(1, np.int32))
    with pytest.raises(DataError, match="some episodes hold pictures, others video"):
        store.append([with_video(source, [0]), replace(with_video(source, [0]), images={"side": mixed})])


def test_a_damaged_video_is_named(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 20)
    store = Store.create(tmp_path / "s")
    store.append([with_video(tmp_path / "a.mp4", [0, 1])])
    kept = next(store.path.rglob("*.mp4"))
    kept.write_bytes(kept.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"part 000000.*{kept.name} has \d+ bytes, \d+ were written"):
        Store.open(store.path).frames("side", [0])


def with_video(path: Path, index: list[int]) -> Episode:
    rows = len(index)
    return Episode(
        action=np.zeros((rows, 1), np.float32),
        obs={},
        time=np.arange(rows) * 0.1,
        has_action=np.ones(rows, bool),
        has_next=np.arange(rows) < rows - 1,
        terminated=False,
        truncated=True,
        task="t",
        instruction="",
        source="",
        images={"side": Video(path, np.array(index, np.int32))},
    )
