"""Flat arrays in D4RL's layout become episodes: borders, alignment of the reward, errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmrl.errors import ConfigError, DataError
from vlmrl.reward import rewarder
from vlmrl.reward.relabel import relabel
from vlmrl.store import Store, d4rl
from vlmrl.store.d4rl import Config, run
from vlmrl.store.importers import importer


def arrays(**more: Any) -> dict[str, np.ndarray]:
    steps = np.arange(7, dtype=np.float32)
    return {"observations": np.stack([steps, -steps], 1), "actions": steps[:, None] / 10, "rewards": steps + 100} | more


def imported(folder: Path, content: dict[str, np.ndarray], **settings: Any) -> Store:
    np.savez(folder / "logs.npz", **content)  # pyright: ignore[reportArgumentType]
    return run(Config(str(folder / "logs.npz"), str(folder / "store"), **settings)).store


def flags(*steps: int) -> np.ndarray:
    return np.isin(np.arange(7), steps)


@pytest.mark.parametrize(
    ("borders", "stops", "terminated"),
    [
        ({"episode_ends": np.array([3, 7])}, [3, 7], [False, False]),
        ({"episode_ends": np.array([3, 7]), "terminals": flags(2)}, [3, 7], [True, False]),
        ({"terminals": flags(2), "timeouts": flags(5)}, [3, 6, 7], [True, False, False]),
        ({"terminals": flags(6).astype(np.float32)}, [7], [True]),
    ],
)
def test_borders_come_from_ends_or_flags(
    tmp_path: Path, borders: dict[str, np.ndarray], stops: list[int], terminated: list[bool]
) -> None:
    table = imported(tmp_path, arrays(**borders)).episodes
    assert table.stop.tolist() == stops
    assert table.terminated.tolist() == terminated
    assert (~table.truncated).tolist() == terminated


def test_reward_of_a_step_is_the_truth_of_the_next_row_and_comes_back_as_its_reward(tmp_path: Path) -> None:
    store = imported(tmp_path, arrays(episode_ends=np.array([3, 7])), instruction="open it", control_hz=5.0)
    np.testing.assert_array_equal(store.column("truth/reward"), [np.nan, 100, 101, np.nan, 103, 104, 105])
    truth = rewarder("ground_truth")
    relabel(store, truth.build(truth.Config()), "ground_truth")
    found = store.transitions(("state",), "ground_truth")
    assert found.reward.tolist() == [100, 101, 103, 104, 105]
    assert found.obs[:, 0].tolist() == [0, 1, 3, 4, 5]
    assert found.next_obs[:, 0].tolist() == [1, 2, 4, 5, 6]
    first = store.episode(store.episodes.id[0])
    assert first.time.tolist() == [0, 0.2, 0.4]
    assert first.has_action.all()
    assert (first.task, first.instruction) == ("logs", "open it")


def test_next_observations_keep_the_last_transition_and_its_reward(tmp_path: Path) -> None:
    content = arrays(terminals=flags(2, 6))
    content["next_observations"] = content["observations"] + 0.5
    store = imported(tmp_path, content)
    assert store.episodes.length.tolist() == [4, 5]
    assert store.column("obs/state")[:4, 0].tolist() == [0, 1, 2, 2.5]
    assert store.column("truth/reward")[1:4].tolist() == [100, 101, 102]
    assert store.column("has_action")[:4].tolist() == [True, True, True, False]
    assert store.transitions(("state",)).mask.tolist() == [1, 1, 0, 1, 1, 1, 0]


def test_first_simulator_states_are_kept_on_the_first_rows(tmp_path: Path) -> None:
    more = {
        "init_qpos": np.array([[1.0, 2], [3, 4]]),
        "init_mass": np.array([5.0, 6]),
    }
    store = imported(tmp_path, arrays(episode_ends=np.array([3, 7]), **more))
    state = store.column("sim_state")
    assert store.names("sim_state") == ["init_mass[0]", "init_qpos[0]", "init_qpos[1]"]
    assert state[[0, 3]].tolist() == [[5, 1, 2], [6, 3, 4]]
    assert np.isnan(np.delete(state, [0, 3], 0)).all()


def test_simulator_states_of_every_step_are_kept_and_the_rest_is_named(tmp_path: Path) -> None:
    more = {"infos/qpos": np.arange(7.0)[:, None], "infos/qvel": -np.arange(7.0)[:, None], "infos/goal": np.ones(7)}
    np.savez(tmp_path / "logs.npz", **arrays(timeouts=flags(2), **more))  # pyright: ignore[reportArgumentType]
    report = run(Config(str(tmp_path / "logs.npz"), str(tmp_path / "store")))
    assert report.store.column("sim_state")[4].tolist() == [4, -4]
    assert report.left_out == ["infos/goal"]


def test_a_second_import_adds_nothing(tmp_path: Path) -> None:
    before = imported(tmp_path, arrays(episode_ends=np.array([3, 7])))
    again = run(Config(str(tmp_path / "logs.npz"), str(tmp_path / "store")))
    assert (again.added, again.known) == ([], 2)
    assert again.store.hash == before.hash


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (arrays(), r"no borders: episode_ends, terminals or timeouts wanted; have: actions \(7, 1\), "),
        (arrays(episode_ends=np.array([3, 6])), "episode_ends must grow from above 0 to the number of steps, 7"),
        (arrays(episode_ends=np.array([3, 3, 7])), "episode_ends must grow"),
        (arrays(terminals=flags(1)[:5]), r"7 observations, at least one, and as many in {'terminals': \(5,\)} wanted"),
        ({"actions": np.zeros((3, 1)), "states": np.zeros(3)}, "no matrix 'observations'; have: actions"),
        (arrays(episode_ends=np.array([7]), actions=np.full((7, 1), np.nan)), "actions of step 0 is not finite"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, content: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        imported(tmp_path, content)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("nothing")
    for name, message in (("text.npz", "cannot be read as .npz"), ("none.npz", "is missing")):
        with pytest.raises(DataError, match=message):
            run(Config(str(tmp_path / name), str(tmp_path / "store")))


def test_hdf5_gives_the_same_episodes(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    content = arrays(
        terminals=flags(2), timeouts=flags(6), **{"infos/qpos": np.ones((7, 1)), "infos/qvel": np.ones((7, 1))}
    )
    with h5py.File(tmp_path / "logs.hdf5", "w") as file:
        for name, values in content.items():
            file[name] = values
        file["metadata/algorithm"] = "none"
    flat = imported(tmp_path, content)
    deep = run(Config(str(tmp_path / "logs.hdf5"), str(tmp_path / "deep"))).store
    assert deep.episodes.id == flat.episodes.id
    assert deep.column("sim_state").tolist() == flat.column("sim_state").tolist()


def test_hdf5_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(d4rl, "import_module", missing)
    (tmp_path / "logs.hdf5").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"pip install 'vlmrl\[hdf5\]'"):
        run(Config(str(tmp_path / "logs.hdf5"), str(tmp_path / "store")))


def test_human_demonstrations_of_the_door_are_imported_whole(shared_data: Path, tmp_path: Path) -> None:
    module = importer("d4rl")
    report = module.run(module.Config(str(shared_data / "adroit_door_human" / "demos.npz"), str(tmp_path / "door")))
    assert (len(report.store.episodes), len(report.store), report.left_out) == (25, 6729, [])
    assert report.store.column("sim_state").shape == (6729, 63)
    assert not report.store.validate()
