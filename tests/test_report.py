import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_run import ARMS, HOSTILE, ROWS, SNAPSHOT, Page, episode, make_run

from vlmrl.annotate.trust import measure
from vlmrl.errors import DataError
from vlmrl.evaluate import report
from vlmrl.evaluate.report import answers, arms, comparison, headline, logs, reward
from vlmrl.evaluate.report.folder import read
from vlmrl.page import markup
from vlmrl.page.plot import ticks
from vlmrl.runfolder import write_json
from vlmrl.store import Store, pictures
from vlmrl.types import Reply, Verdict

A, B, TIE, UNSURE = Verdict.A_BETTER, Verdict.B_BETTER, Verdict.TIE, Verdict.UNSURE


def page(folder: Path) -> Page:
    return Page(report.write(folder, Store.open(folder / "store")).read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_run(folder)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def test_the_page_tells_the_facts(whole: Path):
    text = page(whole).text
    assert "“pour the tea”" in text
    assert "scripted teacher (0% wrong), a stand-in that reads the simulator’s own progress" in text
    assert "No vision-language model took part" in text
    assert "the choice was right in 67 % [21, 94] of 3 pairs" in text  # e5 > e0 right, e1 < e4 wrong, e3 > e2 right
    row = next(r for r in read(whole).rows if r.arm == "learned")
    assert row.success.estimate == (6 + 5) / 16
    assert f"succeeds in {100 * row.success.estimate:.0f} % [" in text
    assert "(2 training seeds × 8 initial states)" in text
    for fact in ("c0ffee", SNAPSHOT, "torch 9.9", "vlmrl run", "l.db", Store.open(whole / "store").hash):
        assert fact in text
    for arm in ARMS:
        assert comparison.title(arm) in text
    assert "7 calls, 1 234 tokens and $0.50" in text
    assert "75 % [41, 93]" in text  # held out: 6 of 8 pairs without ties


@pytest.mark.parametrize(
    ("collect", "said"),
    [
        ({"policy": "random", "noise": [0.4, 1.0]}, "What recorded the logs: actions drawn evenly at random."),
        ({"policy": "expert", "noise": [0.4, 1.0]}, "a scripted expert with 40 to 100 % of its actions replaced"),
        ({"policy": "runs/mine", "noise": [0.4, 1.0]}, "What recorded the logs."),
    ],
)
def test_the_page_says_who_recorded_the_logs(collect: dict[str, Any], said: str):
    assert said in arms.line("behaviour", {"collect": collect})


def test_the_page_needs_nothing_else(whole: Path):
    found = page(whole)
    for tag, attributes in found.tags:
        assert tag not in {"link", "iframe", "object", "base"}
        for key in ("src", "poster", "href", "srcset"):
            assert attributes.get(key, "data:").startswith(("data:", "#")), (tag, key)
    source = (whole / "report.html").read_text()
    assert "http:" not in source
    assert "https:" not in source
    assert "@import" not in source
    assert "url(" not in source
    assert found.count("img") > 20


def test_hostile_text_stays_text(tmp_path: Path):
    make_run(tmp_path, text=HOSTILE)
    found = page(tmp_path)
    assert found.count("script") == 1
    assert "alert" not in re.findall(r"<script>(.*?)</script>", (tmp_path / "report.html").read_text(), re.S)[0]
    assert not any(key.startswith("on") for _, attributes in found.tags for key in attributes)
    assert not any("evil" in attributes.get("src", "") for _, attributes in found.tags)
    assert found.text.count(HOSTILE) >= 4  # sentence, labeler, source, command


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("labels.json", "No questions were asked in this run."),
        ("results.json", "No policy was evaluated"),
        ("videos", "No rollout was filmed in this run."),
        ("rewards", "No reward was learned in this run."),
        ("policies", "No policy was trained in this run."),
        ("meta.json", "Every setting"),
        ("config.json", "The run folder holds no config.json."),
        ("metrics.jsonl", "The reward"),
    ],
)
def test_what_is_missing_is_said(copy: Path, gone: str, said: str):
    place = copy / gone
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    assert said in page(copy).text


def test_logs_without_truth_make_no_claim_about_right_and_wrong(tmp_path: Path):
    make_run(tmp_path, truth=False)
    text = page(tmp_path).text
    assert "Nothing in these data tells which answers are right." in text
    assert "No true progress is recorded" in text
    assert "Whether an episode succeeded is not recorded" in text
    assert "Nothing tells which episode is good" in text
    assert "answers right" not in text
    assert "Wrong" not in text


def test_logs_without_pictures_are_reported_in_words(tmp_path: Path):
    make_run(tmp_path, images=False)
    found = page(tmp_path)
    assert "The store has no pictures" in found.text
    assert found.count("img") == 0


def test_an_empty_folder_makes_a_page(tmp_path: Path):
    Store.create(tmp_path / "store")
    assert "The store holds no episode." in page(tmp_path).text


def test_damaged_json_is_named(copy: Path):
    (copy / "labels.json").write_text('{"pairs": [')
    with pytest.raises(DataError, match=r"labels\.json is no JSON"):
        page(copy)


@pytest.mark.parametrize(("count", "said"), [(1, "a smoke test, not a claim"), (2, "5 make a claim"), (5, None)])
def test_few_training_seeds_are_no_claim(tmp_path: Path, count: int, said: str | None):
    make_run(tmp_path, seeds=tuple(range(count)))
    text = page(tmp_path).text
    assert ("make a claim" in text or "smoke test" in text) == (said is not None)
    assert said is None or said in text


def test_a_model_is_not_called_scripted(copy: Path):
    for name, change in (
        ("config.json", {"labeler": {"name": "openai"}}),
        ("labels.json", {"labeler": "qwen at home"}),
    ):
        write_json(copy / name, json.loads((copy / name).read_text()) | change)
    text = page(copy).text
    assert "went to qwen at home." in text
    assert "stand-in" not in text


def judged(copy: Path, *, truth: bool = True, text: str = "open it") -> None:
    """Labels as the judge leaves them, with what was measured."""
    known = [(0.9, A), (0.2, B), (0.6, UNSURE), (0.5, TIE), (0.3, B)]
    replies = [Reply(verdict, "judge", p) for p, verdict in known]
    swapped = [Reply(replies[0].answer.swapped(), "judge", 0.2), *[None] * 4]
    difference = np.array([1.0, 1.0, -1.0, 0.0, -1.0]) if truth else None
    facts = {"checkpoint": text, "fingerprint": "f" * 64, "sentences": [text], "seen": False, "calibrated": True}
    facts |= {"temperature": 0.05, "threshold": 0.6, "trained_on": text}
    labels = {"labeler": f"judge zeroshot ({text})", "judge": facts}
    labels["trust"] = measure(replies, swapped, difference=difference).as_json()
    write_json(copy / "labels.json", json.loads((copy / "labels.json").read_text()) | labels)
    write_json(copy / "config.json", json.loads((copy / "config.json").read_text()) | {"labeler": {"name": "judge"}})


def test_the_page_says_who_judged_and_how_far_to_trust_it(copy: Path):
    judged(copy)
    text = page(copy).text
    assert "judge zeroshot (open it), a model on this machine that compares each picture with the sentence" in text
    assert "stand-in" not in text
    assert "checkpointopen it ffffffffffff" in text
    assert "sentence seen in its trainingno: this is how a new task is judged" in text
    assert "named a side60 % of 5 pairs" in text
    assert "67 % [21, 94] of 3 pairs with a side" in text
    assert "in truthanswered Aanswered Banswered tieanswered unsureA is farther1100" in text
    # sure .9 right, .8 wrong, .6 wrong, .7 right
    assert "calibration error 0.450, log-loss 0.747 (a coin: 0.693), over 4 pairs" in text
    assert "the same answer in 100 % [21, 100] of 1 pair asked both ways round; |p + p swapped − 1| is 0.100" in text


def test_without_truth_the_page_still_says_whether_the_order_mattered(tmp_path: Path):
    make_run(tmp_path, truth=False)
    judged(tmp_path, truth=False, text=HOSTILE)
    found = page(tmp_path)
    assert "not known: these data hold no truth" in found.text
    assert "the same answer in 100 %" in found.text
    assert "in truth" not in found.text
    assert found.count("script") == 1


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.3, "better than behaviour cloning"),
        (-0.3, -0.1, "worse than behaviour cloning"),
        (0.0, 0.3, "no proven difference to behaviour cloning"),
    ],
)
def test_the_verdict_follows_the_interval(copy: Path, low: float, high: float, said: str):
    rows = json.loads((copy / "results.json").read_text())
    for row in rows:
        row["versus"] = (
            {"bc": {"estimate": (low + high) / 2, "low": low, "high": high}} if row["arm"] == "learned" else {}
        )
    write_json(copy / "results.json", rows)
    assert f"Verdict: {said}" in page(copy).text


def test_each_kind_of_answer_is_found():
    labels = {
        "pairs": [{"a": ["e", k], "b": ["f", k], "p_a": p} for k, p in enumerate([1, 0, 0.5, 0.5, 1, 0.9])],
        "truth": [[0.5, 0.1], [0.5, 0.1], [0.5, 0.1], [0.3, 0.3 + 1e-14], [0.2, 0.2004], [0.1, 0.5]],
    }
    found = answers.read(labels, "eye")
    assert found is not None
    kinds = {kind: places.tolist() for kind, places in found.kinds().items()}
    assert kinds == {"right": [0], "wrong": [1, 5], "tie_missed": [2], "tie_right": [3], "invented": [4]}
    audit = found.audit()
    assert audit is not None
    assert (audit.overall.decided, audit.overall.correct, audit.overall.ties, audit.equal) == (3, 1, 1, 2)
    accuracy = found.accuracy()
    assert accuracy is not None
    assert accuracy.estimate == pytest.approx(1 / 3)


@pytest.mark.parametrize("count", [1, 2, 5, 11, 12, 31, 151, 1000])
def test_frames_of_a_strip_are_even_and_hold_both_ends(count: int):
    places = pictures.even(count, most=11)
    assert places[0] == 0
    assert places[-1] == count - 1
    assert len(places) == len(set(places)) <= 11
    assert np.ptp(np.diff(places)) <= 1 if len(places) > 1 else count == 1


def test_a_reward_is_drawn_beneath_the_picture_that_it_judges(whole: Path):
    store = Store.open(whole / "store")
    curve = reward._curve(store, "preference-seed0", 2)
    judged = np.arange(1, ROWS)
    np.testing.assert_allclose(curve.time, judged / 10)
    np.testing.assert_allclose(curve.mean, judged + 10)
    source = report.write(whole, store).read_text()
    strips = re.findall(r"class='strip' style='--n:(\d+)'>(?:(?!class='strip').)*?class='grid' d='(.*?)'", source, re.S)
    assert len(strips) == 2
    for count, grid in strips:
        lines = [float(x) for x in re.findall(r"M([\d.]+) 0V", grid)]
        np.testing.assert_allclose(lines, (np.arange(int(count)) + 0.5) * 1000 / int(count), atol=0.1)


def test_the_reward_of_the_run_is_found_by_its_labels(whole: Path):
    store = Store.open(whole / "store")
    assert reward.columns(read(whole), store) == {0: "preference-seed0", 1: "preference-seed1"}
    # within an episode this reward rises with the truth, across episodes it does not
    share = reward._ordered(store, "preference-seed0", store.column("truth/progress"))
    assert 0.6 < share < 0.95
    assert reward._ordered(store, "preference-seed0", np.tile(np.arange(ROWS) / ROWS, 6).astype(np.float32)) == 1


def test_good_and_bad_episodes_follow_the_stated_rule(whole: Path):
    store = Store.open(whole / "store")
    places, rule = reward.choose(store, logs.quality(store), "preference-seed0")
    assert places == {"good": 5, "bad": 0}
    assert "farthest in true progress" in rule


def test_sources_are_listed_best_first_and_typical_episodes_are_medians(whole: Path):
    store = Store.open(whole / "store")
    found = logs.quality(store)
    assert [group.name for group in logs.groups(store, found)] == [
        f"expert, {100 - 10 * k} % noise" for k in (5, 4, 3, 2, 1, 0)
    ]
    everything = logs.Group("all", np.arange(5))
    assert logs._typical(found, everything) == 2


def test_a_numbered_import_is_one_source(tmp_path: Path):
    store = Store.create(tmp_path)
    store.append([episode(k, truth=False, images=False, source=f"lerobot bottles/{k}") for k in range(12)])
    made = logs.groups(store, logs.quality(store))
    assert [(group.name, len(group.episodes)) for group in made] == [("lerobot bottles", 12)]


def test_films_are_carried_within_bounds(copy: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("av")
    from vlmrl.evaluate.video import write_video

    for arm in ("bc", "learned"):
        write_video([np.full((32, 32, 3), 9 * k, np.uint8) for k in range(5)], copy / "videos" / f"{arm}.mp4", fps=5.0)
    found = page(copy)
    films = [attributes for tag, attributes in found.tags if tag == "video"]
    assert len(films) == 2
    assert all(film["src"].startswith("data:video/mp4;base64,") for film in films)
    assert all(film["poster"].startswith("data:image/jpeg;base64,") for film in films)
    assert "success at step 4; training seed 0, initial state 0, return 7" in found.text
    monkeypatch.setattr(comparison, "MOST_FILM_BYTES", (copy / "videos" / "bc.mp4").stat().st_size)
    found = page(copy)
    assert found.count("video") == 1
    assert "learned.mp4 is too big for this page" in found.text


def test_a_damaged_film_is_named(copy: Path):
    pytest.importorskip("av")
    (copy / "videos").mkdir(exist_ok=True)
    (copy / "videos" / "bc.mp4").write_bytes(b"no film")
    with pytest.raises(DataError, match=r"bc\.mp4 is no film"):
        page(copy)


def test_training_without_success_shows_the_loss(copy: Path):
    for path in (copy / "policies").rglob("metrics.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [json.dumps({k: v for k, v in r.items() if k != "success"}) for r in records]
        path.write_text("\n".join(lines) + "\n")
    assert "Success was not measured during training." in page(copy).text


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 1500), (-0.93, -0.91), (3, 3)])
def test_ticks_are_few_round_and_inside(low: float, high: float):
    found = ticks(low, high)
    assert 1 <= len(found) <= 6
    for value, text in found:
        assert low - 1e-9 <= value <= high + 1e-9
        assert float(text.replace("\N{MINUS SIGN}", "-").replace("k", "e3")) == pytest.approx(value)


def test_the_sentence_falls_back_to_the_logs(copy: Path):
    content = json.loads((copy / "config.json").read_text())
    write_json(copy / "config.json", content | {"sentence": None, "task": None})
    assert headline.sentence(read(copy), Store.open(copy / "store")) == "pour the tea"


def test_numbers_read_well():
    assert markup.points(-0.125) == "\N{MINUS SIGN}12"
    assert markup.points(0.004) == "0"
    assert markup.number(float("nan")) == "–"
    assert markup.listed(["a", "b", "c"], "or") == "a, b or c"
