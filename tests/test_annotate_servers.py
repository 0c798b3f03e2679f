"""Servers in rotation: pace, breakers, patience; against clocks that only sleeping moves, and against real servers."""

import asyncio
import random
import threading

import numpy as np
import pytest
from annotate_fakes import FakeStore
from fake_server import Answer, serve

from vlmrl.annotate import Ledger, Limits, Pictures, run_job, sample_pairs
from vlmrl.annotate import openai as labeling
from vlmrl.annotate.servers import Pace, Policy, Servers
from vlmrl.annotate.transport import retry_after
from vlmrl.errors import ConfigError, LabelerError


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now, self.waits = 1000.0, []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def rotation(count=2, **settings):
    clock = Clock()
    known = {"failures": 3, "rest_s": 20.0, "patience_s": 100.0, "requests_per_minute": None, "tokens_per_minute": None}
    policy = Policy(**known | settings)
    urls = [f"http://s{i}/v1" for i in range(count)]
    return Servers(urls, policy, sleep=clock.sleep, clock=clock, generator=random.Random(0)), clock


def choose(servers, tokens=0):
    return asyncio.run(servers.choose(tokens))


def test_the_idlest_server_is_asked_next():
    servers, _ = rotation(3)
    first = [choose(servers) for _ in range(6)]
    assert sorted(s.url for s in first) == sorted([s.url for s in servers.all] * 2)
    servers.succeeded(first[4], tokens=0)
    assert choose(servers) is first[4]


def test_failures_in_a_row_let_a_server_rest_and_one_message_tries_it_afterwards():
    servers, clock = rotation(1)
    for _ in range(3):
        servers.failed(choose(servers), "HTTP 500")
    begin = clock.now
    probe = choose(servers)
    assert 15 <= clock.now - begin <= 25
    assert not probe.takes(clock.now)  # only the one that tries
    servers.failed(probe, "HTTP 500")
    assert not probe.takes(clock.now + 14)
    probe = choose(servers)
    servers.succeeded(probe, tokens=0)
    assert probe.takes(clock.now)
    assert probe.failed == 0


def test_an_answer_in_between_starts_the_count_anew():
    servers, _ = rotation(1)
    for _ in range(4):
        servers.failed(choose(servers), "HTTP 500")
        servers.failed(choose(servers), "HTTP 500")
        servers.succeeded(choose(servers), tokens=0)
    assert choose(servers).url == "http://s0/v1"


def test_while_one_rests_the_others_are_asked():
    servers, clock = rotation(2)
    bad = choose(servers)
    for _ in range(3):
        servers.failed(bad, "HTTP 500")
        bad.in_flight += 1
    assert {choose(servers).url for _ in range(5)} == {s.url for s in servers.all} - {bad.url}
    assert clock.waits == []


def test_a_throttled_server_is_left_alone_as_long_as_it_says_then_sent_half_and_more_with_every_answer():
    servers, clock = rotation(1)
    sent = [choose(servers) for _ in range(8)]
    servers.throttled(sent[0], "HTTP 429", wait=7.0)
    for server in sent[1:]:
        servers.throttled(server, "HTTP 429", wait=7.0)
    begin = clock.now
    again = [choose(servers) for _ in range(4)]
    assert clock.now - begin == pytest.approx(7.0)
    assert not again[0].takes(clock.now)
    for server in again:
        servers.succeeded(server, tokens=0)
    assert 4.5 < again[0].window < 5.1


def test_of_one_burst_of_refusals_that_say_no_time_only_the_first_halves():
    servers, clock = rotation(1, pause_s=2.0)
    sent = [choose(servers) for _ in range(64)]
    for server in sent[:8]:
        servers.throttled(server, "HTTP 429", wait=0.0)
        clock.now += 0.001
    assert sent[0].window == 32
    assert not sent[0].takes(clock.now)
    assert sent[0].until == pytest.approx(1002.0, abs=0.01)


def test_a_pace_spreads_requests_evenly_and_never_gives_more_in_any_minute():
    servers, clock = rotation(1, requests_per_minute=30.0)
    begin, sent = clock.now, []
    for _ in range(10):
        servers.succeeded(choose(servers), tokens=0)
        sent.append(clock.now - begin)
    assert sent == pytest.approx([2.0 * i for i in range(10)])


def test_tokens_count_as_they_were_used_not_as_they_were_guessed():
    pace = Pace(6000.0)  # 100 a second
    assert pace.take(500, now=0.0) == 0
    assert pace.wait(0.0) == pytest.approx(5.0)
    pace.correct(-300)
    assert pace.wait(0.0) == pytest.approx(2.0)
    assert pace.take(100, now=1.0) == pytest.approx(1.0)
    assert Pace(None).take(1e9, now=0.0) == 0


def test_two_servers_have_twice_the_pace():
    servers, clock = rotation(2, requests_per_minute=60.0)
    begin = clock.now
    for _ in range(20):
        servers.succeeded(choose(servers), tokens=0)
    assert clock.now - begin == pytest.approx(9.0, abs=1.1)


def test_a_lost_server_is_asked_no_more_and_the_last_one_ends_it():
    servers, _ = rotation(2)
    servers.lost(choose(servers), "s0 refuses the key")
    assert choose(servers) is servers.all[1]
    with pytest.raises(LabelerError, match="s0 refuses the key; s1 is broke"):
        servers.lost(servers.all[1], "s1 is broke")


def test_when_nobody_answers_for_too_long_the_job_ends_with_the_last_trouble():
    servers, clock = rotation(2, patience_s=60.0)

    def go_on():
        while True:
            servers.failed(choose(servers), "HTTP 503")

    with pytest.raises(LabelerError, match=r"no server has answered for \d+ s .*patience_s is 60.*HTTP 503"):
        go_on()
    assert 60 < clock.now - 1000 < 120


def test_a_server_that_refuses_for_ever_without_saying_how_long_is_given_up():
    servers, clock = rotation(1, patience_s=60.0)

    def go_on():
        for _ in range(100):
            servers.throttled(choose(servers), "HTTP 429", wait=0.0)
            clock.now += 10.0

    with pytest.raises(LabelerError, match=r"no server has answered for 70 s .*the last trouble: HTTP 429"):
        go_on()


def test_a_time_in_which_nobody_was_asked_is_no_illness():
    servers, clock = rotation(1, patience_s=60.0)
    servers.succeeded(choose(servers), tokens=0)
    clock.now += 1e6
    for _ in range(4):
        servers.failed(choose(servers), "HTTP 500")
    servers.succeeded(choose(servers), tokens=0)


def test_a_date_to_come_back_is_read_by_the_servers_own_clock():
    headers = {"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT", "date": "Thu, 01 Jan 1970 00:01:00 GMT"}
    assert retry_after(headers) == 40
    assert retry_after({"retry-after": "soon"}) == retry_after({}) == 0


FAST = {"backoff_s": 0.01, "backoff_cap_s": 0.1, "timeout_s": 60.0, "protocol": "one_stage"}


def run(urls, folder, *, count=40, limits=None, **settings):
    store = FakeStore()
    queries = sample_pairs(store, "front", count=count, instruction="open it", generator=np.random.default_rng(0))
    labeler = labeling.build(labeling.Config(model="judge", base_urls=tuple(urls), **(FAST | settings)))
    with Ledger(folder / "l.db") as ledger:
        return run_job(
            queries, labeler, ledger=ledger, limits=limits or Limits(concurrency=8), pictures=Pictures(store)
        )


def test_a_server_that_hangs_is_left_out_and_the_other_answers_everything(tmp_path):
    over = threading.Event()

    def hang(request, number):
        over.wait()
        return Answer("0")

    with serve(hang) as bad, serve(lambda r, n: Answer("1", delay_s=0.005)) as good:
        report = run([bad.url, good.url], tmp_path, breaker_failures=2, timeout_s=0.5)
        over.set()
    assert (report.asked, report.failed, report.verdicts["b"]) == (40, 0, 40)
    assert len(bad.log) < 12


def test_a_server_that_dies_and_comes_back_is_used_again_and_nothing_is_lost(tmp_path, caplog):
    def flaky(request, number):
        if 30 <= number < 45:
            raise ConnectionError  # the connection closes without an answer
        return Answer("0")

    with serve(flaky) as server:
        report = run([server.url], tmp_path, count=60)
    assert (report.asked, report.failed, report.verdicts["a"]) == (60, 0, 60)
    assert len(server.log) == 60 + 15
    assert f"{server.url} rests for" in caplog.text
    assert f"{server.url} answers again" in caplog.text


def test_a_server_that_is_gone_for_good_ends_the_job_with_its_name_and_keeps_the_answers(tmp_path):
    def dying(request, number):
        if number >= 20:
            raise ConnectionError
        return Answer("0")

    gone = r"no server has answered for .*the last trouble: (no server at|http://\S+ broke the connection)"
    with serve(dying) as server, pytest.raises(LabelerError, match=gone) as e:
        run([server.url], tmp_path, patience_s=0.5)
    assert server.url in str(e.value)
    with serve(lambda r, n: Answer("0")) as server:
        again = run([server.url], tmp_path)
    assert (again.cached, again.asked) == (20, 20)


def test_one_of_two_servers_without_credit_is_left_out(tmp_path, caplog):
    broke = Answer("x", 429, body={"error": {"message": "broke", "code": "insufficient_quota"}})
    with serve(lambda r, n: broke) as bad, serve(lambda r, n: Answer("0")) as good:
        report = run([bad.url, good.url], tmp_path)
    assert (report.asked, report.failed) == (40, 0)
    assert "has no credit left" in caplog.text


def test_requests_to_a_real_server_keep_the_pace(tmp_path):
    with serve(lambda r, n: Answer("0")) as server:
        report = run([server.url], tmp_path, count=20, requests_per_minute=1200.0)
    assert report.asked == 20
    assert report.seconds >= 19 * 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"requests_per_minute": 0.0}, "requests_per_minute 0.0 given; wanted above 0"),
        ({"breaker_failures": 0}, "breaker_failures 0 given; wanted at least 1"),
        ({"timeout_s": float("nan")}, "timeout_s nan given; wanted above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        labeling.Config(model="m", **settings)


def test_a_message_that_is_cut_while_it_waits_for_its_turn_frees_its_place():
    servers, _ = rotation(1, requests_per_minute=1.0)

    async def cut():
        await servers.choose(0)
        servers._sleep = lambda seconds: asyncio.Event().wait()
        waiting = asyncio.create_task(servers.choose(0))
        await asyncio.sleep(0)
        assert servers.all[0].in_flight == 2
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(cut())
    assert servers.all[0].in_flight == 1
