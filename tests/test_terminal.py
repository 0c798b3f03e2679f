"""`vlmrl record` in a real pseudo-terminal: a person's keys make, discard and repeat demonstrations."""

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deploy_fakes import SPEC
from test_bus import say, simulated

from vlmrl.deploy.recorder import PERSON
from vlmrl.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CODE = "from vlmrl.cli import main; main()"
SLOW = ["priority=0", "cameras=[]", "safety.overruns=1000000", "safety.action_s=60", "safety.observation_s=60"]
"""What a busy machine may not stop; the limits of the robot stay."""


class Person:
    """Types at one end of a terminal, and reads what is shown there."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.shown = descriptor, ""

    def types(self, keys: str) -> None:
        os.write(self.descriptor, keys.encode())

    def sees(self, words: str, seconds: float = 120.0) -> str:
        """Wait until a pattern is shown, and forget what was shown up to there."""
        until = time.monotonic() + seconds
        while (found := re.search(words, self.shown)) is None:
            assert time.monotonic() < until, f"{words!r} was not shown, but {self.shown[-1000:]!r}"
            if select.select([self.descriptor], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self.descriptor, 4096).decode(errors="ignore")
                except OSError as error:
                    raise AssertionError(f"{words!r} was not shown, but {self.shown[-1000:]!r}") from error
        self.shown = self.shown[found.end() :]
        return found[0]

    def sees_step(self, least: int) -> None:
        """Wait until the episode has gone so far."""
        while int(self.sees(r"running \d+(?=\D)").split()[1]) < least:
            pass


@contextmanager
def at_a_terminal(*arguments: str) -> Iterator[tuple[Person, "subprocess.Popen[bytes]", int]]:
    """A command in a terminal of its own: who sits there, the process, and the terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", CODE, "record", *arguments]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    try:
        yield Person(ours), process, theirs
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def test_keys_make_discard_and_repeat_demonstrations(tmp_path: Path) -> None:
    arguments = ["task=so101/reach", "driver=mujoco", "judged_by=operator", "episodes=3", "seed=40", *SLOW]
    with at_a_terminal(*arguments, f"out={tmp_path / 'run'}") as (person, process, terminal):
        before = termios.tcgetattr(terminal)
        person.sees("q/a shoulder_pan")
        person.sees("idle")
        assert termios.tcgetattr(terminal) != before, "keys come one by one"
        person.types("\r")
        person.sees("start: not while idle")
        person.types("o")
        person.sees("armed")
        person.types("\r")
        person.sees("running")
        person.types("qqqqq")
        person.sees_step(30)
        person.types("x")
        person.sees("armed")
        person.types("\r")
        person.sees("running")
        person.types("aaa")
        person.sees_step(30)
        person.types("b")
        person.sees("paused")
        person.types("b")
        person.sees("running")
        person.types("\r")
        person.sees("episode 1 of 3: success, says the operator")
        person.sees("armed")
        person.types("\r")
        person.sees_step(20)
        person.types(" ")
        person.sees("stopped: operator")
        person.types("z")
        person.sees("idle")
        person.types("o")
        person.sees("armed")
        person.types("\x04")
        person.sees("ended by the operator")
        assert process.wait(120) == 0
        assert termios.tcgetattr(terminal) == before, "the terminal is as it was"
    store = Store.open(tmp_path / "run" / "store")
    assert store.episodes.seed.tolist() == [40, 41], "the start of the discarded one was taken again"
    # The stopped one is kept, and nobody said how it went.
    assert store.episodes.success.tolist() == [1, -1]
    episode = store.episode(store.episodes.id[0])
    assert episode.source == "keyboard"
    # Three presses of 0.04 rad down, of the kept take alone.
    assert episode.requested is not None
    asked = episode.requested[:, 0] * SPEC.half[0]
    assert asked[-1] - asked[0] == pytest.approx(-0.12, abs=1e-3)
    assert episode.action[-1, 0] * SPEC.half[0] == pytest.approx(asked[-1], abs=1e-3)
    assert (episode.intervention[:-1] >= PERSON).all()


def test_a_leader_on_a_second_bus_is_followed_and_recorded(tmp_path: Path) -> None:
    with simulated("feetech") as (port, follower), simulated("feetech") as (other, leader):
        arguments = ["task=so101/reach", f"port={port}", "by=leader", f"leader_port={other}", "episodes=1", *SLOW]
        with at_a_terminal(*arguments, "judged_by=operator", f"out={tmp_path / 'run'}") as (person, process, _):
            person.sees("hold the leader arm")
            assert " off" not in say(leader, "state")
            person.types("\r")
            person.sees("idle")
            assert say(leader, "state").count(" off") == 6, "it is limp"
            for joint in SPEC.joints:
                say(leader, f"lead {joint.name} {joint.home}")
            person.types("o")
            person.sees("armed")
            person.types("\r")
            person.sees_step(10)
            say(leader, "lead shoulder_pan 0.4")
            say(leader, "lead gripper 0.8")
            person.sees_step(120)
            where = {
                part.split()[0]: float(part.split()[1]) for part in say(follower, "state").split(";")[0].split(", ")
            }
            person.types("\r")
            person.sees("episode 1 of 1: success, says the operator")
            assert process.wait(120) == 0
        assert where["shoulder_pan"] == pytest.approx(0.4, abs=0.05)
        assert where["gripper"] == pytest.approx(0.8, abs=0.05)
    store = Store.open(tmp_path / "run" / "store")
    episode = store.episode(store.episodes.id[0])
    assert (episode.source, episode.success) == ("leader", 1)
    reached = episode.obs["state"][-1, [0, 5]]
    assert reached == pytest.approx([0.4, 0.8], abs=0.05)
    steps = abs(episode.action[1:-1] - episode.action[:-2]).max(0) * SPEC.half / SPEC.period
    assert (steps <= [j.velocity + 0.01 for j in SPEC.joints]).all(), "a hand that jerks is followed within the limits"
