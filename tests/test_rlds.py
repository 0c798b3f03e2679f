"""RLDS data sets are read without TensorFlow as TFDS wrote them, and damage is named with its file and offset."""

import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from PIL import Image

from vlmrl.cli.utilities import import_
from vlmrl.errors import ConfigError, DataError
from vlmrl.store import Store, importer
from vlmrl.store.rlds import Config, read, run
from vlmrl.store.rlds_record import example, masked_crc32c, records
from vlmrl.types import Episode, Frames

ROWS = (3, 5, 4)


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(values: Any) -> bytes:
    """A `tf.train.Feature` as protobuf writes it: numbers packed."""
    if isinstance(values, list):
        return message(1, b"".join(message(1, v) for v in values))
    if values.dtype.kind == "f":
        return message(2, message(1, values.astype("<f4").tobytes()))
    return message(3, message(1, b"".join(varint(int(v)) for v in values)))


def encoded(features: Mapping[str, Any]) -> bytes:
    entries = [message(1, message(1, k.encode()) + message(2, feature(v))) for k, v in features.items()]
    return message(1, b"".join(entries))


def record(content: bytes) -> bytes:
    def check(part: bytes) -> bytes:
        crc = google_crc32c.value(part)
        return struct.pack("<I", (((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(content))
    return length + check(length) + content + check(content)


def picture(value: int, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(buffer, form)
    return buffer.getvalue()


def tensor(dtype: str, shape: Sequence[int] = (), encoding: str = "none") -> dict[str, Any]:
    dimensions = {"dimensions": [str(n) for n in shape]} if shape else {}
    return {"tensor": {"shape": dimensions, "dtype": dtype, "encoding": encoding}}


def nested(features: dict[str, Any]) -> dict[str, Any]:
    return {"featuresDict": {"features": features}}


IMAGE = {"image": {"shape": {"dimensions": ["6", "8", "3"]}, "dtype": "uint8", "encodingFormat": "png"}}
STEP = {
    "action": nested({"move": tensor("float32", [2]), "grip": tensor("float64"), "note": {"text": {}}}),
    "is_first": tensor("bool"),
    "is_last": tensor("bool"),
    "is_terminal": tensor("bool"),
    "reward": tensor("float32"),
    "language_instruction": {"text": {}},
    "observation": nested(
        {
            "arm": nested({"joints": tensor("float32", [2])}),
            "force": tensor("float64", [1], "zlib"),
            "count": tensor("int32"),
            "front": IMAGE,
            "raw": tensor("uint8", [2, 2, 3], "bytes"),
            "wrist": IMAGE,
            "words": {"sequence": {"feature": tensor("int32"), "length": "-1"}},
        }
    ),
}


def steps(number: int, rows: int) -> dict[str, Any]:
    """Episode 1 is whole and terminal, the others just stop."""
    t, last = np.arange(rows), np.arange(rows) == rows - 1
    return {
        "steps/action/move": (np.arange(2.0 * rows) + 100 * number).astype(np.float32),
        "steps/action/grip": -t.astype(np.float32),
        "steps/action/note": [b""] * rows,
        "steps/is_first": t == 0,
        "steps/is_last": last & (number == 1),
        "steps/is_terminal": last & (number == 1),
        "steps/reward": t.astype(np.float32) + 1,
        "steps/language_instruction": [b"open" if number else b"open\xff", *[b"close"] * (rows - 1)],
        "steps/observation/arm/joints": np.arange(2.0 * rows),
        "steps/observation/force": [zlib.compress(np.float64(i / 3).tobytes()) for i in t],
        "steps/observation/count": t - 2,
        "steps/observation/front": [picture(10 * number + i + 1) for i in range(rows)],
        "steps/observation/raw": [np.full(12, i + 1, np.uint8).tobytes() for i in t],
        "steps/observation/wrist": [picture(0)] * rows,
        "steps/observation/words/ragged_flat_values": t,
        "steps/observation/words/ragged_row_lengths_0": np.ones(rows, int),
        "metadata/robot": [b"toy"],
    }


def write(root: Path, episodes: Sequence[Mapping[str, Any]], step: Mapping[str, Any] = STEP) -> Path:
    """A data set of two shards, the last episode in the second one."""
    root.mkdir(exist_ok=True)
    features = {"steps": {"sequence": {"feature": nested(dict(step)), "length": "-1"}}}
    features |= {"metadata": nested({"robot": {"text": {}}})}
    (root / "features.json").write_text(json.dumps(nested(features)))
    shards = [episodes[:-1], episodes[-1:]]
    split = {"name": "train", "shardLengths": [str(len(s)) for s in shards], "filepathTemplate": ""}
    (root / "dataset_info.json").write_text(json.dumps({"name": "toy", "splits": [split]}))
    for i, own in enumerate(shards):
        name = f"toy-train.tfrecord-{i:05d}-of-{len(shards):05d}"
        (root / name).write_bytes(b"".join(record(encoded(one)) for one in own))
    return root


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path / "small", [steps(i, n) for i, n in enumerate(ROWS)])


def one(root: Path, **settings: Any) -> Episode:
    """The second episode."""
    return list(read(Config(str(root), "", **settings)))[1]


def test_a_small_data_set_reads_as_it_was_written(small: Path) -> None:
    found = one(small, control_hz=4.0)
    # nested features in the order of their names; the step marked is_last has no action
    assert found.action.tolist() == [[-t, 100 + 2 * t, 101 + 2 * t] for t in range(4)] + [[0, 0, 0]]
    assert found.has_action.tolist() == [True] * 4 + [False]
    assert found.has_next.tolist() == [True] * 4 + [False]
    assert found.obs.keys() == {"arm.joints", "force"}
    assert found.obs["arm.joints"].tolist() == [[2 * t, 2 * t + 1] for t in range(5)]
    np.testing.assert_array_equal(found.obs["force"][:, 0], (np.arange(5) / 3).astype(np.float32))
    assert found.time.tolist() == [0, 0.25, 0.5, 0.75, 1]
    # the reward of step i judges what row i + 1 shows
    np.testing.assert_array_equal(found.truth["reward"], np.array([np.nan, 1, 2, 3, 4], np.float32))
    assert (found.terminated, found.truncated, found.success) == (True, False, -1)
    assert (found.task, found.instruction, found.source) == ("toy", "open; close", "rlds toy/train/1")


def test_pictures_are_decoded_and_a_black_camera_is_none(small: Path) -> None:
    images = one(small).images
    assert images.keys() == {"front", "raw"}
    assert isinstance(front := images["front"], Frames)
    assert isinstance(raw := images["raw"], Frames)
    assert front.pixels.shape == (5, 6, 8, 3)
    assert front.pixels[:, 0, 0, 0].tolist() == [11, 12, 13, 14, 15]
    assert raw.pixels.shape == (5, 2, 2, 3)
    assert raw.pixels[:, 1, 1, 2].tolist() == [1, 2, 3, 4, 5]


def test_an_episode_that_just_stops_keeps_its_last_action(small: Path) -> None:
    first = next(read(Config(str(small), "")))
    assert first.has_action.all()
    assert first.action[-1].tolist() == [-2, 4, 5]
    assert (first.terminated, first.truncated, bool(first.has_next[-1])) == (False, True, False)
    assert first.instruction == "open\N{REPLACEMENT CHARACTER}; close"


@pytest.mark.parametrize(("discount", "terminated"), [([1, 1, 1, 0, 1], True), ([1, 1, 1, 1, 0], False)])
def test_without_is_terminal_the_discount_of_the_last_transition_tells(
    tmp_path: Path, discount: list[float], terminated: bool
) -> None:
    kept = {k: v for k, v in STEP.items() if k != "is_terminal"} | {"discount": tensor("float32")}
    episode = steps(1, 5) | {"steps/discount": np.array(discount, np.float32)}
    found = next(read(Config(str(write(tmp_path / "d", [episode, episode], kept)), "")))
    assert found.terminated is terminated


def test_settings_choose_the_features(small: Path, tmp_path: Path) -> None:
    choice = {"state": ("observation/count", "steps/observation/arm/joints"), "action": ("action/move",)}
    report = run(Config(str(small), str(tmp_path / "out"), cameras=("observation/front",), success="reward", **choice))
    store = report.store
    assert store.names("obs/state") == ["count", "arm.joints.0", "arm.joints.1"]
    assert store.column("obs/state")[:3].tolist() == [[-2, 0, 1], [-1, 2, 3], [0, 4, 5]]
    assert (store.column("action").shape[1], store.cameras) == (2, ["front"])
    assert store.episodes.success.tolist() == [1, 1, 1]
    assert "observation/force" in report.left_out
    assert "metadata/robot" in report.left_out
    assert str(report).startswith("3 episodes imported; ")
    assert str(report).endswith("time counts 10 steps a second, as control_hz says")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"state": ("observation/arm",)}, r"unknown feature 'observation/arm'; have: action/grip"),
        ({"state": ("observation/front",)}, "feature steps/observation/front is .*, a vector of numbers wanted"),
        ({"cameras": ("reward",)}, "an RGB picture wanted"),
        ({"split": "val"}, "unknown split 'val'; have: train"),
        ({"control_hz": 0.0}, r"control_hz is 0\.0, above 0 wanted"),
    ],
)
def test_wrong_settings_list_the_choices(small: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list(read(Config(str(small), "", **settings)))


def test_lists_on_the_command_line_are_those_of_the_jobs(small: Path, tmp_path: Path) -> None:
    settings = ["state=[observation/count, observation/force]", "cameras=[observation/raw]", "control_hz=2"]
    import_(["format=rlds", f"source={small}", f"out={tmp_path / 'out'}", *settings])
    store = Store.open(tmp_path / "out")
    assert store.names("obs/state") == ["count", "force"]
    assert (store.cameras, store.column("time")[2]) == (["raw"], 1.0)


def test_an_interrupted_import_goes_on_without_duplicates(small: Path, tmp_path: Path) -> None:
    whole = run(Config(str(small), str(tmp_path / "whole"), batch=1)).store

    def stop_after_one(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Config(str(small), str(tmp_path / "cut"), batch=1), progress=stop_after_one)
    again = run(Config(str(small), str(tmp_path / "cut"), batch=1))
    assert (len(again.added), again.known) == (2, 1)
    assert again.store.hash == whole.hash
    assert run(Config(str(small), str(tmp_path / "cut"))).added == []
    with pytest.raises(
        ConfigError, match=r"cut was filled with control_hz 10\.0, not 5\.0: a store keeps its settings"
    ):
        run(Config(str(small), str(tmp_path / "cut"), control_hz=5.0))


def second(root: Path) -> tuple[Path, int, bytes]:
    """Where the second record begins."""
    path = root / "toy-train.tfrecord-00000-of-00002"
    content = path.read_bytes()
    return path, 16 + struct.unpack("<Q", content[:8])[0], content


def flip(root: Path, place: int) -> None:
    path, at, content = second(root)
    damaged = bytearray(content)
    damaged[at + place] ^= 1
    path.write_bytes(bytes(damaged))


def rewrite(root: Path, content: bytes) -> None:
    path, at, whole = second(root)
    path.write_bytes(whole[:at] + record(content))


def changed(name: str, value: Any) -> Callable[[Path], None]:
    episode = steps(1, 5) | {name: value}
    return lambda root: rewrite(root, encoded({k: v for k, v in episode.items() if v is not None}))


@pytest.mark.parametrize(
    ("damage", "message", "kept"),
    [
        (lambda root: flip(root, 1), "record at byte {at}: the checksum of its length does not match", 1),
        (lambda root: flip(root, 9), "record at byte {at}: the checksum of its length does not match", 1),
        (lambda root: flip(root, 40), r"record at byte {at}: the checksum of its [\d,]+ bytes does not match", 1),
        (
            lambda root: second(root)[0].write_bytes(second(root)[2][:-9]),
            r"byte {at}: the file ends after [\d,]+ of",
            1,
        ),
        (lambda root: second(root)[0].write_bytes(second(root)[2][: second(root)[1] + 5]), "ends after 5 of 12", 1),
        (lambda root: second(root)[0].write_bytes(second(root)[2][: second(root)[1]]), "1 episodes, .* counts 2", 1),
        (lambda root: (root / "toy-train.tfrecord-00001-of-00002").unlink(), "00001-of-00002 is missing", 0),
        (lambda root: rewrite(root, b"\x0a\x7fno"), r"byte {at} is no tf\.train\.Example: a field of 127 bytes", 1),
        (changed("steps/action/move", None), "byte {at} has no steps/action/move; have: metadata/robot, steps", 1),
        (changed("steps/action/move", np.ones(9, np.float32)), r"move holds 9 numbers, 5 steps of \[2\] float32", 1),
        (changed("steps/reward", [b"x"] * 5), r"steps/reward holds 5 strings, 5 steps of \[\] float32 wanted", 1),
        (changed("steps/is_last", np.arange(5) == 2), "is_last is true at step 2 of 5", 1),
        (changed("steps/observation/front", [b"x"] * 5), "a picture of steps/observation/front cannot be read", 1),
        (changed("steps/observation/front", [picture(1)]), "front holds 1 pictures, 5 wanted", 1),
        (changed("steps/observation/force", [b"x"] * 5), "force is not encoded as zlib", 1),
        (changed("steps/action/grip", np.empty(0, np.float32)), "byte {at} has no steps", 1),
    ],
    ids=range(16),
)
def test_damage_is_named_and_loses_nothing_before_it(
    small: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str, kept: int
) -> None:
    at, whole = second(small)[1], {p: p.read_bytes() for p in small.iterdir()}
    damage(small)
    with pytest.raises(DataError, match=message.replace("{at}", str(at))) as error:
        run(Config(str(small), str(tmp_path / "out")))
    assert "toy-train.tfrecord-0000" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(Store.open(tmp_path / "out").episodes) == kept
    for path, content in whole.items():
        path.write_bytes(content)
    # once the file is mended the import goes on
    report = run(Config(str(small), str(tmp_path / "out")))
    assert (len(report.added), report.known) == (3 - kept, kept)
    assert report.store.validate() == []


def test_a_folder_that_is_no_rlds_data_set_says_so(small: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"features\.json is missing: an RLDS data set is a folder that holds"):
        list(read(Config(str(tmp_path), "")))
    info = json.loads((small / "dataset_info.json").read_text())
    (small / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "array_record"}))
    with pytest.raises(DataError, match="files of format 'array_record' are not read, only tfrecord"):
        list(read(Config(str(small), "")))
    (small / "features.json").write_text(json.dumps(nested({"label": tensor("int64")})))
    with pytest.raises(DataError, match="has no 'steps', so this is no RLDS data set; have: label"):
        list(read(Config(str(small), "")))


def test_checksums_are_those_of_the_standard() -> None:
    # RFC 3720 B.4: CRC-32C of 32 zero bytes is 0x8A9136AA; rotated right by 15 and shifted
    assert masked_crc32c(bytes(32)) == ((0x8A9136AA >> 15 | 0x8A9136AA << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert masked_crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_an_example_may_be_packed_or_not() -> None:
    numbers = [0, 1, -1, 127, 128, 300, 2**63 - 1, -(2**63)]
    packed = example(encoded({"n": np.array(numbers), "none": np.empty(0, int)}))
    assert isinstance(packed["n"], np.ndarray)
    assert packed["n"].tolist() == numbers
    assert len(packed["none"]) == 0
    loose = message(3, b"".join(varint(1 << 3) + varint(n) for n in numbers))
    floats = message(2, b"".join(varint(1 << 3 | 5) + struct.pack("<f", n) for n in (0.5, -2)))
    entries = [message(1, message(1, name) + message(2, v)) for name, v in ((b"n", loose), (b"f", floats), (b"e", b""))]
    # fields of other numbers and types are skipped
    read_back = example(varint(9 << 3 | 1) + bytes(8) + message(1, b"".join(entries)))
    assert isinstance(read_back["n"], np.ndarray)
    assert isinstance(read_back["f"], np.ndarray)
    assert read_back["n"].tolist() == numbers
    assert read_back["f"].tolist() == [0.5, -2]
    assert read_back["e"] == []


@pytest.mark.parametrize("content", [b"\x0a\x05", b"\xff" * 11, b"\x0a", b"\x0b", b"\x0a\x04\x0a\x02\x12\x00"])
def test_what_is_no_example_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"field|number|wire|name"):
        example(content)


def test_real_data_of_a_widowx(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "bridge_rlds"
    report = run(Config(str(source), str(tmp_path / "bridge"), control_hz=5.0))
    store = report.store
    assert (len(store.episodes), len(store), len(store.transitions())) == (25, 250, 225)
    assert store.column("obs/state").shape == store.column("action").shape == (250, 7)
    assert store.cameras == ["image_0", "image_1", "image_2"]
    assert report.left_out[-1] == "image_3 (black)"
    assert len(set(store.episodes.instruction)) == 4
    assert store.column("time")[9] == pytest.approx(1.8)
    assert store.frames("image_0", [0]).shape == (1, 64, 64, 3)
    assert store.validate() == []
    assert importer("rlds").Config is Config


def test_real_records_are_whole(shared_data: Path) -> None:
    found = list(records(shared_data / "bridge_rlds/bridge_dataset-train.tfrecord-00000-of-00001"))
    assert len(found) == 25
    assert found[0][0] == 0
    values = example(found[0][1])["steps/language_embedding"]
    assert isinstance(values, np.ndarray)
    assert values.shape == (5120,)
