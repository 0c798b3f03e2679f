"""The transformers labeler on a tiny SmolVLM-style checkpoint built here: real code path, toy answers."""

import asyncio
import shutil

import numpy as np
import pytest
import tiny_vlm
from annotate_fakes import FakeStore

from vlmrl.annotate import Ledger, Limits, Pictures, run_job, sample_pairs
from vlmrl.annotate import transformers as labeling
from vlmrl.errors import ConfigError, LabelerError
from vlmrl.types import Frame, Kind, Query, Verdict


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def babbling(tmp_path_factory):
    return tiny_vlm.build(tmp_path_factory.mktemp("babbling"))


@pytest.fixture(scope="module")
def saying_one(tmp_path_factory):
    return tiny_vlm.build(tmp_path_factory.mktemp("one"), says="1")


def a_query(seed):
    pictures = tuple(np.random.default_rng(seed).integers(0, 256, (2, 24, 30, 3), dtype=np.uint8))
    return Query(Kind.PREFERENCE, (Frame("e", seed, "front"), Frame("e", seed + 1, "front")), "open it", pictures)


def make(model, **settings):
    return labeling.build(labeling.Config(model=str(model), device="cpu", **({"analysis_tokens": 12} | settings)))


def ask_all(labeler, queries):
    async def go():
        try:
            return await asyncio.gather(*(labeler.ask(q) for q in queries))
        finally:
            await labeler.close()

    return asyncio.run(go())


def test_a_batch_answers_as_each_question_alone_would_be(babbling):
    queries = [a_query(i) for i in range(6)]
    alone = ask_all(make(babbling, batch_size=1), queries)
    together = ask_all(make(babbling, batch_size=4), queries)
    assert [r.text for r in together] == [r.text for r in alone]
    assert len({r.text for r in alone}) > 1  # the pictures do matter
    assert all(r.answer is None and not r.error for r in alone)


def test_questions_in_flight_share_batches_of_one_stage(saying_one, monkeypatch):
    batches, generate = [], labeling._Model.generate

    def counted(self, batch, *, tokens):
        batches.append([w.stage for w in batch])
        return generate(self, batch, tokens=tokens)

    monkeypatch.setattr(labeling._Model, "generate", counted)
    replies = ask_all(make(saying_one, batch_size=4), [a_query(i) for i in range(8)])
    assert [r.answer for r in replies] == [Verdict.B_BETTER] * 8
    assert sorted(batches) == [["analysis"] * 4] * 2 + [["label"] * 4] * 2
    assert all((r.cost.calls, r.cost.completion_tokens) == (2, 4) for r in replies)  # a word and an end, twice
    assert all(r.cost.prompt_tokens > 100 for r in replies)


@pytest.mark.parametrize("family", ["qwen", "smolvlm"])
def test_a_model_with_a_video_processor_works_without_torchvision(tmp_path, family):
    if family == "smolvlm":
        pytest.importorskip("num2words")
    folder = getattr(tiny_vlm, f"build_{family}")(tmp_path)
    queries = [a_query(i) for i in range(3)]
    together = ask_all(make(folder, label_tokens=4), queries)
    assert [r.text for r in together] == [r.text for r in ask_all(make(folder, label_tokens=4, batch_size=1), queries)]
    assert all((r.cost.calls, r.error) == (2, "") for r in together)


def test_a_job_labels_through_the_ledger_and_may_be_repeated_after_close(saying_one, tmp_path):
    store, labeler = FakeStore(), make(saying_one)
    queries = sample_pairs(store, "front", count=12, instruction="open it", generator=np.random.default_rng(0))
    with Ledger(tmp_path / "ledger.db") as ledger:
        for asked, upto in ((8, 8), (4, 12)):
            report = run_job(
                queries[:upto], labeler, ledger=ledger, limits=Limits(concurrency=8), pictures=Pictures(store)
            )
            assert (report.asked, report.verdicts["b"]) == (asked, upto)
        assert ledger.snapshot(queries, report.keys).annotator == f"{saying_one} (two stage, compare-1)"


def test_a_model_is_known_by_its_files_not_by_its_place(babbling, saying_one, tmp_path):
    moved = shutil.copytree(babbling, tmp_path / "moved")
    (moved / "README.md").write_text("a note")
    query = a_query(0)
    assert make(moved).content(query) == make(babbling).content(query)
    assert make(saying_one).content(query) != make(babbling).content(query)
    (moved / "chat_template.jinja").write_text("{{ messages }}")
    assert make(moved).content(query) != make(babbling).content(query)
    assert make(babbling, dtype="bfloat16").content(query) != make(babbling).content(query)


def test_a_model_that_cannot_be_loaded_is_named(babbling, tmp_path):
    with pytest.raises(LabelerError, match=r"no model 'nobody/nothing': it is no folder here, and the hub says"):
        make("nobody/nothing").content(a_query(0))
    broken = shutil.copytree(babbling, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    with pytest.raises(LabelerError, match=r"cannot load '.*broken'"):
        ask_all(make(broken), [a_query(0)])
    mute = shutil.copytree(babbling, tmp_path / "mute")
    (mute / "chat_template.jinja").unlink()
    with pytest.raises(LabelerError, match="no chat template"):
        ask_all(make(mute), [a_query(0)])


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="model is empty"):
        labeling.build(labeling.Config())
    with pytest.raises(ConfigError, match="batch_size 0"):
        labeling.Config(model="m", batch_size=0)
    with pytest.raises(ConfigError, match="unknown device 'quantum'; have: auto, cpu"):
        labeling.build(labeling.Config(model="m", device="quantum"))
