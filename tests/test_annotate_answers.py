"""The openai labeler against servers that truncate, change shape, hide or switch the model; and what answers become."""

import asyncio
import dataclasses
import json
import math
import sqlite3

import numpy as np
import pytest
import tiny_vlm
from annotate_fakes import FakeStore
from fake_server import Answer, has_picture, serve
from judge_server import Brightness, body
from omegaconf import OmegaConf
from report_run import episode

from vlmrl import config as configuration
from vlmrl.annotate import Ledger, Limits, Pictures, run_job, sample_pairs, transformers
from vlmrl.annotate import openai as labeling
from vlmrl.annotate.completion import same_model
from vlmrl.annotate.ledger import Asked
from vlmrl.cli import jobs
from vlmrl.cli import label as job
from vlmrl.errors import ConfigError, DataError, LabelerError
from vlmrl.reward.answers import calibrated, column, numbers
from vlmrl.reward.distill import distill
from vlmrl.reward.settings import Config as RewardConfig
from vlmrl.runfolder import Metrics, read_json
from vlmrl.store import Store
from vlmrl.types import Frame, Kind, Preferences, Query, Reply, Span, Verdict

pytest.importorskip("openai")


def query(kind=Kind.PREFERENCE, count=2, size=9):
    pictures = tuple(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))
    return Query(kind, tuple(Frame("e", i, "c") for i in range(count)), "öffne die Schublade", pictures)


def ask(answer, *queries, log=None, **settings):
    """The replies of a server that answers so."""

    async def go(labeler):
        try:
            return [await labeler.ask(q) for q in queries or (query(),)]
        finally:
            await labeler.close()

    with serve(answer) as server:
        fast = {"model": "m", "base_url": server.url, "backoff_s": 0.001, "retries": 1, "protocol": "one_stage"}
        replies = asyncio.run(go(labeling.build(labeling.Config(**(fast | settings)))))
    if log is not None:
        log += [request for _, request, _ in server.log]
    return replies


def told(text, **changes):
    return lambda request, number: Answer(body=body(request, text, **changes))


def probabilities(**likely):
    listed = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in likely.items()]
    return {"content": [{**listed[0], "top_logprobs": listed}]}


def test_a_cut_answer_is_no_answer():
    (reply,) = ask(told("1", finish="length"))
    assert (reply.answer, reply.text, reply.error) == (None, "1", "")


def test_another_schema_is_read_where_it_says_the_same_and_kept_where_it_does_not():
    in_parts = [{"type": "text", "text": "1"}]
    assert ask(told(in_parts))[0].answer is Verdict.B_BETTER
    assert ask(told('{"label": 0}'))[0].answer is Verdict.A_BETTER
    (reply,) = ask(told('{"winner": 0}'))
    assert (reply.answer, reply.text) == (None, '{"winner": 0}')
    for strange in ({"choices": [{"text": "1"}]}, {"choices": ["1"]}, {"choices": [{"message": {"content": 3}}]}, []):
        (reply,) = ask(lambda request, number, strange=strange: Answer(body=strange))
        assert reply.answer is None
        assert "sent no chat completion" in reply.error


@pytest.mark.parametrize("said", ["The second one.\n1", '{"answer": 1}'])
def test_a_schema_is_asked_for_and_a_server_that_ignores_it_is_read_all_the_same(said):
    log = []
    (reply,) = ask(told(said), log=log, structured=True)
    schema = log[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["answer"] == {"enum": [0, 1, -1]}
    assert reply.answer is Verdict.B_BETTER


def test_the_model_that_answered_is_written_down_and_another_is_refused(tmp_path):
    (reply,) = ask(told("0", model="m-2024-08-06", fingerprint="fp_1"))
    assert reply.served == "m-2024-08-06@fp_1"
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.register([Asked("k", {}, query())], labeler="m")
        ledger.record([("k", reply)])
        assert ledger.answers(["k"])["k"] == reply
    with pytest.raises(LabelerError, match=r"answers as model 'n', asked was 'm': .*labeler\.answers_as=n"):
        ask(told("0", model="n"))
    assert ask(told("0", model="n"), answers_as="n")[0].answer is Verdict.A_BETTER

    def switched(request, number):
        return Answer(body=body(request, "0", model=f"m-00{number}"))

    with pytest.raises(LabelerError, match=r"has answered as model 'm-000' and now does as 'm-001': it was changed"):
        ask(switched, query(), query())


@pytest.mark.parametrize(
    ("found", "asked", "same"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o", True),
        ("gpt-4o-mini", "gpt-4o", False),
        ("gpt-4o-mini-2024-07-18", "gpt-4o", False),
        ("models/gemini-2.5-flash", "gemini-2.5-flash", True),
        ("pixtral-12b-2409", "pixtral-12b-latest", True),
        ("llava:latest", "llava", True),
        ("Qwen/Qwen3-VL-8B@main", "Qwen/Qwen3-VL-8B", True),
        ("qwen2-vl-72b", "qwen2-vl-7b", False),
        ("gemini-1.5-pro-002", "gemini-1.5-pro", True),
        ("pixtral-12b", "pixtral-12b-latest", True),
        ("gpt-4o-2", "gpt-4o", False),
        ("claude-3-7", "claude-3", False),
        ("model-72", "model", False),
    ],
)
def test_a_date_or_tag_makes_no_other_model(found, asked, same):
    assert same_model(found, asked) is same


def test_a_ledger_from_before_models_were_written_down_still_opens(tmp_path):
    with Ledger(tmp_path / "l.db"):
        pass
    with sqlite3.connect(tmp_path / "l.db") as old:
        old.execute("ALTER TABLE reply DROP COLUMN served")
        old.execute("DELETE FROM migration WHERE version = 2")
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.answers(["k"]) == {}


def test_probabilities_are_asked_for_and_read():
    log = []
    answer = told("0", logprobs=probabilities(**{"0": 0.6, "1": 0.3, "-": 0.1}))
    (reply,) = ask(answer, log=log, logprobs=True)
    assert reply.probability == pytest.approx(2 / 3)
    assert (log[0]["logprobs"], log[0]["top_logprobs"]) == (True, 10)
    (plain,) = ask(answer, log=(plainly := []))
    assert "logprobs" not in plainly[0]
    assert plain.probability == pytest.approx(2 / 3)


def test_a_server_without_probabilities_answers_yes_or_no_all_the_same_unless_they_are_insisted_on():
    def refuses(request, number):
        return Answer("logprobs are not supported", 400) if "logprobs" in request else Answer(body=body(request, "no"))

    (reply,) = ask(refuses, query(Kind.SUCCESS, 1), prompt="success-frame-1")
    assert (reply.answer, reply.probability) == (False, None)
    (insisting,) = ask(refuses, query(Kind.SUCCESS, 1), prompt="success-frame-1", logprobs=True)
    assert insisting.answer is None
    assert "logprobs are not supported" in insisting.error


def test_a_model_that_was_changed_between_two_runs_is_refused_unless_that_is_wanted(tmp_path):
    store = FakeStore()
    queries = sample_pairs(store, "front", count=8, instruction="go", generator=np.random.default_rng(0))

    def run(model, count, **settings):
        with serve(told("0", model=model)) as server, Ledger(tmp_path / "l.db") as ledger:
            try:
                labeler = labeling.build(
                    labeling.Config(model="m", base_url=server.url, protocol="one_stage", **settings)
                )
                limits = Limits(concurrency=1)
                report = run_job(queries[:count], labeler, ledger=ledger, limits=limits, pictures=Pictures(store))
                return report.asked, report.cached
            finally:
                calls.append(len(server.log))

    calls = []
    assert run("m-2024-01", 4) == (4, 0)
    assert run("m-2024-01", 5) == (1, 4)
    with pytest.raises(LabelerError, match=r"has answered as model 'm-2024-01' and now does as 'm-2025-01'"):
        run("m-2025-01", 8)
    assert calls[-1] == 1  # one was paid to see it, and is written down
    assert run("m-2025-01", 8, answers_as="m-2025-01") == (3, 5)


@pytest.mark.parametrize(("url", "warned"), [("http://far.example/v1", True), ("https://far.example/v1", False)])
def test_a_key_that_goes_out_in_clear_is_told(monkeypatch, caplog, url, warned):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    labeling.build(labeling.Config(model="m", base_url=url))
    assert ("OPENAI_API_KEY goes to http://far.example/v1 in clear" in caplog.text) is warned
    assert "sk-secret" not in caplog.text


def test_a_picture_larger_than_the_server_takes_is_refused_with_what_to_do():
    noise = query(size=400)
    with pytest.raises(
        LabelerError, match=r"a picture of 400x400 takes 0\.5 MB as png, .*max_picture_mb is 0\.1: .*size"
    ):
        ask(told("0"), noise, max_picture_mb=0.1)
    assert ask(told("0"), noise, max_picture_mb=0.2, image_format="jpeg")[0].answer is Verdict.A_BETTER


def test_what_no_prompt_asks_is_refused():
    with pytest.raises(ConfigError, match="wants pictures of each of 2 items; got 1"):
        ask(told("0"), dataclasses.replace(query(), images=query().images[:1]))
    with pytest.raises(ConfigError, match="got a ranking question about 2"):
        ask(told("0"), dataclasses.replace(query(), kind=Kind.RANKING))


def test_a_local_model_tells_exact_probabilities(tmp_path):
    folder = str(tiny_vlm.build(tmp_path, says="1"))

    def replies(**settings):
        labeler = transformers.build(transformers.Config(model=folder, device="cpu", analysis_tokens=4, **settings))

        async def go():
            try:
                return await asyncio.gather(*(labeler.ask(query()) for _ in range(3)))
            finally:
                await labeler.close()

        return asyncio.run(go())

    soft, hard = replies(logprobs=True), replies()
    assert [r.text for r in soft] == [r.text for r in hard]
    assert {r.answer for r in soft} == {Verdict.B_BETTER}
    assert all(0 < r.probability < 0.5 for r in soft)
    assert all(r.probability is None for r in hard)


# What answers become.


@pytest.fixture(scope="module")
def store_folder(tmp_path_factory):
    """Six episodes; pictures brighten with true progress, which the last one completes."""
    path = tmp_path_factory.mktemp("store") / "store"
    Store.create(path).append([episode(k) for k in range(6)])
    return path


@pytest.fixture(scope="module")
def composed():
    """The settings of `vlmrl label labeler=openai`, and of the judge."""
    jobs.register()
    return {name: configuration.compose("label", [f"labeler={name}"]) for name in ("openai", "judge")}


@pytest.fixture
def run(store_folder, composed, tmp_path, capsys):
    """Run `vlmrl label` against a server that prefers the bright: its folder, what it printed, what was asked."""

    def go(*arguments, rule=None, out="out", labeler="openai"):
        folder = tmp_path / out
        folder.mkdir()
        always = {"store": str(store_folder), "ledger": str(tmp_path / "l.db"), "draw": False}
        if labeler == "openai":
            always["labeler"] = {"model": "brightness-rule", "backoff_s": 0.001}
        with serve(rule or Brightness()) as server:
            own = [*arguments, f"labeler.base_url={server.url}"] if labeler == "openai" else arguments
            given = [OmegaConf.create(always), OmegaConf.from_dotlist(["reward.updates=2", *own])]
            content = OmegaConf.to_container(OmegaConf.merge(composed[labeler], *given))
            job.main(content, folder)
        return folder, capsys.readouterr().out, server

    return go


@pytest.mark.parametrize("question", ["progress", "yes", "score", "success"])
def test_each_question_becomes_a_reward_column_with_its_making_and_a_picture(question, run, store_folder):
    settings = [f"question='{question}'", f"name='{question}'"]  # a bare yes is true in YAML
    folder, said, server = run(*settings, f"draw={str(question == 'yes').lower()}")
    store = Store.open(store_folder)
    mean, facts = store.column(f"reward/{question}/mean"), store.rewards()[question]
    known = store.column("has_next")
    assert np.isfinite(mean[known]).all()
    assert np.isnan(mean[~known]).all()
    assert (mean[known].min(), mean[known].max()) >= (0, 0)
    assert mean[known].max() <= 1
    assert facts["served"][0].startswith("brightness-rule")
    assert (facts["question"], facts["prompt"]) == (question, read_json(folder / "answers.json")["prompt"])
    assert (folder / "strip.png").exists() == (question == "yes")
    progress = store.column("truth/progress")
    inner = np.flatnonzero(known)
    assert np.corrcoef(mean[inner], progress[inner + 1])[0, 1] > 0.3
    asked = len(server.log)
    _, said, server = run(*settings, out="again")
    assert asked > 0
    assert len(server.log) == 0
    assert "0 asked now" in said


def test_progress_is_asked_of_shuffled_pictures_and_put_back_in_order(run, store_folder):
    folder, _, server = run("question=progress", "name=shuffled", "seed=3")
    answers = read_json(folder / "answers.json")["answers"]
    brightest = [row for row in answers if row[0] == "e5"]
    assert [row[1] for row in brightest] == [0, 3, 6, 9, 12]
    assert [row[3] for row in brightest] == sorted(row[3] for row in brightest)
    assert brightest[0][3] == 0
    assert brightest[-1][3] == 1
    urls = [[p["image_url"]["url"] for p in r["messages"][0]["content"] if "image_url" in p] for _, r, _ in server.log]
    bright = Brightness()
    levels = [bright.scores(u, "x").tolist() for u in urls]
    assert any(level[1:] != sorted(level[1:]) for level in levels)
    folder, _, server = run("question=progress", "name=thrice", "seed=3", "ask.votes=3", out="thrice")
    assert 0 < len(server.log) <= 2 * 6  # the first round is known, and so is an order that comes again
    assert {row[2] for row in read_json(folder / "answers.json")["answers"]} == {3}


def test_success_is_calibrated_on_the_known_outcomes(run, store_folder):
    _, said, _ = run("question=success", "name=done")
    facts = Store.open(store_folder).rewards()["done"]
    assert facts["threshold"]["rule"].startswith("highest balanced accuracy")
    done = Store.open(store_folder).column("reward/done/mean")
    assert set(np.unique(done[np.isfinite(done)])) == {0.0, 1.0}
    assert "right about" in said
    assert "done-probability" in Store.open(store_folder).rewards()
    with pytest.raises(DataError, match="5 failed episodes are kept aside"):
        run("question=success", "name=bounded", "false_positives=0.05", out="bounded")


def test_rows_between_are_left_out_where_asked(run, store_folder):
    run("question=score", "name=sparse", "rows.fill=none", "rows.an_episode=2")
    mean = Store.open(store_folder).column("reward/sparse/mean").reshape(6, 13)
    assert [np.flatnonzero(np.isfinite(row)).tolist() for row in mean] == [[2, 11]] * 6


def test_clips_are_asked_in_both_orders_and_distilled(run, store_folder):
    settings = [
        "pairs=20",
        "ask.show=strip",
        "ask.clip_s=0.6",
        "ask.order=both",
        "labeler.logprobs=true",
        "check_order=0",
    ]
    folder, said, _ = run(*settings, "reward.model=mean_return")
    labels = read_json(folder / "labels.json")
    assert labels["trust"]["order"]["whole"] == 20
    assert all(pair["a"][2] - pair["a"][1] == 7 for pair in labels["pairs"])
    assert "each pair was asked in both orders" in said
    assert labels["trust"]["accuracy"]["rate"] == 1
    assert any(name.startswith("preference-") for name in Store.open(store_folder).rewards())
    biased, said, _ = run(*settings, "distill=false", "labeler.draw=1", rule=Brightness(bias=9.0), out="biased")
    trust = read_json(biased / "labels.json")["trust"]
    assert trust["order"]["first"]["rate"] > 0.6
    assert trust["verdicts"]["tie"] == trust["order"]["first"]["first_twice"] > 0
    assert "of the named sides shown first" in said


def test_before_and_after_are_trained_on_the_end(run):
    with pytest.raises(ConfigError, match=r"say reward\.model=last"):
        run("pairs=4", "ask.show=before_after", "ask.clip_s=0.6", out="refused")
    _, _, server = run(
        "pairs=4", "ask.show=before_after", "ask.clip_s=0.6", "reward.model=last", "distill=false", "check_order=0"
    )
    pictures = [sum(p["type"] == "image_url" for p in r["messages"][0]["content"]) for _, r, _ in server.log]
    assert set(pictures) == {4, 0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["question=score", "ask.show=strip"], r"cannot be asked with ask\.show=strip"),
        (["question='yes'", "ask.order=both"], "no sides to exchange"),
        (["ask.votes=3"], r"at labeler\.temperature=0 all votes are the same"),
        (["ask.trajectory=project", "ask.show=strip", "ask.clip_s=0.6"], "does not record where the camera stood"),
        (
            ["ask.trajectory=track", "ask.show=strip", "ask.clip_s=0.6"],
            "unknown ask.trajectory 'track'; have: project, state",
        ),
        (["ask.trajectory=state", "ask.show=strip", "ask.clip_s=0.6"], "column and row of a pixel wanted"),
        (["ask.trajectory=project"], "is drawn on clips"),
        (["ask.show=strip", "ask.clip_s=0.1"], "say a longer ask.clip_s"),
    ],
)
def test_what_cannot_be_asked_says_what_can(run, arguments, message):
    with pytest.raises((ConfigError, DataError), match=message):
        run("pairs=4", *arguments)


def test_the_judge_reads_no_prompts_and_says_who_does(run):
    with pytest.raises(ConfigError, match="which judge does not read; have: labeler=openai, transformers"):
        run("question=progress", labeler="judge")


def test_votes_ask_again_and_give_shares(run):
    def wavering(request, number):
        return Answer("Fine." if has_picture(request) else "01"[number % 3 == 0])

    folder, said, server = run(
        "pairs=5", "ask.votes=4", "labeler.temperature=0.7", "check_order=0", "distill=false", rule=wavering
    )
    assert len(server.log) == 5 * 4 * 2
    shares = {pair["p_a"] for pair in read_json(folder / "labels.json")["pairs"]}
    assert shares <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert len(shares) > 1
    assert "4 times" in said


def test_each_episode_is_compared_under_its_own_sentence(tmp_path, run):
    path = tmp_path / "mixed"
    some = [dataclasses.replace(episode(k), instruction=("pour", "stir")[k % 2]) for k in range(6)]
    Store.create(path).append(some)
    _, _, server = run(f"store={path}", "pairs=11", "distill=false", "check_order=0", "labeler.protocol=one_stage")
    texts = [json.dumps(request) for _, request, _ in server.log]
    assert sum("The goal is: pour" in t for t in texts) in (5, 6)
    assert sum("The goal is: stir" in t for t in texts) in (5, 6)


def test_numbers_are_means_over_votes_and_hold_no_unsure_ones(store_folder):
    store = Store.open(store_folder)
    asked = Query(Kind.SCORE, (Frame("e1", 6, "eye"),), "x")
    later = Query(Kind.SCORE, ((Span("e1", 0, 10, "eye"),),), "x")
    replies = [Reply(0.2, "m"), Reply(0.6, "m"), Reply(Verdict.UNSURE, "m"), Reply(None, "m"), None]
    values = numbers(store, [asked, asked, asked, asked, later], replies)
    assert values[13 + 6].tolist() == [2, pytest.approx(0.4), pytest.approx(0.2)]
    assert np.isnan(values).all(1).sum() == len(store) - 1
    mean, _ = column(store, values, fill="none")
    assert np.flatnonzero(np.isfinite(mean)).tolist() == [13 + 5]  # judged on the next row
    yes = [Reply(True, "m", 0.8), Reply(False, "m")]
    asked_yes = [Query(Kind.SUCCESS, later.items, "x")] * 2
    assert numbers(store, asked_yes, yes)[13 + 9, 1] == pytest.approx(0.4)
    with pytest.raises(DataError, match="no answer could be read"):
        column(store, numbers(store, [asked], [None]), fill="linear")


def test_a_threshold_without_known_outcomes_is_one_half_and_says_so(tmp_path):
    store = Store.create(tmp_path / "s")
    store.append([episode(k, truth=False) for k in range(3)])
    found = calibrated(store, np.full((len(store), 3), 0.3), false_positives=None)
    assert (found.value, found.known) == (0.5, 0)
    assert found.rule.startswith("not calibrated")


def test_a_reward_learns_from_labels_of_clips(tmp_path, store_folder):
    store = Store.open(store_folder)
    spans = [(Span(f"e{k}", s, s + 7, "eye"),) for k in range(6) for s in (0, 3, 6)]
    light = [store.column("truth/progress").reshape(6, 13)[k, s : s + 7].mean() for k in range(6) for s in (0, 3, 6)]
    pairs = [(i, j) for i in range(18) for j in range(18) if abs(light[i] - light[j]) > 0.05]
    labels = Preferences(
        tuple(spans[i] for i, _ in pairs),
        tuple(spans[j] for _, j in pairs),
        np.array([light[i] > light[j] for i, j in pairs], np.float32),
        "known",
        "x" * 8,
    )
    config = RewardConfig(model="mean_return", updates=60, members=1, holdout=0.2, lr=3e-3)
    trained = distill(store, labels, config, camera="eye", seed=0, metrics=Metrics(tmp_path / "m.jsonl"), quiet=True)
    assert trained.facts["held_out"]["accuracy"] > 0.85
