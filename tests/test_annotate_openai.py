"""The openai labeler against a real HTTP server on loopback that fails in every way servers fail."""

import asyncio
import base64
import dataclasses
import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from annotate_fakes import FakeStore
from fake_server import Answer, completion, has_picture, serve
from PIL import Image

from vlmrl.annotate import Ledger, Limits, Pictures, run_job, sample_pairs
from vlmrl.annotate import openai as labeling
from vlmrl.annotate.compare import SEPARATOR, LastReplyError
from vlmrl.annotate.script import Script, load_script
from vlmrl.annotate.verdict import read_verdict
from vlmrl.errors import ConfigError, LabelerError
from vlmrl.types import Frame, Kind, Query, Verdict

pytest.importorskip("openai")

FAST = {"backoff_s": 0.001, "backoff_cap_s": 0.01, "timeout_s": 5.0}


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.db") as opened:
        yield opened


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-mine")


def a_query(seed=0):
    pictures = tuple(np.random.default_rng(seed).integers(0, 256, (2, 9, 11, 3), dtype=np.uint8))
    return Query(Kind.PREFERENCE, (Frame("e", 0, "front"), Frame("e", 1, "front")), "open the drawer", pictures)


def make(server, **settings):
    return labeling.build(labeling.Config(model="judge", base_url=server.url, **(FAST | settings)))


def ask(server, query=None, **settings):
    async def once():
        labeler = make(server, **settings)
        try:
            return await labeler.ask(query or a_query())
        finally:
            await labeler.close()

    return asyncio.run(once())


def two_stage(label, analysis="The second drawer is further open."):
    return lambda request, number: Answer(analysis if has_picture(request) else label)


def run(server, ledger, count=20, limits=None, settings=None):
    store = FakeStore()
    queries = sample_pairs(store, "front", count=count, instruction="open it", generator=np.random.default_rng(0))
    labeler = make(server, **(settings or {}))
    return run_job(queries, labeler, ledger=ledger, limits=limits or Limits(concurrency=4), pictures=Pictures(store))


def test_the_first_stage_shows_both_pictures_and_the_second_only_the_analysis():
    query = a_query()
    with serve(two_stage("1")) as server:
        reply = ask(server, query)
    assert (reply.answer, reply.error) == (Verdict.B_BETTER, "")
    assert reply.text == f"The second drawer is further open.{SEPARATOR}1"
    (_, first, headers), (_, second, _) = server.log
    assert [p["type"] for p in first["messages"][0]["content"]] == ["text", "image_url", "text", "image_url", "text"]
    for part, picture in zip(first["messages"][0]["content"][1::2], query.images, strict=True):
        kind, _, data = part["image_url"]["url"].partition(";base64,")
        assert kind == "data:image/png"
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), picture)
    assert not has_picture(second)
    (part,) = second["messages"][0]["content"]
    assert "The second drawer is further open." in part["text"]
    assert all("open the drawer" in json.dumps(r["messages"]) for r in (first, second))
    assert all((r["model"], r["temperature"]) == ("judge", 0.0) for r in (first, second))
    assert (first["max_tokens"], second["max_tokens"]) == (512, 16)
    assert headers["authorization"] == "Bearer sk-secret-of-mine"


def test_one_stage_takes_one_call_and_reads_the_label_among_the_prose():
    with serve(lambda request, number: Answer("1. Closed.\n2. Image 1 is open.\n3. The second.\n\n1")) as server:
        reply = ask(server, protocol="one_stage", image_format="jpeg", detail="low", seed=7, extra_body={"top_k": 1})
    ((_, request, _),) = server.log
    assert reply.answer is Verdict.B_BETTER
    assert reply.cost.calls == 1
    assert (request["seed"], request["top_k"]) == (7, 1)
    picture = request["messages"][0]["content"][1]["image_url"]
    assert picture["url"].startswith("data:image/jpeg;base64,")
    assert picture["detail"] == "low"


def test_tokens_price_and_time_are_counted_over_both_calls():
    with serve(two_stage("0")) as server:
        reply = ask(server, usd_per_million_prompt=2.0, usd_per_million_completion=50.0)
    cost = reply.cost
    assert (cost.calls, cost.prompt_tokens, cost.completion_tokens) == (2, 2000, 20)
    assert cost.usd == pytest.approx(2000 * 2e-6 + 20 * 50e-6)
    assert cost.latency_s > 0


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("0", Verdict.A_BETTER),
        ("1\n", Verdict.B_BETTER),
        (" -1 ", Verdict.UNSURE),
        ("−1", Verdict.UNSURE),
        ("**1**", Verdict.B_BETTER),
        ("`0`", Verdict.A_BETTER),
        ("0.", Verdict.A_BETTER),
        ("(1)", Verdict.B_BETTER),
        ("Answer: 0", Verdict.A_BETTER),
        ("**Final answer:** -1", Verdict.UNSURE),
        ("The label is 1.", Verdict.B_BETTER),
        ("1\nThe second picture shows an open drawer.", Verdict.B_BETTER),
        ("1. It is closed.\n2. It is open.\n\n1", Verdict.B_BETTER),
        ("<think>Is it 0? Perhaps.\n0\n</think>\n\n1", Verdict.B_BETTER),
        ('{"answer": 1}', Verdict.B_BETTER),
        ('```json\n{"label": "0", "reason": "picture 1 is closed"}\n```', Verdict.A_BETTER),
        ('Here you are: {"Answer": -1}', Verdict.UNSURE),
        ('{"answer": 0, "confidence": 1}', Verdict.A_BETTER),
        ("", None),
        ("2", None),
        ("10", None),
        ("-10", None),
        ("0.5", None),
        ("0 or 1", None),
        ("0\n1", None),
        ("Answer: 0\nAnswer: 1", None),
        ("Image 0 shows a closed drawer, image 1 an open one.", None),
        ("I would say 1 is better than 0.", None),
        ("In picture 1 the drawer is open.", None),
        ("1. The first picture shows a closed drawer.", None),
        ("1.\nImage 1 shows a closed drawer.\n2.\nImage 2", None),
        ("**1.**\nThe first image shows", None),
        ("I'm sorry, I can't help with that.", None),
        ('{"answer": 2}', None),
        ('{"answer": true}', None),
        ('{"answer": [0, 1]}', None),
        ('{"answer": 0, "label": 1}', None),
        ('{"image_0": 0, "image_1": 1}', None),
        ('{"answer": 0} {"answer": 1}', None),
        ('{"answer": 0', None),
    ],
)
def test_only_a_plain_label_is_read(text, verdict):
    assert read_verdict(text) is verdict


@pytest.mark.parametrize(
    "bad",
    [
        Answer(""),
        Answer(None),
        Answer("Sorry, I cannot judge pictures."),
        Answer("0 shows it closed and 1 shows it open"),
        Answer('{"better": "the second"}'),
    ],
)
@pytest.mark.parametrize("when", ["analysis", "label"])
def test_a_reply_without_a_label_is_unreadable_kept_and_asked_again(ledger, bad, when):
    spoilt = [True]

    def answer(request, number):
        if spoilt[0] and (has_picture(request) == (when == "analysis")):
            return bad
        return Answer("Alike." if has_picture(request) else "hm" if spoilt[0] else "0")

    with serve(answer) as server:
        first = run(server, ledger, count=2)
        assert (first.asked, first.unreadable, first.failed) == (2, 2, 0)
        kept = ledger.replies(first.keys[0])
        assert [r.answer for r in kept] == [None]
        assert (bad.refusal or bad.text or "") in kept[0].text
        spoilt[0] = False
        second = run(server, ledger, count=2)
    assert (second.asked, second.verdicts["a"]) == (2, 2)


@pytest.mark.parametrize("bad", [Answer(None, refusal="I must refuse: 0"), Answer("1", finish="content_filter")])
@pytest.mark.parametrize("when", ["analysis", "label"])
def test_an_answer_that_is_held_back_is_kept_and_not_paid_for_again(ledger, bad, when):
    def answer(request, number):
        return bad if has_picture(request) == (when == "analysis") else Answer("Alike.")

    with serve(answer) as server:
        first = run(server, ledger, count=2)
        assert (first.asked, first.refused, first.unreadable, first.failed) == (2, 2, 0, 0)
        (kept,) = ledger.replies(first.keys[0])
        assert kept.answer is None
        assert (bad.refusal or bad.text) in kept.text
        sent = len(server.log)
        second = run(server, ledger, count=2)
    assert (second.asked, second.given_up, len(server.log)) == (0, 2, sent)


def test_a_storm_of_429_is_waited_out_and_every_question_is_answered(ledger):
    def answer(request, number):
        return Answer("slow down", 429) if number < 12 else Answer("Fine." if has_picture(request) else "1")

    with serve(answer) as server:
        report = run(server, ledger)
    assert (report.asked, report.failed, report.verdicts["b"]) == (20, 0, 20)
    assert len(server.log) == 12 + 40


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now, self.waits = 1000.0, []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += seconds


@pytest.mark.parametrize(("as_date", "status"), [(False, 429), (True, 429), (False, 500), (False, 503), (False, 529)])
def test_retry_after_is_honoured(as_date, status):
    clock = Clock()

    def answer(request, number):
        after = formatdate(time.time() + 40, usegmt=True) if as_date else "40"
        return Answer("later", status, {"Retry-After": after}) if number == 0 else Answer("1")

    async def once(server):
        config = labeling.Config(model="judge", base_url=server.url, protocol="one_stage")
        labeler = labeling.build(config, sleep=clock.sleep, clock=clock)
        assert (await labeler.ask(a_query())).answer is Verdict.B_BETTER
        await labeler.close()

    with serve(answer) as server:
        asyncio.run(once(server))
    assert clock.waits == [pytest.approx(40, abs=2)]


def test_waits_between_tries_grow_with_jitter_up_to_the_cap():
    clock = Clock()

    async def once(server):
        config = labeling.Config(
            model="judge", base_url=server.url, retries=8, backoff_s=1.0, backoff_cap_s=20.0, breaker_failures=99
        )
        labeler = labeling.build(config, sleep=clock.sleep, clock=clock)
        reply = await labeler.ask(a_query())
        await labeler.close()
        return reply

    with serve(lambda request, number: Answer("overloaded", 503)) as server:
        reply = asyncio.run(once(server))
    assert reply.answer is None
    assert re.fullmatch(r"HTTP 503: .*overloaded.*, after 9 tries", reply.error)
    for wait, longest in zip(clock.waits, [1, 2, 4, 8, 16, 20, 20, 20], strict=True):
        assert longest / 2 <= wait <= longest
    assert len(set(clock.waits)) == 8


def test_a_storm_of_500_ends_the_job_keeps_what_was_answered_and_a_later_run_asks_only_the_rest(ledger):
    burning = [True]

    def answer(request, number):
        if burning[0] and number >= 12:
            return Answer("on fire", 500)
        return Answer("Fine." if has_picture(request) else "0")

    with serve(answer) as server:
        with pytest.raises(LabelerError, match=r"judge .* failed 3 questions in a row; the last: HTTP 500: .*on fire"):
            run(server, ledger, limits=Limits(concurrency=1, failures=3), settings={"retries": 1})
        assert len(server.log) == 12 + 3 * 2
        burning[0] = False
        report = run(server, ledger)
    assert (report.cached, report.asked, report.verdicts["a"]) == (6, 14, 20)


@pytest.mark.parametrize("odd", [(400, "picture too odd"), (403, "the input was flagged by moderation")])
def test_a_question_that_the_server_rejects_does_not_end_the_job_and_is_not_retried(ledger, odd):
    def answer(request, number):
        status, said = odd
        return Answer(said, status) if number == 4 else Answer("Fine." if has_picture(request) else "0")

    with serve(answer) as server:
        report = run(server, ledger, limits=Limits(concurrency=1))
    assert (report.asked, report.failed, report.refused, report.verdicts["a"]) == (20, 0, 1, 19)
    assert len(server.log) == 39


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer("Incorrect API key provided: sk-secret-of-mine", 401), r"refuses the key .*variable OPENAI_API_KEY"),
        (Answer("forbidden", 403), r"refuses the key \(HTTP 403"),
        (Answer("no such model", 404), r"does not serve model 'judge' .*GET http://127.*/v1/models"),
        (Answer("x", 429, body={"error": {"message": "broke", "code": "insufficient_quota"}}), "has no credit left"),
        (Answer("come back tomorrow", 429, {"Retry-After": "86400"}), "asks to come back in 86400 s"),
    ],
)
def test_what_no_retry_can_mend_ends_the_job_with_what_to_do_and_keeps_the_answers(ledger, answer, message):
    broken = [True]

    def decide(request, number):
        return answer if broken[0] and number >= 10 else Answer("Fine." if has_picture(request) else "0")

    with serve(decide) as server:
        with pytest.raises(LabelerError, match=message) as error:
            run(server, ledger, limits=Limits(concurrency=1))
        assert len(server.log) == 11
        assert "secret" not in str(error.value)
        broken[0] = False
        report = run(server, ledger)
    assert (report.cached, report.asked) == (5, 15)


def test_a_missing_server_is_named_at_once(ledger):
    with serve(two_stage("0")) as server:
        pass  # now its port is closed
    start = time.monotonic()
    with pytest.raises(LabelerError, match=rf"no server at {server.url} .*start it, or set labeler\.base_url"):
        run(server, ledger, settings={"backoff_s": 30.0, "backoff_cap_s": 30.0})
    assert time.monotonic() - start < 10


def test_a_server_that_goes_away_for_a_moment_is_tried_again():
    class Cut(Exception):
        pass

    def answer(request, number):
        if number == 1:
            raise Cut  # the connection closes without an answer
        return Answer("Fine." if has_picture(request) else "1")

    with serve(answer) as server:
        reply = ask(server)
    assert reply.answer is Verdict.B_BETTER
    assert len(server.log) == 3


def test_a_server_that_never_answers_is_given_up_after_the_tries():
    with serve(lambda request, number: Answer("0", delay_s=0.4)) as server:
        reply = ask(server, timeout_s=0.1, retries=1)
    assert reply.answer is None
    assert reply.error == "no answer within 0.1 s, after 2 tries"


def test_what_came_too_late_counts_as_paid_for(ledger):
    prices = {"usd_per_million_prompt": 1e4, "usd_per_million_completion": 0.0, "protocol": "one_stage"}
    with serve(lambda request, number: Answer("0", delay_s=0.4)) as server:
        reply = ask(server, timeout_s=0.1, retries=1, **prices)
        assert reply.cost.calls == 2
        assert reply.cost.prompt_tokens > 0
        assert reply.cost.usd == pytest.approx(reply.cost.prompt_tokens / 100)
        limits = Limits(concurrency=1, max_calls=4, failures=100)
        report = run(server, ledger, limits=limits, settings={"timeout_s": 0.1, "retries": 1, **prices})
    assert report.stopped_by == "max_calls"
    assert report.cost.calls == 4 == len(server.log) - 2
    with serve(lambda request, number: Answer("0", delay_s=0.0 if number else 0.4)) as server:
        reply = ask(server, timeout_s=0.2, retries=1, protocol="one_stage")
    assert (reply.answer, reply.cost.calls, reply.cost.completion_tokens) == (Verdict.A_BETTER, 2, 10 + 512)


def test_a_password_in_a_servers_address_is_shown_to_nobody():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://me:hush@127.0.0.1:{probe.getsockname()[1]}/v1"
    with pytest.raises(LabelerError, match=r"no server at http://me:\*\*\*@127") as error:
        ask(SimpleNamespace(url=url))
    assert "hush" not in str(error.value)


def test_what_a_server_says_cannot_steer_a_terminal():
    with serve(lambda request, number: Answer("\x1b[2J\x07 gone", 400)) as server:
        assert ask(server).error == "HTTP 400: Error code: 400 - [2J gone"


def test_something_else_than_a_chat_server_is_recognised():
    for body in ("<html>welcome</html>", {"hello": "world"}, {"choices": []}):
        with serve(lambda request, number, body=body: Answer(body=body)) as server:
            reply = ask(server)
        assert (reply.answer, reply.cost.calls) == (None, 1)
        assert "sent no chat completion" in reply.error


def test_a_message_that_breaks_the_connection_uses_up_its_tries_and_counts_as_paid():
    def answer(request, number):
        raise ConnectionError  # the connection closes without an answer

    with serve(answer) as server:
        reply = ask(server, retries=2, breaker_failures=9)
        assert len(server.log) == 3
    assert (reply.answer, reply.cost.calls) == (None, 3)
    assert re.fullmatch(r"http://127\S+ broke the connection \(.*\), after 3 tries", reply.error)


def test_broken_json_is_a_failed_try_like_any_other():
    def answer(request, number):
        fine = Answer("Fine." if has_picture(request) else "1")
        return fine if number else Answer(body='{"id": "x", "choi', headers={"Content-Type": "application/json"})

    with serve(answer) as server:
        reply = ask(server)
    assert (reply.answer, reply.cost.calls) == (Verdict.B_BETTER, 3)


def test_a_server_that_tells_no_usage_passes_no_cap(ledger):
    def answer(request, number):
        found = completion(request, Answer("0"))
        return Answer(body={k: v for k, v in found.items() if k != "usage"})

    prices = {"usd_per_million_prompt": 100.0, "usd_per_million_completion": 100.0, "protocol": "one_stage"}
    with serve(answer) as server:
        reply = ask(server, **prices)
        assert reply.cost.completion_tokens == 512
        limits = Limits(concurrency=1, max_cost_usd=3.5 * reply.cost.usd)
        report = run(server, ledger, limits=limits, settings=prices)
    assert (report.stopped_by, report.asked) == ("max_cost_usd", 3)


def test_what_another_model_said_is_paid_and_not_an_answer():
    def answer(request, number):
        return Answer(body=completion(request, Answer("0")) | {"model": "another"})

    with serve(answer) as server, pytest.raises(LastReplyError, match="answers as model 'another'") as error:
        ask(server)
    reply = error.value.reply
    assert (reply.answer, reply.text, reply.cost.calls, reply.served) == (None, "0", 1, "another")


def test_a_failed_second_stage_keeps_the_first_ones_text_and_cost():
    with serve(lambda r, n: Answer("Paid for.") if has_picture(r) else Answer("bad", 400)) as server:
        reply = ask(server)
    assert (reply.answer, reply.text, reply.cost.calls) == (None, "Paid for.", 1)
    assert reply.error.startswith("HTTP 400")


def test_a_local_server_needs_no_key_and_a_far_one_does(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with serve(two_stage("0")) as server:
        assert ask(server).answer is Verdict.A_BETTER
    with pytest.raises(LabelerError, match=r"no key for https://api\.example\.com/v1: set .* MY_KEY"):
        labeling.build(labeling.Config(model="m", base_url="https://api.example.com/v1", api_key_env="MY_KEY"))


def test_what_cannot_work_is_refused_when_built(monkeypatch):
    with pytest.raises(ConfigError, match="model is empty"):
        labeling.build(labeling.Config())
    with pytest.raises(ConfigError, match=r"model is empty; .*me:\*\*\*@far"):
        labeling.build(labeling.Config(base_url="http://me:hush@far/v1"))
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(LabelerError, match=r"no key for http://me:\*\*\*@far"):
        labeling.build(labeling.Config(model="m", base_url="http://me:hush@far/v1"))
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    with pytest.raises(ConfigError, match=r"unknown prompt 'compare-0'; have: .*compare-1"):
        labeling.build(labeling.Config(model="m", prompt="compare-0"))
    with pytest.raises(ConfigError, match=r"wrong placeholder 'picture'; have: \$goal"):
        Script("mine", "one_stage", {"one_stage": "See $picture"}).message("one_stage", a_query())


def test_a_key_changes_with_everything_that_decides_the_answer_and_with_nothing_else():
    def content(seed=0, **settings):
        return labeling.build(labeling.Config(**({"model": "m"} | settings))).content(a_query(seed))

    changed = [
        content(seed=1),
        content(model="n"),
        content(protocol="one_stage"),
        content(image_format="jpeg"),
        content(image_format="jpeg", jpeg_quality=50),
        content(temperature=0.5),
        content(draw=1),
        content(revision="b"),
        content(detail="high"),
        content(analysis_tokens=9),
        content(label_tokens=9),
        content(seed=0, extra_body={"top_k": 1}),
    ]
    texts = {json.dumps(c, sort_keys=True) for c in [content(), *changed]}
    assert len(texts) == 1 + len(changed)
    assert content() == content(
        base_url="http://127.0.0.1:9999/v1", retries=1, timeout_s=9.0, usd_per_million_prompt=1.0
    )


def test_a_prompt_of_the_working_folder_stands_beside_the_installed_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "conf" / "prompt" / "mine"
    mine.mkdir(parents=True)
    (mine / "one_stage.txt").write_text("$picture_1 before $picture_0: $goal?")
    assert load_script("compare-1", protocol="one_stage").calls == 1
    script = load_script("mine", protocol="one_stage")
    asked = dataclasses.replace(a_query(), instruction="open it.")
    assert script.message("one_stage", asked) == [1, " before ", 0, ": open it?"]
    with pytest.raises(ConfigError, match=r"unknown prompt 'yours'; have: .*compare-1, mine"):
        load_script("yours", protocol="one_stage")
    with pytest.raises(ConfigError, match=r"analysis\.txt"):
        load_script("mine", protocol="two_stage")


def test_the_analysis_is_pasted_as_it_is_even_if_it_looks_like_a_template():
    script = load_script("compare-1", protocol="two_stage")
    asked = dataclasses.replace(a_query(), instruction="win $5")
    (text,) = script.message("label", asked, analysis="costs $goal $picture_0 ${x} $")
    assert "costs $goal $picture_0 ${x} $" in text
    assert "win $5" in text


JOB = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[3])
from annotate_fakes import FakeStore
from vlmrl.annotate import Ledger, Limits, Pictures, openai, run_job, sample_pairs
store = FakeStore(episodes=10)
queries = sample_pairs(store, "front", count=60, instruction="open it", generator=np.random.default_rng(0))
with Ledger(sys.argv[1]) as ledger:
    labeler = openai.build(openai.Config(model="judge", base_url=sys.argv[2]))
    report = run_job(queries, labeler, ledger=ledger, limits=Limits(concurrency=4), pictures=Pictures(store))
    print(report.cached, report.asked)
"""


def test_a_killed_job_asks_nothing_twice_but_what_was_in_flight_or_being_written(tmp_path, root):
    def answer(request, number):
        return Answer("Fine." if has_picture(request) else "0", delay_s=0.02)

    command = [sys.executable, "-c", JOB, str(tmp_path / "ledger.db"), "", str(Path(__file__).parent)]
    with serve(answer) as server:
        command[4] = server.url
        job = subprocess.Popen(command, cwd=root)
        while len(server.log) < 60:
            assert job.poll() is None
            time.sleep(0.005)
        job.send_signal(signal.SIGKILL)
        job.wait()
        with Ledger(tmp_path / "ledger.db") as ledger:
            committed = len(ledger.answers(ledger.keys()))
        done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
        cached, asked = map(int, done.stdout.split())
    twice = [n for n in Counter(server.digests()).values() if n > 1]
    assert 20 <= committed == cached < 60
    assert asked == 60 - cached
    assert all(n == 2 for n in twice)
    assert len(twice) <= 2 * 4  # in flight, and whose answers were being written
    assert len(set(server.digests())) == 60
