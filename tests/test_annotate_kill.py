"""kill -9: one job against a real server, and four workers on one queue."""

import importlib.util
import json
import subprocess
import sys

import kill_label
import pytest


@pytest.fixture(params=["a file", "postgresql"])
def queue(request, tmp_path):
    """Where an empty ledger can be made."""
    return str(tmp_path / "l.db") if request.param == "a file" else request.getfixturevalue("postgres")("queue")


def work(root, queue, *more, questions=40, kills=3):
    # In a process of its own, which forks: pytest's has threads.
    command = [sys.executable, str(root / "tests" / "kill_workers.py"), queue, "--delay_s", "0.002"]
    command += ["--questions", str(questions), "--kills", str(kills), *more]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=kill_label.environment())
    return json.loads(done.stdout)


def test_four_workers_killed_at_random_answer_every_question_once(root, queue):
    figures = work(root, queue)
    assert figures["killed"] == 3
    assert (figures["answered"], figures["answered_twice"], figures["leases_left"]) == (40, 0, 0)
    assert figures["asked_twice"] <= 3 * 2  # what was in flight


@pytest.mark.slow
def test_workers_of_four_machines_that_die_answer_every_question_once(root, postgres):
    figures = work(root, postgres("machines"), "--machines", "--lease_s", "1", questions=200, kills=12)
    assert figures["killed"] == 12
    assert (figures["answered"], figures["answered_twice"], figures["leases_left"]) == (200, 0, 0)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="needs the extra 'serve'")
def test_no_committed_answer_is_asked_again_after_a_kill(tmp_path):
    figures = kill_label.run(tmp_path, pairs=40, concurrency=4)
    assert 20 <= figures.committed_at_kill < 40
    assert figures.committed_asked_again == 0
    assert figures.seen_twice <= 2 * 4
    assert figures.seen_more_often == figures.never_seen == 0
    assert figures.answers == figures.questions == 40
