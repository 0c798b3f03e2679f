"""`vlmrl reward`: table, JSON, card and page; occlusion maps and maps over time by hand."""

import base64
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_reward import SIZE, SMALL, bar_episode, preferences
from typer.testing import CliRunner

from vlmrl.cli.reward import EvalConfig, evaluated, pick_truth, read_labels, saved
from vlmrl.cli.utilities import app
from vlmrl.errors import ConfigError, DataError
from vlmrl.reward import card
from vlmrl.reward.distill import distill
from vlmrl.reward.relabel import relabel
from vlmrl.reward.report_maps import extremes, ordered, overlay, time_map
from vlmrl.reward.report_occlusion import CELLS, occlusion
from vlmrl.runfolder import Metrics, write_json
from vlmrl.store import Store
from vlmrl.types import Episode, Frame, Frames

HOSTILE = "<script>alert('to make the bar long')</script>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as the main job leaves it: a store, labels, a reward, and its column."""
    folder = tmp_path_factory.mktemp("run")
    store = Store.create(folder / "store")
    store.append([marked(bar_episode(seed)) for seed in range(20)])
    labels = preferences(store)
    pairs = [
        {"a": [a.episode, a.row], "b": [b.episode, b.row], "p_a": float(p)}
        for a, b, p in zip(labels.a, labels.b, labels.p_a, strict=True)
        if isinstance(a, Frame) and isinstance(b, Frame)
    ]
    write_json(folder / "labels.json", {"labeler": "test", "snapshot": labels.snapshot, "pairs": pairs})
    metrics = Metrics(folder / "metrics.jsonl")
    trained = distill(store, labels, SMALL, camera="judge", seed=0, metrics=metrics, quiet=True)
    trained.save_pretrained(folder / "rewards" / "seed0")
    relabel(store, trained, "learned")
    rollouts = Store.create(folder / "rollouts")
    rollouts.append([marked(dataclasses.replace(bar_episode(seed), id=f"policy-{seed}")) for seed in range(40, 48)])
    return folder


def marked(episode: Episode) -> Episode:
    won = int(episode.truth["progress"][-1] > 0.5)
    return dataclasses.replace(episode, success=won, instruction=HOSTILE)


def test_eval_prints_one_table_and_writes_json_and_card_once(run: Path) -> None:
    command = ["reward", "eval", f"store={run / 'store'}", f"rollouts={run / 'rollouts'}", "truth=progress", "folds=2"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    wanted = "accuracy, pairs kept aside; accuracy, episodes unseen (2 folds); Kendall tau with progress; EPIC distance"
    for words in [*wanted.split("; "), "failed episodes", "reward hacking: no alarm"]:
        assert words in result.output
    content = json.loads((run / "quality" / "learned.json").read_text())
    assert content["figures"]["pearson"]["estimate"] > 0.9
    assert content["figures"]["accuracy_episodes_unseen_2_folds"]["estimate"] > 0.8
    kept = run / "quality" / "learned-folds2.json"
    trained = kept.stat().st_mtime_ns
    assert content["hacking"]["alarm"] is False
    text = (run / "rewards" / "seed0" / card.CARD).read_text()
    assert text.startswith("# Preference reward")
    assert "| correlation with progress |" in text
    CliRunner().invoke(app, command, catch_exceptions=False)
    assert (run / "rewards" / "seed0" / card.CARD).read_text() == text
    assert json.loads((run / "quality" / "learned.json").read_text()) == content
    assert kept.stat().st_mtime_ns == trained


def test_the_page_shows_every_section_escapes_and_loads_nothing(run: Path) -> None:
    command = ["reward", "report", f"store={run / 'store'}", f"rollouts={run / 'rollouts'}", f"out={run / 'page'}"]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    page = (run / "page" / "learned.html").read_text()
    for name in ("figures", "slices", "films", "frames", "maps", "attention", "hacking", "card"):
        assert f"<section id='{name}'>" in page
    assert HOSTILE not in page
    assert "&lt;script&gt;alert" in page
    assert not re.search(r"(src|href)=['\"](?!data:|#)", page)
    assert "class='missing'" not in page
    assert "What the learned policy is rewarded most for" in page


def test_a_page_without_model_truth_or_rollouts_says_what_is_missing(run: Path, tmp_path: Path) -> None:
    plain = Store.create(tmp_path / "logs")
    plain.append([dataclasses.replace(bar_episode(seed), truth={}) for seed in range(3)])
    mean = np.where(plain.column("has_next"), np.arange(len(plain)), np.nan).astype(np.float32)
    plain.add_reward("steps", mean, 0 * mean, {"rewarder": "test"})
    command = ["reward", "report", f"store={plain.path}", "reward=steps"]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    page = (tmp_path / "quality" / "steps.html").read_text()
    for words in (
        "The saved reward was not found",
        "hacking is not ruled out",
        "against the truth",
        "nothing can disagree",
    ):
        assert words in page


def test_disagreement_stands_in_where_the_policy_has_no_truth(run: Path, tmp_path: Path) -> None:
    other = Store.create(tmp_path / "robot")
    other.append([dataclasses.replace(bar_episode(seed), truth={}, id=f"robot-{seed}") for seed in range(50, 56)])
    found = evaluated(EvalConfig(store=str(run / "store"), rollouts=str(other.path), out=str(tmp_path / "out")))
    assert found.check is not None
    assert found.check.reference == "agreement of the members"


def test_other_labels_lose_the_pairs_that_were_trained_on(run: Path, tmp_path: Path) -> None:
    content = json.loads((run / "labels.json").read_text())
    swapped = [{"a": p["b"], "b": p["a"], "p_a": 1 - p["p_a"]} for p in content["pairs"][:5]]
    fresh = {"a": ["bar-0", 3], "b": ["bar-1", 12], "p_a": 1.0}
    write_json(tmp_path / "labels.json", {**content, "snapshot": "other", "pairs": [*swapped, fresh]})
    config = EvalConfig(store=str(run / "store"), labels=str(tmp_path / "labels.json"), out=str(tmp_path / "out"))
    figure = evaluated(config).quality.figure("accuracy_other_labels")
    assert figure is not None
    assert figure.count == 1


def test_the_saved_reward_of_a_column_is_found_by_its_labels_seed_and_settings(run: Path) -> None:
    facts = Store.open(run / "store").rewards()["learned"]
    assert saved(run, facts) == run / "rewards" / "seed0"
    assert saved(run, {**facts, "seed": 1}) is None


def test_wrong_settings_are_refused_with_the_choices(run: Path, tmp_path: Path) -> None:
    store = Store.open(run / "store")
    with pytest.raises(ConfigError, match="unknown truth 'speed'; have: progress, reward"):
        pick_truth(store, "speed")
    assert pick_truth(store, None) == "reward"
    with pytest.raises(ConfigError, match="unknown reward 'x'; have: learned"):
        evaluated(EvalConfig(store=str(store.path), reward="x"))
    with pytest.raises(DataError, match=r"labels.json is missing: wanted the labels.json of a run folder"):
        read_labels(tmp_path / "labels.json", "judge")
    with pytest.raises(ConfigError, match="folds=3 needs the labels"):
        evaluated(EvalConfig(store=str(store.path), folds=3, run=str(tmp_path)))


class Corner:
    """Likes brightness in the upper left quarter of what the next row shows."""

    name, sees = "corner", ("judge", (32, 32))

    def reward(self, episode: Episode) -> tuple[np.ndarray, np.ndarray]:
        frames = episode.images["judge"]
        assert isinstance(frames, Frames)
        bright = frames.pixels[:, :16, :16].mean((1, 2, 3)).astype(np.float32)
        mean = np.append(bright[1:], np.nan).astype(np.float32)
        return mean, 0 * mean

    def provenance(self) -> dict[str, object]:
        return {}


def test_an_occlusion_map_shows_what_a_reward_rests_on() -> None:
    """White on the left half, black on the right: hiding a patch of the liked corner makes it grey."""
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, :16] = 255
    found = occlusion(Corner(), bar_episode(0), 2, "judge", picture)
    assert found.shape == (CELLS, CELLS)
    # The first patch hides 8 × 8 of the corner's 16 × 16 pixels: a quarter of them fall from 255 to 128.
    assert found[0, 0] == pytest.approx((255 - 128) / 4)
    assert found[: CELLS // 2 - 3, : CELLS // 2 - 3].min() > 20
    assert np.abs(found[CELLS // 2 + 2 :]).max() == 0
    assert np.abs(found[:, CELLS // 2 + 2 :]).max() == 0


def decoded(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")).astype(int)


def test_an_overlay_is_red_where_hiding_costs_and_blue_where_it_brings() -> None:
    loss = np.zeros((4, 4))
    loss[:, 0], loss[:, 3] = 1, -1
    picture = decoded(overlay(np.full((*SIZE, 3), 128, np.uint8), loss, 1.0, side=40))
    assert picture[20, 1, 0] > picture[20, 1, 2] + 50
    assert picture[20, 38, 2] > picture[20, 38, 0] + 50
    assert np.ptp(picture[20, 20]) < 30


def test_maps_group_by_outcome_with_most_return_on_top(run: Path) -> None:
    store = Store.open(run / "store")
    mean = store.column("reward/learned/mean")
    groups = ordered(store, mean)
    table = store.episodes
    assert list(groups) == [1, 0]
    for outcome, places in groups.items():
        means = [np.nanmean(mean[table.start[i] : table.stop[i]]) for i in places]
        assert means == sorted(means, reverse=True)
        assert {int(table.success[i]) for i in places} == {outcome}
    html = time_map(store, mean, groups, colours="viridis")
    lines = [decoded(url) for url in re.findall(r"data:image/png;base64,[\w+/=]+", html)]
    height = min(12, 460 // 20)
    assert [picture.shape[0] for picture in lines[:2]] == [height * len(places) for places in groups.values()]


def test_extremes_come_from_different_episodes_and_are_those_that_a_row_judged() -> None:
    mean = np.array([1.0, 5.0, np.nan, 2.0, 4.0, np.nan, 0.0, 3.0, np.nan], np.float32)
    rows, episode = np.arange(9), np.repeat(np.arange(3), 3)
    most, least = extremes(mean, rows, episode, 2)
    assert most == [2, 5]
    assert least == [7, 1]
