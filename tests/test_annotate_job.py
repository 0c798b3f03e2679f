"""The labeling job: what it asks, where it stops, what it leaves behind."""

import asyncio
import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from annotate_fakes import FakeLabeler, FakeStore

from vlmrl.annotate import Ledger, Limits, Pictures, job, label, run_job, sample_pairs, scripted
from vlmrl.annotate.compare import LastReplyError
from vlmrl.annotate.keys import NO_KEY
from vlmrl.errors import ConfigError, DataError, LabelerError
from vlmrl.types import Cost, Frame, Kind, Query, Reply, Verdict


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.db") as opened:
        yield opened


@pytest.fixture
def store():
    return FakeStore()


def draw(store, count, seed=0):
    return sample_pairs(store, "front", count=count, instruction="to open", generator=np.random.default_rng(seed))


def run(queries, labeler, ledger, store, **limits):
    return run_job(queries, labeler, ledger=ledger, limits=Limits(**limits), pictures=Pictures(store))


def test_each_question_is_asked_once_and_never_again(ledger, store):
    queries, labeler = draw(store, 50), FakeLabeler()
    first = run(queries, labeler, ledger, store)
    again = run(queries, labeler, ledger, store)
    assert (first.total, first.asked, first.cached) == (50, 50, 0)
    assert (again.total, again.asked, again.cached) == (50, 0, 50)
    assert len(labeler.asked) == 50
    assert first.cost == Cost(calls=50, prompt_tokens=5000, completion_tokens=50)
    assert again.cost == Cost()
    assert first.keys == again.keys
    assert first.verdicts == again.verdicts
    assert sum(first.verdicts.values()) == 50
    assert first.stopped_by == ""


def test_a_second_set_asks_only_what_is_new_whatever_store_it_comes_from(ledger, store):
    queries = draw(store, 60)
    run(queries[:40], FakeLabeler(), ledger, store)
    labeler = FakeLabeler()
    report = run(queries[20:], labeler, ledger, FakeStore())
    assert (report.cached, report.asked) == (20, 20)
    assert {q.items for q in labeler.asked} == {q.items for q in queries[40:]}


def test_the_labeler_sees_the_pictures_of_its_query(ledger, store):
    labeler = FakeLabeler()
    run(draw(store, 10), labeler, ledger, store, batch=3)
    for query in labeler.asked:
        for frame, picture in zip(query.items, query.images, strict=True):
            row = int(frame.episode.removeprefix("episode-")) * 20 + frame.row
            np.testing.assert_array_equal(picture, store.frames("front", [row])[0])


def test_pictures_are_held_a_batch_at_a_time(ledger, store):
    run(draw(store, 200), FakeLabeler(), ledger, store, batch=8)
    assert max(store.loaded) <= 16


def test_a_labeler_that_sees_nothing_loads_nothing(ledger, store):
    run(draw(store, 20), FakeLabeler(sees=False), ledger, store)
    assert store.loaded == []


def test_equal_questions_are_asked_once_and_answer_every_query(ledger, store):
    class Blind(FakeLabeler):
        def content(self, query):
            return {"same": "for all"}

    labeler, queries = Blind(), draw(store, 12)
    report = run(queries, labeler, ledger, store)
    assert (report.total, report.asked, len(set(report.keys)), len(report.keys)) == (1, 1, 1, 12)
    assert len(ledger.snapshot(queries, report.keys)) == 12
    assert sum(report.verdicts.values()) == 12


@pytest.mark.parametrize("concurrency", [1, 5])
def test_no_more_than_the_allowed_number_is_in_flight(ledger, store, concurrency):
    labeler = FakeLabeler(delay_s=0.002)
    run(draw(store, 40), labeler, ledger, store, concurrency=concurrency)
    assert labeler.most_in_flight == concurrency


@pytest.mark.parametrize("calls_each", [1, 2])
def test_max_calls_is_never_passed_and_a_later_run_goes_on(ledger, store, calls_each):
    class Staged(FakeLabeler):
        calls_per_question = calls_each

        async def ask(self, query):
            reply = await super().ask(query)
            return replace(reply, cost=Cost(calls=calls_each))

    labeler, queries = Staged(delay_s=0.001), draw(store, 30)
    report = run(queries, labeler, ledger, store, max_calls=11)
    assert report.stopped_by == "max_calls"
    assert report.cost.calls == 11 // calls_each * calls_each
    assert len(labeler.asked) == 11 // calls_each
    rest = run(queries, labeler, ledger, store)
    assert (rest.cached, rest.asked) == (11 // calls_each, 30 - 11 // calls_each)


def test_max_cost_is_never_passed_even_with_many_in_flight(ledger, store):
    labeler = FakeLabeler(usd=0.03, delay_s=0.001)
    report = run(draw(store, 30), labeler, ledger, store, max_cost_usd=0.10, concurrency=8)
    assert report.stopped_by == "max_cost_usd"
    assert len(labeler.asked) == 3
    assert report.cost.usd == pytest.approx(0.09)


def test_nothing_is_asked_once_the_time_or_the_budget_is_spent(ledger, store):
    for limit in ({"max_seconds": 0.0}, {"max_calls": 0}, {"max_cost_usd": 0.0}):
        labeler = FakeLabeler()
        report = run(draw(store, 5), labeler, ledger, store, **limit)
        assert (report.stopped_by, report.asked, len(labeler.asked)) == (next(iter(limit)), 0, 0)
        assert len(report.keys) == 5


def test_a_cost_cap_without_prices_is_refused_before_anything_is_asked(ledger, store):
    labeler = FakeLabeler()
    labeler.priced = False
    with pytest.raises(ConfigError, match="has no prices"):
        run(draw(store, 5), labeler, ledger, store, max_cost_usd=1.0)
    assert labeler.asked == []


def test_an_unreadable_reply_is_kept_and_asked_again_in_later_runs_up_to_the_bound(ledger, store):
    (query,) = draw(store, 1)
    mumble = Reply(None, "fake", text="Well...", cost=Cost(calls=1))
    for attempt in range(4):
        labeler = FakeLabeler(fails={0: mumble})
        report = run([query], labeler, ledger, store, attempts=3)
        assert (report.asked, report.unreadable, report.given_up) == ((1, 1, 0) if attempt < 3 else (0, 0, 1))
    assert ledger.replies(report.keys[0]) == [mumble] * 3
    assert run([query], FakeLabeler(), ledger, store, attempts=4).asked == 1
    assert ledger.answers(report.keys)[report.keys[0]].answer in Verdict


def test_failed_calls_never_use_up_the_attempts(ledger, store):
    (query,) = draw(store, 1)
    failed = Reply(None, "fake", error="HTTP 500")
    for _ in range(4):
        report = run([query], FakeLabeler(fails={0: failed}), ledger, store, attempts=2)
        assert (report.asked, report.failed, report.unreadable) == (1, 1, 0)
    assert run([query], FakeLabeler(), ledger, store, attempts=2).verdicts != {v.value: 0 for v in Verdict}


def test_failures_in_a_row_end_the_job_with_the_last_reason_and_keep_what_was_answered(ledger, store):
    queries = draw(store, 40)
    broken = {i: Reply(None, "fake", error="HTTP 500: on fire") for i in range(10, 40)}
    labeler = FakeLabeler(fails=broken)
    with pytest.raises(LabelerError, match="fake failed 5 questions in a row; the last: HTTP 500: on fire"):
        run(queries, labeler, ledger, store, concurrency=1, failures=5)
    assert len(labeler.asked) == 15
    rest = FakeLabeler()
    assert run(queries, rest, ledger, store).cached == 10
    assert len(rest.asked) == 30


def test_scattered_failures_do_not_end_the_job(ledger, store):
    failed = Reply(None, "fake", error="HTTP 500")
    report = run(
        draw(store, 30), FakeLabeler(fails=dict.fromkeys(range(0, 30, 2), failed)), ledger, store, concurrency=1
    )
    assert (report.asked, report.failed, report.stopped_by) == (30, 15, "")


def test_questions_that_always_fail_do_not_keep_later_runs_from_the_others(ledger, store):
    queries = draw(store, 40)
    odd = {queries[i].items for i in (3, 9, 15, 21, 27)}

    class Picky(FakeLabeler):
        async def ask(self, query):
            reply = await super().ask(query)
            return Reply(None, self.name, error="HTTP 500: too odd") if query.items in odd else reply

    assert run(queries[:30], Picky(), ledger, store, concurrency=1).failed == 5
    for fresh in (10, 0):
        report = run(queries, Picky(), ledger, store, concurrency=1)
        assert (report.asked, report.failed) == (fresh + 5, 5)


@pytest.mark.parametrize(
    "said",
    [
        Reply(None, "fake", error="HTTP 400: too odd"),  # also as ledgers of before hold it
        Reply(None, "fake", text="I had rather not.", error="refused: the answer was held back", cost=Cost(calls=1)),
    ],
)
def test_a_refused_question_is_not_paid_again_unless_that_is_asked_for(tmp_path, store, said):
    queries, path = draw(store, 10), tmp_path / "refused.db"
    with Ledger(path) as book:
        first = run(queries, FakeLabeler(fails={3: said}), book, store, concurrency=1)
    assert (first.asked, first.refused, first.failed, first.unreadable) == (10, 1, 0, 0)
    with Ledger(path) as book:
        again = FakeLabeler()
        report = run(queries, again, book, store)
        assert (len(again.asked), report.given_up, report.cached, report.done) == (0, 1, 9, 10)
    with Ledger(path) as book:
        stubborn = FakeLabeler(fails={0: said})
        report = run(queries, stubborn, book, store, retry_refused=True)
        assert (len(stubborn.asked), report.refused, report.given_up) == (1, 1, 0)
        # A command asks it once, however many jobs it runs.
        assert run(queries, FakeLabeler(), book, store, retry_refused=True).given_up == 1
    with Ledger(path) as book:
        report = run(queries, FakeLabeler(), book, store, retry_refused=True)
        assert (report.asked, report.cached, sum(report.verdicts.values())) == (1, 9, 10)


def test_what_is_unreadable_too_often_is_asked_again_on_request(tmp_path, store):
    (query,) = draw(store, 1)
    mumble = Reply(None, "fake", text="Well...", cost=Cost(calls=1))
    for wanted in ((1, 0), (0, 1)):
        with Ledger(tmp_path / "l.db") as book:
            report = run([query], FakeLabeler(fails={0: mumble}), book, store, attempts=1)
            assert (report.asked, report.given_up) == wanted
    with Ledger(tmp_path / "l.db") as book:
        assert run([query], FakeLabeler(), book, store, attempts=1, retry_refused=True).asked == 1


def test_answers_that_are_held_back_do_not_end_the_job(ledger, store):
    held = Reply(None, "fake", text="no", error="refused: the answer was held back", cost=Cost(calls=1))
    report = run(draw(store, 20), FakeLabeler(fails=dict.fromkeys(range(20), held)), ledger, store, failures=5)
    assert (report.asked, report.refused) == (20, 20)
    rejected = Reply(None, "fake", error="HTTP 400: no pictures here")
    with pytest.raises(LabelerError, match=r"failed 5 questions in a row.* limits.retry_refused=true those that were"):
        run(draw(store, 40), FakeLabeler(fails=dict.fromkeys(range(40), rejected)), ledger, store, failures=5)


def test_a_reply_that_shows_the_labeler_to_be_unfit_is_paid_and_written_down_before_the_job_ends(ledger, store):
    unfit = Reply(None, "fake", text="0", cost=Cost(2, 200, 2, 0.5), error="another model", served="n")
    labeler = FakeLabeler(fails={3: LastReplyError("another model answers", reply=unfit)})
    queries = draw(store, 10)
    with pytest.raises(LabelerError, match="another model answers"):
        run(queries, labeler, ledger, store, concurrency=1)
    assert len(labeler.asked) == 4
    replies = [ledger.replies(key) for key in sorted(ledger.keys())]
    assert [one for some in replies for one in some if one.error] == [unfit]


@pytest.mark.parametrize("error", [LabelerError("wrong key"), RuntimeError("a bug")])
def test_a_fatal_error_is_raised_after_everything_in_flight_is_recorded(ledger, store, error):
    queries, labeler = draw(store, 40), FakeLabeler(fails={3: error}, delay_s=0.005)
    with pytest.raises(type(error), match=str(error)):
        run(queries, labeler, ledger, store, concurrency=8)
    assert labeler.closed == 1
    rest = FakeLabeler()
    assert run(queries, rest, ledger, store).cached == len(labeler.asked) - 1 >= 3
    assert len(rest.asked) == 40 - (len(labeler.asked) - 1)


def test_an_error_while_reading_pictures_is_raised_and_loses_nothing(ledger, store):
    queries = draw(store, 40)

    def pictures(some):
        if queries[30] in some and ledger.answers(keys):
            raise DataError("picture gone")
        return Pictures(store)(some)

    keys = run_job(queries, FakeLabeler(), ledger=ledger, limits=Limits(max_calls=0), pictures=Pictures(store)).keys
    run(queries[:1], FakeLabeler(), ledger, store)
    with pytest.raises(DataError, match="picture gone"):
        run_job(queries, FakeLabeler(), ledger=ledger, limits=Limits(batch=4), pictures=pictures)
    rest = run(queries, FakeLabeler(), ledger, store)
    assert rest.cached + rest.asked == 40
    assert rest.cached >= 20  # what came before the broken picture, but for the questions then in flight


def test_ctrl_c_lets_what_is_in_flight_finish_and_leaves_no_lease(ledger, store):
    class Interrupting(FakeLabeler):
        async def ask(self, query):
            if len(self.asked) == 9:
                os.kill(os.getpid(), signal.SIGINT)
            return await super().ask(query)

    before = signal.getsignal(signal.SIGINT)
    queries, labeler = draw(store, 60), Interrupting(delay_s=0.01)
    report = run(queries, labeler, ledger, store, concurrency=4)
    assert signal.getsignal(signal.SIGINT) is before
    assert report.stopped_by == "interrupt"
    assert report.asked == len(labeler.asked) < 60
    leased = ledger.lease(
        [k for k in report.keys if k not in ledger.answers(report.keys)], owner="far:1:x", seconds=1.0
    )
    assert len(leased.granted) == 60 - report.asked


def test_ctrl_c_while_the_first_pictures_are_read_ends_the_job_at_once(ledger, store):
    def pictures(some):
        os.kill(os.getpid(), signal.SIGINT)
        return Pictures(store)(some)

    labeler = FakeLabeler()
    report = run_job(draw(store, 40), labeler, ledger=ledger, limits=Limits(batch=1), pictures=pictures)
    assert labeler.asked == []
    assert (report.stopped_by, report.asked) == ("interrupt", 0)
    assert (len(report.keys), report.keys[-1]) == (40, NO_KEY)


def test_cancelling_the_job_leaves_no_lease_and_keeps_what_was_recorded(ledger, store):
    queries = draw(store, 40)

    async def cancelled():
        labeler = FakeLabeler(delay_s=0.005)
        task = asyncio.create_task(label(queries, labeler, ledger=ledger, pictures=Pictures(store)))
        while len(labeler.asked) < 17:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return labeler

    labeler = asyncio.run(cancelled())
    report = run(queries, FakeLabeler(), ledger, store)
    assert report.cached >= 8  # the first batch of eight was recorded before the seventeenth was asked
    assert report.cached + report.asked == 40
    assert labeler.closed == 1


def test_two_jobs_share_a_ledger_and_ask_each_question_once(ledger, store, monkeypatch):
    monkeypatch.setattr(job, "_POLL_S", 0.01)
    queries, labelers, reports = draw(store, 80), [FakeLabeler(delay_s=0.001) for _ in range(2)], []

    def work(labeler):
        reports.append(run(queries, labeler, ledger, store, batch=8, concurrency=4))

    threads = [threading.Thread(target=work, args=(x,)) for x in labelers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(x.asked) for x in labelers) == 80
    assert all(r.cached + r.asked + r.elsewhere == 80 for r in reports)
    assert all(sum(r.verdicts.values()) == 80 for r in reports)


def test_a_dead_workers_questions_are_asked_when_its_lease_expires(tmp_path, store, monkeypatch):
    monkeypatch.setattr(job, "_POLL_S", 0.01)
    now, looks = [1000.0], []

    def clock():
        looks.append(now[0])
        now[0] += 1.0 if len(looks) > 20 else 0.0
        return now[0]

    with Ledger(tmp_path / "l.db", since_boot=clock) as ledger:
        queries = draw(store, 6)
        keys = run(queries, FakeLabeler(), ledger, store, max_calls=0).keys
        ledger.lease(keys[:3], owner="elsewhere:1:x", seconds=30.0)
        labeler = FakeLabeler()
        assert run(queries, labeler, ledger, store).asked == 6
    assert {q.items for q in labeler.asked[:3]} == {q.items for q in queries[3:]}
    assert now[0] > 1030


def test_progress_counts_up_to_the_total(ledger, store):
    seen = []
    run_job(draw(store, 20), FakeLabeler(usd=0.5), ledger=ledger, pictures=Pictures(store), progress=seen.append)
    assert [t.done for t in seen] == list(range(21))
    assert all(t.total == 20 for t in seen)
    assert seen[-1].asked == 20
    assert seen[-1].cost.usd == pytest.approx(10.0)


def truth_of(item):
    return item.row / 20


def test_the_scripted_teacher_names_its_error_rate_and_prefers_more_progress():
    teacher = scripted.build(scripted.Config(error_rate=0.1), truth=truth_of)
    assert teacher.name == "scripted teacher (10% wrong)"
    exact = scripted.build(scripted.Config(equal=0.25), truth=truth_of)

    def verdict(a, b):
        query = Query(Kind.PREFERENCE, (Frame("e", a, "front"), Frame("e", b, "front")), "to open")
        return asyncio.run(exact.ask(query)).answer

    assert verdict(16, 4) is Verdict.A_BETTER
    assert verdict(4, 16) is Verdict.B_BETTER
    assert verdict(4, 9) is Verdict.TIE  # exactly the threshold
    assert verdict(4, 4) is Verdict.TIE


def test_the_scripted_teachers_errors_have_the_rate_and_are_fixed_by_seed_and_question(store):
    store = FakeStore(episodes=20, rows=100, every=1)
    queries = [q for q in draw(store, 2200) if q.items[0].row != q.items[1].row][:2000]

    def wrong(seed, rate=0.1):
        teacher = scripted.build(scripted.Config(error_rate=rate, seed=seed), truth=truth_of)

        async def all_of():
            return [(await teacher.ask(q)).answer for q in queries]

        better = [Verdict.A_BETTER if q.items[0].row > q.items[1].row else Verdict.B_BETTER for q in queries]
        return np.array([a is not b for a, b in zip(asyncio.run(all_of()), better, strict=True)])

    assert abs(wrong(0).mean() - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 2000)
    np.testing.assert_array_equal(wrong(0), wrong(0))
    overlap = (wrong(0) & wrong(1)).mean()
    assert abs(overlap - 0.01) < 4 * np.sqrt(0.01 * 0.99 / 2000)
    assert not wrong(0, rate=0.0).any()
    assert wrong(0, rate=1.0).all()


def test_the_scripted_teacher_refuses_what_it_cannot_know():
    teacher = scripted.build(scripted.Config(), truth=lambda item: float("nan"))
    with pytest.raises(DataError, match="needs the true progress"):
        teacher.content(Query(Kind.PREFERENCE, (Frame("e", 0, "c"), Frame("e", 1, "c")), "to open"))
    with pytest.raises(ConfigError, match=r"error_rate 1\.5"):
        scripted.Config(error_rate=1.5)
    with pytest.raises(ConfigError, match="concurrency is 0"):
        Limits(concurrency=0)


@pytest.mark.parametrize(("overlaps_s", "asked"), [(0.0, 2), (60.0, 1)])
def test_a_question_is_asked_while_the_reply_of_a_slow_labeler_is_committed(
    ledger, store, monkeypatch, overlaps_s, asked
):
    monkeypatch.setattr("vlmrl.annotate.job._OVERLAPS_S", overlaps_s)  # this labeler counts as slow, or as quick
    labeler, seen = FakeLabeler(), []
    record = Ledger.record

    def slowly(self, replies, **settings):
        time.sleep(0.1)
        seen.append(len(labeler.asked))
        return record(self, replies, **settings)

    monkeypatch.setattr(Ledger, "record", slowly)
    report = run(draw(store, 6), labeler, ledger, store, concurrency=1)
    assert report.asked == 6
    assert seen[0] == asked


def test_a_labeler_that_prepares_does_so_on_another_thread_before_the_question(ledger, store):
    class Prepared(FakeLabeler):
        def __init__(self):
            super().__init__()
            self.ready = {}

        def prepare(self, query):
            self.ready[query.items] = threading.get_ident()

        async def ask(self, query):
            assert self.ready[query.items] != threading.get_ident()
            return await super().ask(query)

    assert run(draw(store, 12), Prepared(), ledger, store, concurrency=4).asked == 12


def test_what_is_paid_is_written_although_its_worker_is_cut_behind_a_slow_commit(ledger, store, monkeypatch):
    monkeypatch.setattr("vlmrl.annotate.job._OVERLAPS_S", 0.0)  # this labeler counts as a slow one
    labeler, record = FakeLabeler(), Ledger.record

    def slowly(self, replies, **settings):
        time.sleep(0.6)
        return record(self, replies, **settings)

    monkeypatch.setattr(Ledger, "record", slowly)
    report = run(draw(store, 40), labeler, ledger, store, concurrency=2, max_seconds=0.3, grace_s=0.1)
    assert report.stopped_by == "max_seconds"
    assert report.asked == len(labeler.asked) == sum(report.verdicts.values()) > 2
