"""The pipes of the control loop: whatever is at their other end, the loop is not kept waiting."""

import os
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest

from vlmrl.deploy.child import Child, Wire


def echo(pipe: Wire) -> None:
    """Say what was heard."""
    while True:
        pipe.send(pipe.recv())


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child(echo)
    made.send("ready")
    assert made.wait(60.0) == "ready"
    yield made
    made.close()


def test_messages_of_every_size_come_whole_and_in_their_order(child: Child) -> None:
    sizes = [0, 1, 65_535, 65_536, 3_000_000, 7]
    for size in sizes:
        child.send(np.arange(size, dtype=np.uint8))
    found = [child.wait(60.0) for _ in sizes]
    assert [len(one) for one in found] == sizes
    np.testing.assert_array_equal(found[4], np.arange(3_000_000, dtype=np.uint8))
    assert child.hear() is None


def test_a_process_that_stands_still_keeps_nobody_waiting_and_misses_nothing(child: Child) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    begin = time.monotonic()
    for k in range(20):
        child.send(np.full(1_000_000, k, np.uint8))
        assert child.hear() is None
    assert time.monotonic() - begin < 2.0
    assert child.behind_s > 0
    os.kill(child.pid, signal.SIGCONT)
    assert [int(child.wait(60.0)[0]) for _ in range(20)] == list(range(20))
    assert child.behind_s == 0


def test_a_process_that_stands_still_in_the_middle_of_a_word_is_not_waited_for(child: Child) -> None:
    child.send(np.zeros(50_000_000, np.uint8))
    while not child._in:
        child.hear()
    os.kill(child.pid, signal.SIGSTOP)
    begin = time.monotonic()
    for _ in range(100):
        child.hear()
    assert time.monotonic() - begin < 2.0
    os.kill(child.pid, signal.SIGCONT)
    assert len(child.wait(60.0)) == 50_000_000


def test_a_process_that_has_died_is_dead(child: Child) -> None:
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(60.0) is None
    assert child.dead
    child.send("nobody hears this")
    assert child.hear() is None
