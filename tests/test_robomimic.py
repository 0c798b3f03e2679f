"""robomimic's files come into a store and out of it again with nothing lost."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmrl.cli import robomimic as training
from vlmrl.errors import ConfigError, DataError
from vlmrl.store import Store, robomimic
from vlmrl.types import Episode, Frames

h5py = pytest.importorskip("h5py", reason="extra 'hdf5' is not installed")


def write(path: Path, *, further: bool = True, mask: bool = True, bad: str = "") -> Path:
    """Three demonstrations, the tenth last by number and second by letters."""
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = 15
        data.attrs["env_args"] = json.dumps(
            {"env_name": "Lift", "env_type": 1, "env_kwargs": {"control_freq": 10, "robots": ["Panda"]}}
        )
        for demo in ("demo_1", "demo_2", "demo_10"):
            group = data.create_group(demo)
            group.attrs["num_samples"], group.attrs["model_file"] = 5, f"<mujoco model='{demo[:6]}'/>"
            group["actions"] = generator.uniform(-1, 1, (5, 2))
            group["states"] = generator.normal(size=(5, 4))
            group["rewards"] = np.array([0, 0, 0, 1, 1.0])
            group["dones"] = np.array([0, 0, 0, 1, 1])
            position = generator.normal(size=(6, 3))
            picture = generator.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
            for key, value in (("eef_pos", position), ("agentview_image", picture), ("gripper", position[:, 0])):
                group[f"obs/{key}"] = value[:5]
                if further:
                    group[f"next_obs/{key}"] = value[1:]
            if bad == "gap":
                group["next_obs/eef_pos"][2] += 1
        if mask:
            file["mask/train"] = np.array(["demo_1", "demo_10"], "S")
            file["mask/valid"] = np.array(["demo_2"], "S")
    return path


def everything(path: Path) -> dict[str, Any]:
    """All arrays, and all attributes as text."""
    found: dict[str, Any] = {}

    def keep(name: str, node: Any) -> None:
        found.update({f"{name}@{k}": str(v) for k, v in node.attrs.items()})
        if isinstance(node, h5py.Dataset):
            found[name] = node[()]

    with h5py.File(path) as file:
        file.visititems(keep)
    return found


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    assert set(a) == set(b)
    for key, value in a.items():
        if isinstance(value, str) or value.dtype.kind == "S":
            assert np.array_equal(value, b[key]), key
        else:
            assert b[key].dtype == value.dtype, key
            np.testing.assert_array_equal(b[key], value if "states" in key else value.astype(_kept(value)), key)


def _kept(value: np.ndarray) -> str:
    return "float32" if value.dtype.kind == "f" else str(value.dtype)


@pytest.mark.parametrize("further", [True, False])
@pytest.mark.parametrize("mask", [True, False])
def test_a_file_comes_back_as_it_was(tmp_path: Path, *, further: bool, mask: bool) -> None:
    source, out = write(tmp_path / "a.hdf5", further=further, mask=mask), tmp_path / "b.hdf5"
    robomimic.run(robomimic.Config(str(source), str(tmp_path / "store")))
    robomimic.export(robomimic.ExportConfig(str(tmp_path / "store"), str(out), valid=0.34))
    before, after = everything(source), everything(out)
    # numbers of one entry a row are a matrix of one column here
    for key in [key for key in after if key.endswith("/gripper")]:
        after[key] = after[key][:, 0]
    if not mask:
        assert sorted([*after.pop("mask/train"), *after.pop("mask/valid")]) == [b"demo_1", b"demo_10", b"demo_2"]
    same(before, after)


def test_rows_rewards_and_ends_are_those_of_the_file(tmp_path: Path) -> None:
    source = write(tmp_path / "a.hdf5")
    report = robomimic.run(robomimic.Config(str(source), str(tmp_path / "store"), instruction="to lift"))
    store = report.store
    assert [text.rpartition("/")[2] for text in store.episodes.source] == ["demo_1", "demo_2", "demo_10"]
    assert (len(store), set(store.episodes.task), store.meta["control_hz"]) == (18, {"Lift"}, 10.0)
    episode = store.episode(store.episodes.id[0])
    np.testing.assert_array_equal(episode.truth["reward"], np.array([np.nan, 0, 0, 0, 1, 1], np.float32))
    assert episode.terminated
    assert episode.has_action.tolist() == [True] * 5 + [False]
    assert store.transitions(("eef_pos", "gripper")).obs.shape == (15, 4)
    assert store.frames("agentview_image", [5]).shape == (1, 8, 8, 3)
    assert store.validate() == []
    again = robomimic.run(robomimic.Config(str(source), str(tmp_path / "store"), instruction="to lift"))
    assert (again.added, again.known) == ([], 3)


def test_a_learned_reward_takes_the_place_of_the_file_s(tmp_path: Path) -> None:
    store = robomimic.run(robomimic.Config(str(write(tmp_path / "a.hdf5")), str(tmp_path / "store"))).store
    mean = np.where(store.column("has_next"), np.arange(len(store)), np.nan).astype(np.float32)
    store.add_reward("mine", mean, mean * 0, {})
    robomimic.export(robomimic.ExportConfig(str(tmp_path / "store"), str(tmp_path / "b.hdf5"), reward="mine"))
    np.testing.assert_array_equal(everything(tmp_path / "b.hdf5")["data/demo_2/rewards"], np.arange(6, 11))
    with pytest.raises(ConfigError, match="unknown reward column 'yours'; have: mine"):
        robomimic.export(robomimic.ExportConfig(str(tmp_path / "store"), str(tmp_path / "c.hdf5"), reward="yours"))


def test_several_actions_in_a_row_stand_for_one_in_the_file_that_is_trained_on(tmp_path: Path) -> None:
    robomimic.run(robomimic.Config(str(write(tmp_path / "a.hdf5")), str(tmp_path / "store")))
    robomimic.export(robomimic.ExportConfig(str(tmp_path / "store"), str(tmp_path / "b.hdf5")))
    plain, data = everything(tmp_path / "b.hdf5"), tmp_path / "data.hdf5"
    config = training.Config(str(tmp_path / "store"), str(tmp_path), obs=("eef_pos",), chunk=3)
    data.with_suffix(".part").write_bytes(b"left by a crash")
    training._exported(config, data)
    found = everything(data)
    for demo in ("demo_1", "demo_2"):
        done = plain[f"data/{demo}/actions"]
        padded = np.concatenate([done, done[-1:], done[-1:]])
        wanted = np.concatenate([padded[:-2], padded[1:-1], padded[2:]], 1)
        np.testing.assert_array_equal(found[f"data/{demo}/actions"], wanted)
    assert training._exported_before(config, data)
    assert not training._exported_before(replace(config, chunk=1), data)


def test_mistakes_are_told(tmp_path: Path) -> None:
    gap = write(tmp_path / "gap.hdf5", bad="gap")
    with pytest.raises(DataError, match="next_obs/eef_pos is not obs/eef_pos one step later"):
        robomimic.run(robomimic.Config(str(gap), str(tmp_path / "gap")))
    with pytest.raises(DataError, match="is missing; wanted an HDF5 file"):
        robomimic.run(robomimic.Config(str(tmp_path / "no.hdf5"), str(tmp_path / "no")))
    robomimic.run(robomimic.Config(str(write(tmp_path / "a.hdf5")), str(tmp_path / "store")))
    with pytest.raises(ConfigError, match="was not filled from"):
        robomimic.run(robomimic.Config(str(write(tmp_path / "b.hdf5", further=False)), str(tmp_path / "store")))
    with pytest.raises(ConfigError, match="no observation 'state'; have: eef_pos, gripper"):
        robomimic.export(robomimic.ExportConfig(str(tmp_path / "store"), str(tmp_path / "c.hdf5"), obs=("state",)))
    with pytest.raises(ConfigError, match="exists"):
        robomimic.export(robomimic.ExportConfig(str(tmp_path / "store"), str(gap)))


def test_any_store_can_be_written_for_robomimic(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    rows = np.arange(4)
    made = [
        Episode(
            action=np.full((4, 2), scale, np.float32),
            obs={"state": np.ones((4, 3), np.float32) * k},
            time=rows / 10,
            has_action=rows < 3,
            has_next=rows < 3,
            terminated=False,
            truncated=True,
            task="reach",
            instruction="",
            source="test",
            images={"slow": Frames(np.zeros((1, 4, 4, 3), np.uint8), np.array([0, -1, -1, -1], np.int32))},
            id=f"e{k}",
        )
        for k, scale in enumerate((0.5, 1.0))
    ]
    store.append(made)
    told = robomimic.export(robomimic.ExportConfig(str(store.path), str(tmp_path / "a.hdf5"), valid=0.5))
    assert told.endswith("2 demonstrations, 6 steps, obs state; cameras left out: slow")
    found = everything(tmp_path / "a.hdf5")
    assert (found["data@total"], json.loads(found["data@env_args"])["env_name"]) == ("6", "reach")
    assert found["data/demo_1/next_obs/state"].shape == (3, 3)
    assert found["data/demo_0/dones"].tolist() == found["data/demo_0/rewards"].tolist() == [0, 0, 0]
    store.append([Episode(**{**vars(made[0]), "action": made[0].action * 3, "id": "far", "images": {}})])
    with pytest.raises(DataError, match=r"'far' has actions up to 1.5: robomimic wants them within \[-1, 1\]"):
        robomimic.export(robomimic.ExportConfig(str(store.path), str(tmp_path / "b.hdf5")))


def test_people_s_lifts_are_read(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "robosuite_lift_human" / "demo.hdf5"
    store = robomimic.run(robomimic.Config(str(source), str(tmp_path / "store"))).store
    assert (len(store.episodes), len(store), set(store.episodes.task)) == (3, 1_384, {"Lift"})
    robomimic.export(robomimic.ExportConfig(str(store.path), str(tmp_path / "b.hdf5")))
    same(everything(source), {k: v for k, v in everything(tmp_path / "b.hdf5").items() if not _added(k)})


def _added(key: str) -> bool:
    """robomimic's own marks, which robosuite's recorder does not write."""
    return key.endswith(("@total", "@num_samples")) or key.startswith("mask/")
