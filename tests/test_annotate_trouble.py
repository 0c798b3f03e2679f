"""What a labeling job lives through: a full disk, a ledger that another process holds, signals."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import threading
from contextlib import contextmanager

import kill_label
import numpy as np
import pytest
import sqlalchemy
from annotate_fakes import FakeLabeler, FakeStore
from fake_server import Answer, serve

from vlmrl.annotate import Ledger, Limits, Pictures, database, job, run_job, sample_pairs
from vlmrl.errors import DataError


class Wordy(FakeLabeler):
    """Says enough to fill a small disk."""

    async def ask(self, query):
        reply = await super().ask(query)
        return type(reply)(reply.answer, reply.annotator, text="so " * 3000, cost=reply.cost)


def run(labeler, ledger, *, progress=None, count=60, **limits):
    store = FakeStore()
    queries = sample_pairs(store, "front", count=count, instruction="x", generator=np.random.default_rng(0))
    settings = Limits(**{"concurrency": 4, "batch": 16, **limits})
    return run_job(queries, labeler, ledger=ledger, limits=settings, pictures=Pictures(store), progress=progress)


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A ledger on a disk that `disk.pages` bounds, in pages of 4 kB."""
    monkeypatch.setattr(job, "_POLL_S", 0.01)

    class Disk:
        pages = 10**6

    def bound(connection):
        connection.exec_driver_sql(f"PRAGMA max_page_count={Disk.pages}")

    with Ledger(tmp_path / "l.db") as ledger:
        sqlalchemy.event.listen(ledger._engine, "begin", bound)
        Disk.ledger = ledger
        yield Disk


def test_a_full_disk_ends_the_job_in_the_end_and_what_was_committed_is_never_asked_again(disk):
    disk.pages = 150
    labeler = Wordy()
    with pytest.raises(DataError, match=r"the disk is full .* \d replies are lost and will be asked again"):
        run(labeler, disk.ledger, patience_s=0.1, lease_s=0.2)  # nor is there a place to give leases up
    disk.pages = 10**6
    rest = Wordy()
    report = run(rest, disk.ledger)
    assert 0 < report.cached < 60
    assert report.cached + len(rest.asked) == 60
    assert len(labeler.asked) + len(rest.asked) <= 60 + 2 * 4  # of those in flight, and of the ones before, unwritten


def test_a_disk_that_is_full_for_a_while_loses_nothing(disk):
    disk.pages, seen = 150, []

    def progress(tally):
        seen.append(tally.trouble)
        if "the disk is full" in tally.trouble:
            disk.pages = 10**6

    labeler = Wordy()
    report = run(labeler, disk.ledger, progress=progress)
    assert any(seen)
    assert (report.asked, len(labeler.asked), report.trouble) == (60, 60, "")


@contextmanager
def locked(path):
    """Another process's transaction."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(job, "_POLL_S", 0.01)
    monkeypatch.setattr(database, "_BUSY_S", 0.02)


def test_a_ledger_that_is_locked_for_a_while_loses_nothing(tmp_path, impatient):
    lock = contextlib.ExitStack()

    def progress(tally):
        if tally.asked == 20 and not tally.trouble:
            lock.enter_context(locked(tmp_path / "l.db"))
        if "another process holds it locked" in tally.trouble:
            lock.close()

    labeler = FakeLabeler()
    with Ledger(tmp_path / "l.db") as ledger, lock:
        report = run(labeler, ledger, progress=progress)
    assert (report.asked, len(labeler.asked)) == (60, 60)


def test_a_ledger_that_stays_locked_ends_the_job_with_what_to_do(tmp_path, impatient):
    with Ledger(tmp_path / "l.db") as ledger, locked(tmp_path / "l.db"):
        labeler = FakeLabeler()
        with pytest.raises(DataError, match=r"another process holds it locked .* run the same command again"):
            run(labeler, ledger, patience_s=0.1)
    assert labeler.asked == []
    assert labeler.closed == 1


@pytest.mark.slow  # a command of its own
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_what_is_in_flight_and_says_how_to_go_on(tmp_path, number):
    kill_label.make_store(tmp_path / "noise")
    enough = threading.Event()

    def answer(request, n):
        if n == 12:
            enough.set()
        return Answer("0", delay_s=0.2)

    with serve(answer) as server:
        command = kill_label.label_command(tmp_path, url=server.url, model="m", pairs=60, concurrency=4)
        command += ["labeler.protocol=one_stage", "check_order=0"]
        with subprocess.Popen(
            command, cwd=tmp_path, env=kill_label.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        ) as process:  # fmt: skip
            assert enough.wait(120)
            os.kill(process.pid, number)
            said = process.communicate(timeout=120)[0]
        assert process.returncode == 130, said
        assert "run the same command again to go on where it stopped" in said
        assert "Traceback" not in said
        before = len(server.log)
        assert len(kill_label.read_ledger(tmp_path)[1]) == before < 60
        subprocess.run(command, cwd=tmp_path, env=kill_label.environment(), check=True)
        assert len(server.log) == 60
        assert len(set(server.digests())) == 60
