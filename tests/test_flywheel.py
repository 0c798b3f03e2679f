"""The flywheel: data and labels accumulate, a stated rule decides, and nothing that is done is done again."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_run import episode

from vlmrl import config as configuration
from vlmrl.cli import flywheel, jobs
from vlmrl.errors import ConfigError
from vlmrl.evaluate import collect
from vlmrl.evaluate.gate import FIRST_GATE_SEED, Rule, decide, held_out
from vlmrl.evaluate.rollout import Rollouts
from vlmrl.policy import UniformPolicy
from vlmrl.sim import load_task
from vlmrl.store import Store
from vlmrl.store.merge import merge
from vlmrl.types import Frame, Preferences


def outcomes(won: Sequence[int], first: int = 0) -> Rollouts:
    """One policy's, from starts in a row."""
    success, zeros = np.array(won, np.bool_), np.zeros(len(won), np.float32)
    return Rollouts("a", np.arange(first, first + len(won)), success, zeros, np.where(success, 1, -1))


# ---- the gate


def test_a_challenger_is_promoted_only_by_both_halves_of_the_rule() -> None:
    better = outcomes([1] * 60 + [0] * 40)
    worse = outcomes([1] * 20 + [0] * 80)
    found = decide(Rule(), better, worse)
    assert found.promoted
    assert found.difference is not None
    # 40 starts won by one alone, none by the other: estimate 0.4, and its interval is far from 0.
    assert found.difference.estimate == pytest.approx(0.4)
    assert found.difference.low > 0.25
    assert not decide(Rule(), worse, better).promoted
    same = decide(Rule(margin=0.5), better, better)
    assert not same.promoted, "as good is no gain"
    assert same.reason.startswith("no gain above 0%: difference")
    slight = decide(Rule(), outcomes([1] * 6 + [0] * 4), outcomes([1] * 5 + [0] * 5))
    assert not slight.promoted, "one start of ten rules no loss out"
    assert slight.reason.startswith("a loss of 5% is not ruled out: difference 10 %")
    assert decide(Rule(margin=0.6), outcomes([1] * 6 + [0] * 4), outcomes([1] * 5 + [0] * 5)).promoted
    assert not decide(Rule(gain=0.5), better, worse).promoted
    assert decide(Rule(), worse, None).reason == "there is no incumbent"
    with pytest.raises(ConfigError, match="did not start from the same"):
        decide(Rule(), better, outcomes([1] * 100, first=5))


def test_a_gate_is_not_learned_from() -> None:
    held_out(Rule(episodes=10, first=50), [1, 49, 60, -1])
    with pytest.raises(ConfigError, match=r"2 recorded episodes start as the gate does \(50 to 59\): say another gate"):
        held_out(Rule(episodes=10, first=50), [49, 50, 59])
    with pytest.raises(ConfigError, match="episodes from 1, margin from 0 to 1"):
        Rule(margin=-0.1)


# ---- merging


def made(path: Path, numbers: Sequence[int]) -> Store:
    store = Store.create(path)
    for k in numbers:
        store.append([replace(episode(k), id=f"e{k}")])
    return store


def test_episodes_are_merged_once_and_go_on_where_it_was_cut(tmp_path: Path) -> None:
    made(tmp_path / "a", range(3))
    made(tmp_path / "b", [2, 3])
    both = [tmp_path / "a", tmp_path / "b"]
    assert merge(tmp_path / "all", both[:1]) == ["e0", "e1", "e2"]
    assert merge(tmp_path / "all", both) == ["e3"]
    assert merge(tmp_path / "all", both) == []
    store = Store.open(tmp_path / "all")
    assert store.validate() == []
    np.testing.assert_array_equal(store.episode("e3").action, episode(3).action)
    np.testing.assert_array_equal(store.episode("e1").obs["state"], episode(1).obs["state"])


def test_episodes_that_are_not_of_one_kind_are_not_mixed(tmp_path: Path) -> None:
    made(tmp_path / "a", [0])
    made(tmp_path / "other", []).append([replace(episode(0), id="e0", source="somebody else")])
    Store.create(tmp_path / "degrees", names={"action": ["x"]}, units={"action": ["degree"]})
    merge(tmp_path / "all", [tmp_path / "a"])
    with pytest.raises(ConfigError, match=r"episode 'e0' is .*'somebody else'.*they need different ids"):
        merge(tmp_path / "all", [tmp_path / "other"])
    with pytest.raises(ConfigError, match=r"action is .*degree.*: no episodes of one kind"):
        merge(tmp_path / "all", [tmp_path / "degrees"])


def test_labels_of_several_jobs_are_one_with_a_hash_of_its_own() -> None:
    def labels(name: str, count: int) -> Preferences:
        frames = tuple(Frame("e", k, "eye") for k in range(count))
        return Preferences(frames, frames[::-1], np.full(count, 0.5, np.float32), name, f"of {name} {count}")

    found = flywheel.joined([labels("judge", 3), labels("human", 2)])
    assert len(found) == 5
    assert found.by == ("judge",) * 3 + ("human",) * 2
    assert found.annotator == "human, judge"
    assert found.snapshot != flywheel.joined([labels("human", 2), labels("judge", 3)]).snapshot
    assert flywheel.joined([labels("judge", 3)]).snapshot == "of judge 3"


# ---- turns


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two stores of random episodes of the cart-pole, with pictures."""
    folder, task = tmp_path_factory.mktemp("recorded"), replace(load_task("cartpole"), horizon=12)
    paths = [folder / "a", folder / "b"]
    for k, path in enumerate(paths):
        store = Store.create(path)
        for one in collect.record(task, UniformPolicy(1), range(4 * k, 4 * k + 4), picture_every=2):
            store.append([replace(one, success=k)])
    return paths


def turn(folder: Path, recorded: Sequence[Path], *further: str) -> dict[str, Any]:
    """Take one, as small as can be; what the gate said."""
    jobs.register()
    given = [
        "task=cartpole",
        f"recorded=[{','.join(map(str, recorded))}]",
        f"ledger={folder / 'labels.db'}",
        "labeler=scripted",
        "learner=bc",
        "learner.updates=3",
        "action=action",
        "pairs=20",
        "check_order=0",
        "reward.input=state",
        "reward.updates=3",
        "gate.episodes=2",
        "workers=1",
        *further,
    ]
    flywheel.main(configuration.compose("flywheel", given), folder)
    return flywheel.turns(folder)[-1].decision or {}


def test_a_setting_that_came_later_does_not_begin_old_turns_anew(recorded: list[Path], tmp_path: Path) -> None:
    store, content = Store.open(recorded[0]), {"task": "cartpole", "incumbent": "", "pairs": 20}
    before = flywheel.begin(content, store, tmp_path)
    assert flywheel.begin(content | {"chunk": 1}, store, tmp_path).folder == before.folder
    assert flywheel.begin(content | {"chunk": 8}, store, tmp_path).folder != before.folder


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes of the gate are over soon."""
    monkeypatch.setattr(flywheel, "load_task", lambda name: replace(load_task(name), horizon=12))


@pytest.mark.slow
def test_turns_accumulate_and_do_nothing_twice(
    recorded: list[Path], short: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "wheel"
    first = turn(folder, recorded[:1])
    assert (first["turn"], first["episodes"], first["promoted"], first["reason"]) == (
        1,
        4,
        True,
        "there is no incumbent",
    )
    assert first["recorded"]["estimate"] == 0.0
    link = (folder / "incumbent").resolve()
    assert link == folder / first["policy"]
    assert (folder / "incumbent" / "model.safetensors").is_file()
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    assert turn(folder, recorded[:1]) == first
    assert "turn 1 was taken with these data and settings" in capsys.readouterr().out
    assert times == {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}

    second = turn(folder, recorded)
    assert (second["turn"], second["episodes"], second["labels"]) == (2, 8, 2 * first["labels"])
    assert second["recorded"]["estimate"] == 1.0, "the episodes since the turn before"
    assert second["against"] == first["policy"]
    # Nobody balances a pole with three updates, so nothing is gained.
    assert not second["promoted"]
    assert "no gain above 0%" in second["reason"]
    assert (folder / "incumbent").resolve() == link
    assert "refused" in capsys.readouterr().out
    assert len(Store.open(recorded[0]).rewards()) == 0, "what was recorded is left as it was"


def test_a_turn_that_was_cut_goes_on(
    recorded: list[Path], short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = tmp_path / "wheel"
    with monkeypatch.context() as cut:
        cut.setattr(flywheel, "judge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            turn(folder, recorded)
    assert not (folder / "incumbent").exists()
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    assert len(times) == 2, "reward and policy"
    capsys.readouterr()
    with monkeypatch.context() as cut:
        # killed between promoting and saying so
        cut.setattr(flywheel, "write_json", lambda path, content: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            turn(folder, recorded)
    assert "20 known before, 0 asked now" in capsys.readouterr().out
    assert (folder / "incumbent").exists()
    found = turn(folder, recorded)
    assert found["promoted"]
    assert found["against"] == ""
    assert times == {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    assert (folder / "incumbent").resolve() == folder / found["policy"]


def test_mistakes_are_named_before_anything_is_asked(recorded: list[Path], tmp_path: Path) -> None:
    jobs.register()
    with pytest.raises(ConfigError, match="flywheel needs a task"):
        flywheel.main(configuration.compose("flywheel", []), tmp_path)
    with pytest.raises(ConfigError, match="flywheel needs recorded episodes"):
        flywheel.main(configuration.compose("flywheel", ["task=cartpole"]), tmp_path)
    with pytest.raises(ConfigError, match="4 recorded episodes start as the gate does"):
        turn(tmp_path / "w", recorded[:1], "gate.first=0", "gate.episodes=5")
    assert FIRST_GATE_SEED > 2_000_000
