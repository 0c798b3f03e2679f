"""The ledger of questions and replies, on SQLite and on a real PostgreSQL server where one is installed."""

import os
import socket
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy

from vlmrl.annotate import Ledger, exchange, schema
from vlmrl.annotate.ledger import Asked
from vlmrl.annotate.question import canonical, item_from_json, item_to_json, picture_digest, question_key
from vlmrl.annotate.worker import _began, _place, new_owner
from vlmrl.errors import ConfigError, DataError
from vlmrl.types import Cost, Frame, Kind, Query, Reply, Span, Verdict


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request, tmp_path):
    """Where an empty ledger can be made."""
    if request.param == "sqlite":
        return str(tmp_path / "new" / "ledger.db")
    name = "ledger_" + str(abs(hash(request.node.nodeid)))
    return request.getfixturevalue("postgres")(name)


@pytest.fixture
def ledger(location):
    with Ledger(location) as opened:
        yield opened


def question(number, episode="e0"):
    query = Query(Kind.PREFERENCE, (Frame(episode, number, "front"), Frame(episode, number + 1, "front")), "to open")
    content = {"labeler": "fake", "number": number}
    return Asked(question_key(content), content, query)


def answer(verdict=Verdict.A_BETTER, **kwargs):
    return Reply(verdict, kwargs.pop("annotator", "fake"), **kwargs)


def register(ledger, count=1):
    asked = [question(i) for i in range(count)]
    ledger.register(asked, labeler="fake")
    return asked


def test_a_reply_comes_back_verbatim_in_a_new_connection(ledger, location):
    (asked,) = register(ledger)
    text = "0\n„Größe“ 🤖 \\n ' \" ; DROP TABLE reply; --\r\n"
    sent = Reply(Verdict.TIE, "vlm", 0.25, text, Cost(2, 300, 4, 0.0123456789, 1.5), "")
    ledger.record([(asked.key, sent)])
    with Ledger(location) as again:
        assert again.answers([asked.key]) == {asked.key: sent}


@pytest.mark.parametrize("value", [*Verdict, True, False, 0.1 + 0.2, -3.0, None])
def test_every_kind_of_answer_keeps_its_type_and_value(tmp_path, value):
    with Ledger(tmp_path / "l.db") as ledger:
        (asked,) = register(ledger)
        ledger.record([(asked.key, Reply(value, "x"))])
        (kept,) = ledger.replies(asked.key)
    assert kept.answer == value
    assert type(kept.answer) is type(value)


@pytest.mark.parametrize("at_once", [True, False])
def test_the_first_readable_reply_is_the_answer_and_no_reply_is_lost(ledger, at_once):
    (asked,) = register(ledger)
    replies = [answer(None, text="Hm."), answer(None, error="HTTP 500"), answer(text="0")]
    late = answer(Verdict.B_BETTER, text="1", cost=Cost(1, usd=0.5))
    for some in [[*replies, late]] if at_once else [[r] for r in (*replies, late)]:
        ledger.record([(asked.key, reply) for reply in some])
    kept = replace(late, answer=None, error="late: it was answered before")
    assert ledger.replies(asked.key) == [*replies, kept]
    assert ledger.answers([asked.key]) == {asked.key: replies[2]}
    assert ledger.unreadable([asked.key]) == {asked.key: 1}


def test_attempts_are_numbered_also_within_one_commit(ledger):
    (asked,) = register(ledger)
    ledger.record([(asked.key, answer(None)), (asked.key, answer(None))])
    ledger.record([(asked.key, answer())])
    with ledger.transaction(writes=False) as connection:
        attempts = connection.execute(sqlalchemy.select(schema.reply.c.attempt).order_by(schema.reply.c.id)).scalars()
        assert list(attempts) == [1, 2, 3]


def test_a_reply_to_an_unknown_question_is_refused_and_nothing_of_its_commit_stays(ledger):
    (asked,) = register(ledger)
    with pytest.raises(DataError, match="ledger"):
        ledger.record([(asked.key, answer()), ("0" * 64, answer())])
    assert ledger.replies(asked.key) == []


def test_one_question_may_be_about_several_pairs_and_is_found_by_each_episode(ledger):
    content = {"same": "pictures"}
    here, there = question(3, "e1").query, question(9, "e2").query
    key = question_key(content)
    for _ in range(2):
        ledger.register([Asked(key, content, here), Asked(key, content, there)], labeler="fake")
    assert ledger.questions_about("e1") == ledger.questions_about("e2") == [key]
    assert ledger.questions_about("e3") == []


def test_a_clip_of_several_spans_is_registered_span_by_span(ledger):
    clip = (Span("e1", 0, 5, "front"), Span("e2", 3, 8, "front"))
    query = Query(Kind.PREFERENCE, (clip, Frame("e3", 1, "front")), "to open")
    ledger.register([Asked("a" * 64, {}, query)], labeler="fake")
    assert [ledger.questions_about(f"e{i}") for i in (1, 2, 3)] == [["a" * 64]] * 3


def test_a_leased_question_is_not_leased_to_another_until_it_expires(location):
    now = [1000.0]
    with Ledger(location, since_boot=lambda: now[0]) as ledger:
        keys = [a.key for a in register(ledger, 3)]
        assert set(ledger.lease(keys[:2], owner="far:1:a", seconds=0.5).granted) == set(keys[:2])
        assert ledger.lease(keys, owner="far:2:b", seconds=0.5).granted == (keys[2],)
        now[0] += 1
        if location.startswith("postgresql"):  # its own clock counts
            threading.Event().wait(0.6)
        assert set(ledger.lease(keys, owner="far:3:c", seconds=60.0).granted) == set(keys)


def test_a_heartbeat_keeps_a_lease_and_release_ends_it(tmp_path):
    now = [1000.0]
    with Ledger(tmp_path / "l.db", since_boot=lambda: now[0]) as ledger:
        keys = [a.key for a in register(ledger, 2)]
        ledger.lease(keys, owner="far:1:a", seconds=10.0)
        now[0] += 9
        ledger.renew("far:1:a", seconds=10.0)
        now[0] += 9
        assert ledger.lease(keys, owner="far:2:b", seconds=10.0).granted == ()
        ledger.release("far:1:a")
        assert ledger.lease(keys, owner="far:2:b", seconds=10.0).granted == tuple(keys)


def test_recording_ends_the_lease_and_the_answered_question_is_not_granted_again(ledger):
    keys = [a.key for a in register(ledger, 2)]
    ledger.lease(keys, owner="far:1:a", seconds=60.0)
    ledger.record([(keys[0], answer())], owner="far:1:a")
    leased = ledger.lease(keys, owner="far:2:b", seconds=60.0)
    assert (leased.granted, leased.answered) == ((), (keys[0],))


def owner_of(pid, began, *, host=None, boot=None, processes=None):
    """The name of a worker like one of this process, but for what is given."""
    parts = new_owner().split(":")
    for place, part in enumerate([host, boot, processes, pid, began]):
        parts[place] = parts[place] if part is None else str(part)
    return ":".join(parts)


@pytest.fixture
def sleeper():
    """Another process of this machine that lives."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("reaped", [True, False])
def test_the_lease_of_a_dead_process_of_this_machine_is_taken_over_at_once(ledger, sleeper, reaped):
    keys = [a.key for a in register(ledger, 2)]
    gone = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    owner = owner_of(gone.pid, _began(gone.pid))
    if reaped:
        gone.wait()
    else:
        gone.stdout.read()  # it ends, and stays a zombie
        os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    ledger.lease(keys[:1], owner=owner, seconds=3600.0)
    ledger.lease(keys[1:], owner=owner_of(sleeper.pid, _began(sleeper.pid)), seconds=3600.0)
    assert ledger.lease(keys, owner="far:2:b", seconds=60.0).granted == (keys[0],)
    gone.stdout.close()
    gone.wait()


def test_another_process_of_the_same_number_is_somebody_else(ledger, sleeper):
    (asked,) = register(ledger)
    ledger.lease([asked.key], owner=owner_of(sleeper.pid, "1"), seconds=3600.0)
    assert ledger.lease([asked.key], owner="far:2:b", seconds=60.0).granted == (asked.key,)


def test_a_process_of_this_machine_that_lives_keeps_its_lease_when_it_is_late(tmp_path, sleeper):
    now = [1000.0]
    with Ledger(tmp_path / "l.db", since_boot=lambda: now[0]) as ledger:
        (asked,) = register(ledger)
        ledger.lease([asked.key], owner=owner_of(sleeper.pid, _began(sleeper.pid)), seconds=10.0)
        now[0] += 1e5  # it was stopped, or the disk was slow
        assert ledger.lease([asked.key], owner=new_owner(), seconds=10.0).granted == ()


def test_a_worker_of_this_process_that_ended_badly_blocks_nobody_for_ever(tmp_path):
    now = [1000.0]
    with Ledger(tmp_path / "l.db", since_boot=lambda: now[0]) as ledger:
        (asked,) = register(ledger)
        ledger.lease([asked.key], owner=new_owner(), seconds=10.0)
        assert ledger.lease([asked.key], owner=new_owner(), seconds=10.0).granted == ()
        now[0] += 11
        assert ledger.lease([asked.key], owner=new_owner(), seconds=10.0).granted == (asked.key,)


@pytest.mark.parametrize("elsewhere", [{"host": "other"}, {"processes": "1"}])
def test_a_process_number_of_another_machine_or_container_says_nothing(ledger, elsewhere):
    (asked,) = register(ledger)
    ledger.lease([asked.key], owner=owner_of(2**22 + 1, "1", **elsewhere), seconds=3600.0)
    assert ledger.lease([asked.key], owner=new_owner(), seconds=60.0).granted == ()


@pytest.mark.skipif(_place() == ("", ""), reason="this system does not tell when it was started")
def test_a_start_of_the_machine_ends_the_leases_in_a_file_but_says_nothing_about_other_machines(location):
    with Ledger(location) as ledger:
        (asked,) = register(ledger)
        ledger.lease([asked.key], owner=owner_of(os.getpid(), "1", boot="before"), seconds=3600.0)
        granted = ledger.lease([asked.key], owner=new_owner(), seconds=60.0).granted
    assert granted == ((asked.key,) if location.startswith("/") else ())


def test_wall_clocks_that_differ_or_jump_change_no_lease(tmp_path):
    walls = [iter([0.0, 1e9, -1e9] * 100), iter([5e8] * 300)]
    ledgers = [Ledger(tmp_path / "l.db", clock=lambda w=w: next(w)) for w in walls]
    with ledgers[0] as one, ledgers[1] as two:
        keys = [a.key for a in register(one, 3)]
        for key in keys:
            assert one.lease([key], owner="far:1:a", seconds=3600.0).granted == (key,)
            assert two.lease(keys, owner="far:2:b", seconds=3600.0).granted == tuple(keys[keys.index(key) + 1 :])
            one.renew("far:1:a", seconds=3600.0)
            two.release("far:2:b")


def test_a_lease_by_a_clock_that_is_not_ours_is_void(location):
    with Ledger(location) as ledger:
        (asked,) = register(ledger)
        ledger.lease([asked.key], owner="far:1:a", seconds=3600.0)
        with ledger.transaction(writes=True) as connection:  # as if its clock were a year ahead, or counted from 1970
            lease = schema.lease
            connection.execute(lease.update().values(expires=lease.c.expires + 3.2e7))
        assert ledger.lease([asked.key], owner="far:2:b", seconds=60.0).granted == (asked.key,)


def test_a_lease_that_is_longer_than_any_or_none_is_refused(ledger):
    (asked,) = register(ledger)
    for seconds in (0.0, 3601.0, float("nan")):
        with pytest.raises(ConfigError, match="wanted above 0 and at most 3600"):
            ledger.lease([asked.key], owner="far:1:a", seconds=seconds)


def test_of_many_workers_exactly_one_gets_each_question(location):
    with Ledger(location) as ledger:
        keys = [a.key for a in register(ledger, 60)]
    granted, start = [[] for _ in range(4)], threading.Barrier(4)

    def work(number):
        order = np.random.default_rng(number).permutation(keys).tolist()
        with Ledger(location) as mine:
            start.wait()
            for first in range(0, 60, 6):
                leased = mine.lease(order[first : first + 6], owner=f"far:{number}:x", seconds=60.0)
                granted[number].extend(leased.granted)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    assert sorted(key for some in granted for key in some) == sorted(keys)


def labels(ledger, verdicts, probability=None):
    asked = register(ledger, len(verdicts))
    ledger.record([(a.key, answer(v, probability=probability)) for a, v in zip(asked, verdicts, strict=True)])
    return [a.query for a in asked], [a.key for a in asked]


def test_a_snapshot_holds_what_is_trained_on_in_the_order_of_the_queries(ledger):
    a, b, tie, unsure = Verdict.A_BETTER, Verdict.B_BETTER, Verdict.TIE, Verdict.UNSURE
    queries, keys = labels(ledger, [a, unsure, b, None, tie])
    snapshot = ledger.snapshot(queries[::-1], keys[::-1])
    np.testing.assert_array_equal(snapshot.p_a, np.array([0.5, 0, 1], np.float32))
    assert [f.row for f in snapshot.a] == [4, 2, 0]
    assert [f.row for f in snapshot.b] == [5, 3, 1]
    assert snapshot.annotator == "fake"


def test_a_probability_goes_before_the_verdict_but_not_for_unsure(ledger):
    queries, keys = labels(ledger, [Verdict.A_BETTER, Verdict.UNSURE], probability=0.7)
    np.testing.assert_array_equal(ledger.snapshot(queries, keys).p_a, np.array([0.7], np.float32))


def test_the_snapshot_hash_is_over_exactly_the_labels(location, tmp_path):
    with Ledger(location) as one, Ledger(tmp_path / "other.db") as two:
        verdicts = [Verdict.A_BETTER, Verdict.TIE, Verdict.UNSURE]
        queries, keys = labels(one, verdicts)
        first = one.snapshot(queries, keys).snapshot
        assert labels(two, verdicts) == (queries, keys)
        assert two.snapshot(queries, keys).snapshot == first == one.snapshot(queries, keys).snapshot
        assert one.snapshot(queries[:2], keys[:2]).snapshot == first  # the unsure one is no label
        assert one.snapshot(queries[:1], keys[:1]).snapshot != first
    with Ledger(tmp_path / "third.db") as three:
        labels(three, [Verdict.B_BETTER, Verdict.TIE, Verdict.UNSURE])
        assert three.snapshot(queries, keys).snapshot != first


def test_a_snapshot_of_nothing_fit_for_training_is_refused(ledger):
    queries, keys = labels(ledger, [Verdict.UNSURE, None])
    with pytest.raises(DataError, match="none of 2 queries has an answer"):
        ledger.snapshot(queries, keys)
    with pytest.raises(DataError, match="2 queries but 1 keys"):
        ledger.snapshot(queries, keys[:1])


def test_a_ledger_written_by_a_newer_version_is_refused(location):
    with Ledger(location) as ledger, ledger.transaction(writes=True) as connection:
        connection.execute(schema.migration.insert().values(version=99, name="from the future", applied=0.0))
    with pytest.raises(DataError, match=rf"schema version 99, this vlmrl knows {len(schema.MIGRATIONS)}: update vlmrl"):
        Ledger(location)


def test_migrations_run_once_in_order_and_keep_what_is_there(ledger):
    (asked,) = register(ledger)
    ledger.record([(asked.key, answer())])
    ran = []
    later = [*schema.MIGRATIONS, ("second", lambda c: ran.append(2)), ("third", lambda c: ran.append(3))]
    for _ in range(2):
        with ledger.transaction(writes=True) as connection:
            schema.migrate(connection, later, now=0.0)
            assert schema.version(connection) == len(later)
    assert ran == [2, 3]
    assert ledger.answers([asked.key])


def test_two_processes_may_open_a_new_ledger_at_the_same_time(location):
    failures, start = [], threading.Barrier(4)

    def open_it():
        start.wait()
        try:
            Ledger(location).close()
        except BaseException as e:
            failures.append(e)

    workers = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    assert failures == []


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "ledger.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(DataError, match=r"ledger\.db cannot be used: file is not a database"):
        Ledger(path)


def test_sqlite_runs_in_wal_mode(tmp_path):
    Ledger(tmp_path / "l.db").close()
    connection = sqlite3.connect(tmp_path / "l.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [("mysql://a/b", "unknown kind of ledger URL 'mysql'; have: postgresql, sqlite"), ("://", "not a database URL")],
)
def test_a_url_of_another_kind_is_refused_with_the_choices(url, message):
    with pytest.raises(ConfigError, match=message):
        Ledger(url)


@pytest.mark.parametrize("url", ["me:hush@127.0.0.1:{}/x", "me@127.0.0.1:{}/x?password=hush"])
def test_a_server_that_is_not_there_is_named_without_its_password(url):
    pytest.importorskip("psycopg")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(DataError, match="cannot be used") as error:
        Ledger(f"postgresql://{url.format(port)}")
    assert "hush" not in str(error.value)


@pytest.mark.parametrize("item", [Frame("e", 3, "c"), (Span("e", 0, 4, "c"), Span("f", 2, 9, "d"))])
def test_an_item_survives_json(item):
    assert item_from_json(item_to_json(item)) == item


@pytest.mark.parametrize("value", [[], ["frame", "e", "3", "c"], ["spans"], ["spans", ["e", 1]], ["film", "e"]])
def test_what_is_no_item_is_refused(value):
    with pytest.raises(DataError, match="not a"):
        item_from_json(value)


def test_equal_content_gives_one_key_whatever_its_order_and_nan_has_none():
    assert question_key({"a": 1, "b": [2.5]}) == question_key({"b": [2.5], "a": 1}) != question_key({"a": 1, "b": [2]})
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))


def test_a_picture_is_known_by_shape_and_pixels():
    flat = np.zeros((2, 3, 3), np.uint8)
    changed = flat.copy()
    changed[1, 2, 0] = 1
    digests = {picture_digest(p) for p in (flat, flat.reshape(3, 2, 3), changed)}
    assert len(digests) == 3
    wide = np.zeros((2, 6, 3), np.uint8)
    assert picture_digest(wide[:, ::2]) == picture_digest(flat)


def test_labels_survive_parquet_and_importing_twice_adds_nothing(location, tmp_path):
    pytest.importorskip("pyarrow")
    with Ledger(tmp_path / "source.db") as source, Ledger(location) as target:
        asked = register(source, 3)
        shared = Asked(asked[0].key, asked[0].content, question(0, "elsewhere").query)
        source.register([shared], labeler="fake")
        replies = [answer(None, text="Hm.\n"), answer(probability=0.75, cost=Cost(2, 3, 4, 0.5, 6.0)), answer(None)]
        source.record([(asked[0].key, replies[0]), (asked[0].key, replies[1]), (asked[1].key, replies[2])])
        target.register(asked[:1], labeler="fake")
        assert exchange.export_parquet(source, tmp_path / "labels.parquet") == 3
        assert exchange.import_parquet(target, tmp_path / "labels.parquet") == 3
        assert exchange.import_parquet(target, tmp_path / "labels.parquet") == 0
        assert target.replies(asked[0].key) == replies[:2]
        assert target.replies(asked[1].key) == replies[2:]
        assert target.questions_about("elsewhere") == [asked[0].key]
        keys = [a.key for a in asked[:1]]
        queries = [a.query for a in asked[:1]]
        assert target.snapshot(queries, keys).snapshot == source.snapshot(queries, keys).snapshot


def test_replies_that_the_ledger_holds_already_are_joined_with_imported_ones(tmp_path):
    pytest.importorskip("pyarrow")
    with Ledger(tmp_path / "a.db") as a, Ledger(tmp_path / "b.db") as b:
        (asked,) = register(a)
        register(b)
        a.record([(asked.key, answer(None, text="from a"))])
        b.record([(asked.key, answer(text="from b"))])
        exchange.export_parquet(a, tmp_path / "a.parquet")
        assert exchange.import_parquet(b, tmp_path / "a.parquet") == 1
        assert [r.text for r in b.replies(asked.key)] == ["from b", "from a"]
        with b.transaction(writes=False) as connection:
            assert list(connection.execute(sqlalchemy.select(schema.reply.c.attempt)).scalars()) == [1, 2]


def test_a_parquet_file_that_is_not_ours_or_was_altered_is_refused_whole(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    with Ledger(tmp_path / "a.db") as source, Ledger(tmp_path / "b.db") as target:
        asked = register(source, 2)
        source.record([(a.key, answer()) for a in asked])
        exchange.export_parquet(source, tmp_path / "good.parquet")
        table = parquet.read_table(tmp_path / "good.parquet")
        content = table["content"].to_pylist()
        content[1] = content[1].replace("fake", "gpt")
        place = table.column_names.index("content")
        parquet.write_table(table.set_column(place, "content", arrow.array(content)), tmp_path / "altered.parquet")
        with pytest.raises(DataError, match="altered"):
            exchange.import_parquet(target, tmp_path / "altered.parquet")
        assert target.keys() == []
        parquet.write_table(arrow.table({"x": [1]}), tmp_path / "other.parquet")
        with pytest.raises(DataError, match="holds something else; wanted vlmrl labels 1"):
            exchange.import_parquet(target, tmp_path / "other.parquet")
        (tmp_path / "text.parquet").write_text("hello")
        with pytest.raises(DataError, match="cannot read labels"):
            exchange.import_parquet(target, tmp_path / "text.parquet")
