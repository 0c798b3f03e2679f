"""Several labelers on the same pairs: figures that are known beforehand, and errors that stay in their row."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny_clip
from report_run import episode

from vlmrl import config as configuration
from vlmrl.annotate import Ledger, run_job, sample_pairs, scripted, true_progress
from vlmrl.cli import benchmark, help, jobs
from vlmrl.errors import ConfigError, DataError
from vlmrl.store import Store

PAIRS = 120


@pytest.fixture(scope="module", autouse=True)
def _registered():
    jobs.register()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store, answers of a teacher who is never wrong about it, and a tiny CLIP."""
    folder = tmp_path_factory.mktemp("benchmark")
    store = Store.create(folder / "store")
    store.append([episode(k) for k in range(6)])
    queries = sample_pairs(store, "eye", count=PAIRS, instruction="pour the tea", generator=np.random.default_rng(0))
    with Ledger(folder / "known.db") as book:
        run_job(queries, scripted.build(scripted.Config(), truth=true_progress(store)), ledger=book)
    tiny_clip.build("clip", folder / "tiny")
    return folder


def settings(place, folder, **changes):
    plain = configuration.compose("benchmark", [])
    return (
        plain | {"store": str(place / "store"), "ledger": str(folder / "l.db"), "pairs": PAIRS, "stress": 8} | changes
    )


def run(place, folder, **changes):
    benchmark.main(settings(place, folder, **changes), folder)
    return json.loads((folder / "benchmark.json").read_text())


def test_each_labeler_gets_its_row_on_the_same_pairs(place, tmp_path, capsys):
    labelers = [
        {"name": "scripted", "equal": 0.0},
        {"name": "scripted", "equal": 0.0, "error_rate": 1.0},
        {"name": "scripted", "equal": 0.0, "missed": 1.0},
        {"name": "recorded", "file": str(place / "known.db")},
        str(place / "tiny"),
        {"name": "judge", "checkpoint": str(place / "nowhere")},
        "oracle",
        "openai",
        {"name": "scripted", "eror_rate": 0.1},
    ]
    rows = run(place, tmp_path, labelers=labelers)
    right, wrong, silent, replayed, clip, *failed = rows
    assert (right["accuracy"]["rate"], wrong["accuracy"]["rate"]) == (1, 0)
    assert right["decided"] == wrong["decided"]
    assert right["order"]["rate"] == 1
    assert right["calibration"]["pairs"] == 0
    assert (silent["decided"], silent["accuracy"]["rate"], silent["verdicts"]["tie"]) == (0, None, PAIRS)
    assert replayed["confusion"] == right["confusion"]
    assert replayed["labeler"].startswith("recorded answers of scripted teacher (0% wrong) (known.db)")
    assert replayed["order"]["whole"] == 0  # never recorded the other way round
    assert clip["labeler"] == "judge tiny (uncalibrated)"
    assert clip["judge"]["checkpoint"] == "tiny"
    assert clip["calibration"]["pairs"] == right["accuracy"]["whole"]
    assert clip["order"]["rate"] == 1
    for row, message in zip(
        failed, ("nowhere", "unknown labeler 'oracle'", "model", "'eror_rate'; have: "), strict=True
    ):
        assert message in row["error"]
        assert "accuracy" not in row
    printed = capsys.readouterr().out
    assert all(row.get("labeler", "") in printed for row in rows)
    assert "100 % [97, 100]" in printed
    assert "cannot answer: unknown labeler 'oracle'" in printed


def test_the_variant_of_a_labeler_keeps_its_settings(place, tmp_path):
    assert benchmark.composed("scripted")["equal"] == 0.05
    assert benchmark.composed({"name": "scripted", "error_rate": 1})["error_rate"] == 1.0
    assert benchmark.composed("zeroshot")["checkpoint"] == "zeroshot"
    assert benchmark.composed("google/siglip-base-patch16-224@main") | {"device": ""} == {
        **benchmark.composed("judge"),
        "checkpoint": "google/siglip-base-patch16-224@main",
        "device": "",
    }
    with pytest.raises(ConfigError, match=r"labelers: scripted: .*many"):
        benchmark.composed({"name": "scripted", "error_rate": "many"})


def test_recorded_answers_can_be_the_truth(place, tmp_path):
    labelers = [{"name": "scripted", "equal": 0.0}, {"name": "scripted", "equal": 0.0, "error_rate": 1.0}]
    rows = run(place, tmp_path, labelers=labelers, truth=str(place / "known.db"), pairs=40)
    assert [row["accuracy"]["rate"] for row in rows] == [1, 0]
    assert [row["asked"] for row in rows] == [40, 40]
    with pytest.raises(DataError, match=r"known\.db has no clear answer"):
        run(place, tmp_path, labelers=labelers, truth=str(place / "known.db"), sentence="drink it")


def test_pairs_that_the_truth_answers_in_two_ways_are_left_out(place, tmp_path):
    lines = [
        {"a": ["frame", "e5", 0, "eye"], "b": ["frame", "e5", 12, "eye"], "instruction": "pour", "answer": answer}
        for answer in ("a", "b", "b")
    ]
    lines += [line | {"b": ["frame", "e5", 6, "eye"], "answer": "b"} for line in lines[:1]]
    lines += [line | {"b": ["frame", "e5", 9, "eye"], "answer": "unsure"} for line in lines[:1]]
    lines += [line | {"b": ["frame", "elsewhere", 9, "eye"]} for line in lines[:1]]
    truth = tmp_path / "people.jsonl"
    truth.write_text("\n".join(map(json.dumps, lines)))
    (row,) = run(place, tmp_path, labelers=["scripted"], truth=str(truth))
    assert (row["asked"], row["accuracy"]["part"]) == (1, 1)
    truth.write_text("\n".join(json.dumps(line | {"instruction": f"pour {k}"}) for k, line in enumerate(lines)))
    (row,) = run(place, tmp_path, labelers=["scripted"], truth=str(truth))
    assert row["asked"] == 4
    truth.write_text(json.dumps(lines[0] | {"instruction": ""}))
    with pytest.raises(ConfigError, match=r"say what the robot should do: .* has none that is spelt out"):
        run(place, tmp_path, labelers=["scripted"], truth=str(truth))


def test_several_tasks_in_one_set_are_told_apart(place, tmp_path, capsys):
    store = Store.create(tmp_path / "mixed")
    two = [dict(task="pour", instruction="pour the tea"), dict(task="push", instruction="push the cube")]
    store.append([replace(episode(k), **two[k % 2]) for k in range(6)])
    labelers = [{"name": "scripted", "equal": 0.0}, {"name": "judge", "checkpoint": str(place / "tiny")}]
    rows = run(place, tmp_path, labelers=labelers, store=str(tmp_path / "mixed"))
    assert [row.get("error") for row in rows] == [None, None]
    assert rows[1]["judge"]["sentences"] == ["pour the tea", "push the cube"]
    found = json.loads((tmp_path / "parts.json").read_text())
    for one in found["annotators"]:
        parts = one["slices"]["sentence"]
        assert [part["part"] for part in parts] == ["pour the tea", "push the cube"]
        assert [part["part"] for part in one["slices"]["task"]] == ["pour", "push"]
        assert [part["differ"] + part["ties"] for part in parts] == [PAIRS // 2] * 2
        for part in parts:
            assert sum(bin_["pairs"] for bin_ in part["by_gap"]) == part["differ"] > 0
            assert part["by_gap"][0]["closest"] < part["by_gap"][-1]["farthest"]
    assert "sentence: push the cube" in capsys.readouterr().out
    # Under stress, too, are pairs of both.
    content = settings(place, tmp_path, store=str(tmp_path / "mixed"))
    config = configuration.build(benchmark.BenchmarkConfig, content, where="benchmark")
    queries, _ = benchmark.labelled_pairs(config, store, "eye")
    assert {query.instruction for query in queries[:8]} == {"pour the tea", "push the cube"}


def test_it_runs_as_typed(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vlmrl"])
    monkeypatch.chdir(tmp_path)
    tiny = place / "tiny"
    arguments = [
        "benchmark",
        f"store={place / 'store'}",
        f"labelers=[scripted,{tiny},{{name:scripted,error_rate:0.5}}]",
        "pairs=20",
        "out=bench",
    ]
    jobs.run_job("label", arguments)
    rows = json.loads((tmp_path / "bench" / "benchmark.json").read_text())
    assert [row["labeler"] for row in rows] == [
        "scripted teacher (0% wrong)",
        "judge tiny (uncalibrated)",
        "scripted teacher (50% wrong)",
    ]
    meta = json.loads((tmp_path / "bench" / "meta.json").read_text())
    assert meta["command"].startswith("vlmrl label benchmark store=")
    assert "20 pairs of" in capsys.readouterr().out
    jobs.run_job("label", ["benchmark", "--help"])
    assert "usage: vlmrl label benchmark" in capsys.readouterr().out
    assert help.EXAMPLES.keys() == jobs.JOBS.keys()
