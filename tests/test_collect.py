"""Collection: the store does not depend on workers or interruptions, says how it was made, and refuses what differs."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from vlmrl import config as configuration
from vlmrl.cli import collect as command
from vlmrl.cli import help, jobs
from vlmrl.cli.given import pairs
from vlmrl.errors import ConfigError, DataError
from vlmrl.evaluate import collect, online, replay
from vlmrl.evaluate.behaviour import GradedPolicy
from vlmrl.evaluate.collect import Config
from vlmrl.nn import Actor, Normaliser
from vlmrl.policy import LearnedPolicy
from vlmrl.sim import Task, load_task
from vlmrl.sim.dynamics import Diverged
from vlmrl.sim.tasks.cartpole import CartPole
from vlmrl.store import Store

PRINTED = re.compile(r"^ *vlmrl data (collect|learn) (.*?)(?:  .*)?$", re.MULTILINE)
SHORT = Config(episodes=45, steps=3, noise=(0.0, 0.5, 1.0), picture_every=2)
"""Three batches."""


@pytest.fixture(scope="module")
def cartpole() -> Task:
    return load_task("cartpole")


@pytest.fixture(scope="module")
def whole(cartpole: Task, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return collect.fill(tmp_path_factory.mktemp("whole") / "store", cartpole, SHORT, workers=1)


def saved_policy(folder: Path, *, bias: float) -> Path:
    normaliser, generator = Normaliser(torch.zeros(4), torch.ones(4)), torch.Generator().manual_seed(0)
    actions = Normaliser(torch.zeros(1), torch.ones(1))
    actor = Actor(normaliser, actions, hidden=(4,), layer_norm=False, generator=generator)
    with torch.no_grad():
        actor.net.weights[-1].zero_()
        actor.net.biases[-1].fill_(bias)
    LearnedPolicy(actor, "constant").save_pretrained(folder)
    return folder


# The same store whoever collects it


@pytest.mark.parametrize("workers", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_the_store_does_not_depend_on_the_number_of_workers(
    cartpole: Task, whole: Store, tmp_path: Path, workers: int
) -> None:
    heard: list[tuple[int, int]] = []
    store = collect.fill(
        tmp_path / "store", cartpole, SHORT, workers=workers, progress=lambda have, total: heard.append((have, total))
    )
    assert store.data_hash == whole.data_hash
    assert store.hash == whole.hash
    assert store.validate() == []
    assert heard == [(0, 45), (20, 45), (40, 45), (45, 45)]


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_killed_collection_keeps_what_is_stored_and_goes_on_to_the_same_store(
    cartpole: Task, whole: Store, tmp_path: Path, root: Path
) -> None:
    out = tmp_path / "store"
    code = "import sys; from vlmrl.cli.collect import collect; collect(sys.argv[1:])"
    settings = ["episodes=45", "steps=3", "noise=[0,0.5,1]", "picture_every=2", "workers=2"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "task=cartpole", f"out={out}", *settings], cwd=root, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    while not (out / "parts").is_dir() or not any((out / "parts").iterdir()):
        assert process.poll() is None, "the collection ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    workers = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = Store.open(out)
    assert len(kept.episodes) < 45
    store = collect.fill(out, cartpole, SHORT, workers=1)
    assert store.episodes.id[: len(kept.episodes)] == kept.episodes.id
    assert store.data_hash == whole.data_hash
    assert store.validate() == []
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker outlives the process that started it"
        time.sleep(0.05)


def test_a_store_that_is_complete_is_left_alone_and_one_that_is_not_is_extended(
    cartpole: Task, whole: Store, tmp_path: Path
) -> None:
    first = collect.fill(tmp_path / "store", cartpole, dataclasses.replace(SHORT, episodes=30))
    assert collect.fill(tmp_path / "store", cartpole, dataclasses.replace(SHORT, episodes=20)).hash == first.hash
    longer = collect.fill(tmp_path / "store", cartpole, SHORT)
    assert longer.episodes.id == whole.episodes.id
    for name in whole.columns():
        np.testing.assert_array_equal(longer.column(name), whole.column(name))
    camera = cartpole.camera
    rows = whole.frame_rows(camera)
    np.testing.assert_array_equal(longer.frame_rows(camera), rows)
    np.testing.assert_array_equal(longer.frames(camera, rows), whole.frames(camera, rows))


def test_other_seeds_and_other_policies_make_other_episodes_with_other_ids(cartpole: Task, whole: Store) -> None:
    first = whole.episode(whole.episodes.id[0])
    for changes in ({"seed": 1}, {"noise": (1.0,)}, {"picture_every": 1}):
        other = next(collect.collect(cartpole, dataclasses.replace(SHORT, **changes)))
        assert other.id != first.id
        assert (changes.keys() == {"picture_every"}) == np.array_equal(other.action, first.action)


def test_what_a_worker_raises_is_raised_and_what_was_stored_before_stays(
    cartpole: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmrl.artefact.fingerprint", lambda _: "the same, whatever it sees")
    policy = saved_policy(tmp_path / "policy", bias=0.0)
    config = dataclasses.replace(SHORT, policy=["random", str(policy)])
    collect.fill(tmp_path / "store", cartpole, dataclasses.replace(config, episodes=20))
    store = Store.open(tmp_path / "store")
    wide = dataclasses.replace(LearnedPolicy.from_pretrained(policy), keys=("state", "touch"))
    wide.save_pretrained(policy)
    with pytest.raises(DataError, match="needs observations"):
        collect.fill(tmp_path / "store", cartpole, config, workers=2)
    assert Store.open(tmp_path / "store").hash == store.hash


# Diverged episodes


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Cart-poles whose episode diverges at the second step where the cart began beyond a limit."""
    limit = {"position": 0.02}
    step, reset = CartPole.step, CartPole.reset

    def begins(self: CartPole, generator: np.random.Generator) -> None:
        reset(self, generator)
        self.began = float(self.data.qpos[0])  # type: ignore[attr-defined]

    def fails(self: CartPole, action: np.ndarray) -> float:
        if self.began > limit["position"] and self.data.time > 0:  # type: ignore[attr-defined]
            raise Diverged("the cart began too far right")
        return step(self, action)

    monkeypatch.setattr(CartPole, "reset", begins)
    monkeypatch.setattr(CartPole, "step", fails)
    return limit


def test_diverged_episodes_are_drawn_again_counted_and_never_stored(
    cartpole: Task, whole: Store, fragile: dict[str, float], tmp_path: Path
) -> None:
    del fragile
    began = whole.column("obs/state")[whole.episodes.start, 0]
    store = collect.fill(tmp_path / "store", cartpole, SHORT)
    again = store.column("obs/state")[store.episodes.start, 0]
    assert 5 < (began > 0.02).sum() < 40
    assert (again <= 0.02).all()
    replaced = store.episodes.seed >= collect.RESERVE
    np.testing.assert_array_equal(replaced, began > 0.02)
    np.testing.assert_array_equal(again[~replaced], began[~replaced])
    assert collect.redrawn(store) >= replaced.sum()
    assert len(set(store.episodes.seed.tolist())) == 45
    assert store.episodes.id == whole.episodes.id
    k = int(np.flatnonzero(replaced)[-1])
    alone = next(collect.collect(cartpole, SHORT, start=k))
    np.testing.assert_array_equal(alone.sim_state, store.episode(alone.id).sim_state)


def test_redraws_are_counted_by_their_seeds(cartpole: Task, fragile: dict[str, float], tmp_path: Path) -> None:
    fragile["position"] = -0.03
    store = collect.fill(tmp_path / "store", cartpole, dataclasses.replace(SHORT, episodes=3))
    expected = 0
    for k in range(3):
        tried = [k, *range(collect.RESERVE + 10 * k, collect.RESERVE + 10 * (k + 1))]
        expected += tried.index(int(store.episodes.seed[k]))
    assert collect.redrawn(store) == expected > 0


def test_a_task_that_always_diverges_is_an_error(cartpole: Task, fragile: dict[str, float]) -> None:
    fragile["position"] = -1.0
    with pytest.raises(DataError, match="episode 0 diverged from 11 starts"):
        next(collect.collect(cartpole, SHORT))


# Who acts


def test_mixtures_hold_equal_parts_and_say_who_acted(cartpole: Task, tmp_path: Path) -> None:
    policy = saved_policy(tmp_path / "policy", bias=0.5)
    config = dataclasses.replace(SHORT, episodes=8, policy=["random", str(policy)], noise=(0.0, 1.0))
    store = collect.fill(tmp_path / "store", cartpole, config)
    sources = list(store.episodes.source)
    assert sources.count("cartpole random actions") == 4
    assert sorted({s.split(", ")[-1] for s in sources if "saved policy" in s}) == [
        "0% random actions",
        "100% random actions",
    ]
    actions = [store.episode(id, images=False).action[:-1, 0] for id in store.episodes.id]
    quiet = [k for k, source in enumerate(sources) if source.endswith(", 0% random actions")]
    assert len(quiet) == 2
    for k in range(8):
        assert (np.abs(actions[k] - np.tanh(0.5)).max() < 1e-6) == (k in quiet)


def test_a_saved_policy_is_known_by_its_weights_not_by_its_folder(cartpole: Task, tmp_path: Path) -> None:
    policy = saved_policy(tmp_path / "policy", bias=0.5)
    config = dataclasses.replace(SHORT, episodes=2, policy=str(policy), noise=(0.1,))
    store = collect.fill(tmp_path / "store", cartpole, config)
    moved = policy.rename(tmp_path / "moved")
    more = dataclasses.replace(config, episodes=3, policy=str(moved))
    assert len(collect.fill(store.path, cartpole, more).episodes) == 3
    saved_policy(moved, bias=0.6)
    with pytest.raises(ConfigError, match=r"collect\.policy was .*choose another out"):
        collect.fill(store.path, cartpole, more)


def test_the_behaviour_policy_of_a_rollout_goes_through_the_grades(cartpole: Task) -> None:
    policy = GradedPolicy(cartpole, (0.0, 1.0), ("expert",))
    policy.reset(np.ones(3, np.bool_), [""] * 3, np.random.default_rng(0))
    assert [policy.source(k) for k in range(3)] == [
        "cartpole scripted expert, 0% random actions",
        "cartpole scripted expert, 100% random actions",
        "cartpole scripted expert, 0% random actions",
    ]
    assert policy.episode == 3


def test_only_a_task_of_one_step_terminates_and_so_stops_bootstrapping(cartpole: Task) -> None:
    fold = next(collect.collect(load_task("fold_cloth"), Config(episodes=1)))
    assert (fold.terminated, fold.truncated, len(fold)) == (True, False, 2)
    balance = next(collect.collect(cartpole, SHORT))
    assert (balance.terminated, balance.truncated) == (False, True)


def test_several_cameras_are_drawn_at_the_same_rows(cartpole: Task, tmp_path: Path) -> None:
    config = dataclasses.replace(SHORT, episodes=1, cameras=("judge", "video"))
    store = collect.fill(tmp_path / "store", cartpole, config)
    assert store.cameras == ["judge", "video"]
    np.testing.assert_array_equal(store.frame_rows("judge"), store.frame_rows("video"))
    assert set(store.meta["render"]) == {"judge", "video"}
    assert store.attributes["obs/state"]["units"] == ["m", "m/s", "rad", "rad/s"]


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": (0.2,)}, "collect.policy was"),
        ({"seed": 3}, "collect.seed was 0, is 3"),
        ({"steps": 4}, "collect.steps was 3, is 4"),
        ({"picture_every": 1}, "collect.picture_every was 2, is 1"),
        ({"cameras": ("video",)}, "render.judge.position was"),
    ],
)
def test_a_store_of_other_settings_is_not_appended_to(
    cartpole: Task, whole: Store, changes: dict[str, object], message: str
) -> None:
    before = whole.hash
    with pytest.raises(ConfigError, match=message):
        collect.fill(whole.path, cartpole, dataclasses.replace(SHORT, episodes=60, **changes))
    assert Store.open(whole.path).hash == before


def test_a_store_that_holds_something_else_is_not_appended_to(cartpole: Task, tmp_path: Path) -> None:
    config = dataclasses.replace(SHORT, episodes=2)
    store = collect.fill(tmp_path / "store", cartpole, config)
    store.append([dataclasses.replace(store.episode(store.episodes.id[0]), id="mine")])
    with pytest.raises(ConfigError, match="holds 'mine', which was not collected here"):
        collect.fill(store.path, cartpole, dataclasses.replace(config, episodes=9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "exprt"}, "unknown policy 'exprt'; have: expert, random, replay, or the folder"),
        ({"policy": "replay"}, "goes with source=STORE"),
        ({"source": "somewhere"}, "goes with source=STORE"),
        ({"policy": ["random", "replay"], "source": "somewhere"}, "goes with source=STORE"),
        ({"cameras": ("side",)}, "unknown camera 'side'; have: judge, video"),
        ({"picture_every": 0}, "picture_every=0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_a_store_is_made(
    cartpole: Task, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        collect.fill(tmp_path / "store", cartpole, dataclasses.replace(SHORT, **changes))
    assert not (tmp_path / "store").exists()


# Replay


def test_a_replay_reproduces_its_recording_exactly(cartpole: Task, whole: Store, tmp_path: Path) -> None:
    config = Config(episodes=10, policy="replay", source=str(whole.path), picture_every=1, cameras=("video",))
    store = collect.fill(tmp_path / "store", cartpole, config)
    assert len(store.episodes) == 10
    assert store.episodes.id == [f"{id}-replay" for id in whole.episodes.id[:10]]
    rows = slice(0, int(store.episodes.stop[-1]))
    for name in ("action", "obs/state", "sim_state", "truth/reward", "truth/success"):
        np.testing.assert_array_equal(store.column(name), whole.column(name)[rows])
    assert len(store.frame_rows("video")) == len(store)
    assert str(replay.reproduction(store)) == "10 of 10 episodes reproduce exactly"


def test_a_replay_that_leads_elsewhere_is_told_with_its_row(cartpole: Task, whole: Store, tmp_path: Path) -> None:
    recording = Store.create(tmp_path / "recording")
    episodes = [whole.episode(id, images=False) for id in whole.episodes.id[:3]]
    bent = episodes[1].obs["state"].copy()
    bent[2, 1] += 0.25
    recording.append([episodes[0], dataclasses.replace(episodes[1], obs={"state": bent}), episodes[2]])
    config = Config(policy="replay", source=str(recording.path))
    found = replay.reproduction(collect.fill(tmp_path / "store", cartpole, config))
    assert (found.episodes, found.exact) == (3, 2)
    assert found.worst == pytest.approx(0.25, abs=1e-6)
    assert f"2 of 3 episodes reproduce exactly; observations differ by up to 0.25 (row 2 of {episodes[1].id}" in str(
        found
    )


def test_a_recording_without_simulator_state_begins_at_its_seed(cartpole: Task, whole: Store, tmp_path: Path) -> None:
    recording = Store.create(tmp_path / "recording")
    one = dataclasses.replace(whole.episode(whole.episodes.id[4], images=False), sim_state=None)
    recording.append([one])
    config = Config(policy="replay", source=str(recording.path))
    assert replay.reproduction(collect.fill(tmp_path / "store", cartpole, config)).exact == 1
    unknown = Store.create(tmp_path / "unknown")
    unknown.append([dataclasses.replace(one, seed=-1)])
    with pytest.raises(ConfigError, match="neither the simulator's state nor a seed"):
        collect.fill(tmp_path / "other", cartpole, dataclasses.replace(config, source=str(unknown.path)))


def test_recordings_of_another_task_are_refused(cartpole: Task, whole: Store, tmp_path: Path) -> None:
    recording = Store.create(tmp_path / "recording")
    recording.append([dataclasses.replace(whole.episode(whole.episodes.id[0], images=False), task="kitchen")])
    config = Config(policy="replay", source=str(recording.path))
    with pytest.raises(ConfigError, match="holds episodes of kitchen, not of cartpole"):
        collect.fill(tmp_path / "store", cartpole, config)


# The command


def test_the_command_collects_a_mix_and_tells_what_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["task=cartpole", "mix=quick", "out=store", "episodes=4", "steps=3", "workers=1"]
    command.collect(arguments)
    told = capsys.readouterr().out
    assert "store: 4 episodes, 16 rows" in told
    assert "1 cartpole scripted expert, 30% random actions" in told
    before = Store.open("store").data_hash
    assert before[:12] in told
    command.collect(arguments)
    assert Store.open("store").data_hash == before
    command.collect(["task=cartpole", "policy=replay", "source=store", "out=again", "workers=1"])
    assert "4 of 4 episodes reproduce exactly" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=x"], "which task"),
        (["task=cartpole"], "where to"),
        (["task=cartpol", "out=x"], "unknown task 'cartpol'"),
        (["task=cartpole", "out=x", "nois=0.1"], "unknown setting 'nois'; have: .*noise"),
        (["task=cartpole", "out=x", "mix=quik"], "unknown mix 'quik'; have: expert, graded, medium, quick, random"),
        (["task=cartpole", "out=x", "noise=much"], "could not be converted to Float"),
        (["task=cartpole", "out=x", "cartpole"], "settings are key=value"),
    ],
)
def test_mistakes_of_the_command_are_named(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        command.collect(arguments)


def test_help_teaches_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    command.collect(["--help"])
    told = capsys.readouterr().out
    for config in (command.Where, Config):
        for field in dataclasses.fields(config):
            assert f"  {field.name}=" in told
    for mix in help.files("collect"):
        assert mix in told


@pytest.mark.parametrize("mix", help.files("collect"))
def test_every_mix_holds_only_what_differs_and_serves_the_main_job_too(mix: str) -> None:
    given = command.mixture(mix)
    config = configuration.fill(Config, given, where="collect")
    assert all(getattr(config, key) != getattr(Config(), key) for key in given)
    jobs.register()
    composed = configuration.compose("run", [f"collect={mix}", "collect.seed=7"])["collect"]
    assert configuration.build(Config, composed, where="collect") == dataclasses.replace(config, seed=7)


def printed() -> list[tuple[str, str]]:
    root = Path(__file__).resolve().parent.parent
    texts = [*(f.read_text() for f in (root / "docs").glob("*.md")), command.COLLECT, command.LEARN]
    return sorted({found for text in texts for found in PRINTED.findall(text)})


@pytest.mark.parametrize(("name", "rest"), printed())
def test_every_setting_of_a_printed_command_exists(name: str, rest: str) -> None:
    settings = pairs([word for word in rest.split() if "=" in word])
    if name == "collect":
        where, content = command.split(command.Where, settings, others=Config)
        assert configuration.fill(Config, command.mixture(where.mix) | command.lists(content), where="collect")
    else:
        _, content = command.split(online.Config, settings, others=online.sac.Config)
        assert configuration.fill(online.sac.Config, command.lists(content, "hidden"), where="learn")


def test_mixes_of_the_working_folder_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "collect").mkdir(parents=True)
    (tmp_path / "conf" / "collect" / "quick.yaml").write_text(yaml.safe_dump({"episodes": 7}))
    monkeypatch.chdir(tmp_path)
    assert command.mixture("quick") == {"episodes": 7}
