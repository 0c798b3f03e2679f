"""Kill writers of a store with -9 and check what is left: `python -m tests.kill_store --kills 100`.

Two ways: at random moments, with one or two writers at once; and at the n-th file operation of an append, for every n,
so that no phase is left out. After each kill every acknowledged episode and reward is compared by content, no half one
may show, and the next writer must get through.
"""

import argparse
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np

from vlmrl.store import Store
from vlmrl.store.lock import owner_of
from vlmrl.types import NO_FRAME, Episode, Frames

_CONTEXT = multiprocessing.get_context("forkserver")
_FILE_EVENTS = frozenset({"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"})


def episode(writer: int, number: int) -> Episode:
    """The same for the same numbers, so that its content can be checked from its id."""
    rng = np.random.default_rng([writer, number])
    rows = int(rng.integers(2, 40))
    index = np.full(rows, NO_FRAME, np.int32)
    index[::2] = np.arange(len(index[::2]))
    return Episode(
        action=rng.normal(size=(rows, 3)).astype(np.float32),
        obs={"state": rng.normal(size=(rows, 4)).astype(np.float32)},
        time=np.arange(rows) * 0.1,
        has_action=np.ones(rows, bool),
        has_next=np.arange(rows) < rows - 1,
        terminated=bool(number % 2),
        truncated=not number % 2,
        task="kill",
        instruction=f"sentence {number}",
        source=f"writer {writer}",
        images={"front": Frames(rng.integers(0, 256, (len(index[::2]), 24, 32, 3), np.uint8), index)},
        truth={"progress": rng.random(rows).astype(np.float32)},
        sim_state=rng.normal(size=(rows, 6)),
        id=f"{writer}-{number}",
    )


def content(one: Episode) -> bytes:
    """All bytes of an episode."""
    image = one.images["front"]
    assert isinstance(image, Frames)
    assert one.sim_state is not None
    arrays = [one.action, *one.obs.values(), one.time, one.has_action, one.has_next, *one.truth.values(), one.sim_state]
    facts = [one.terminated, one.truncated, one.task, one.instruction, one.source, one.id]
    return json.dumps(facts).encode() + b"".join(a.tobytes() for a in (*arrays, image.pixels, image.index))


def reward_values(store: Store, name: str) -> np.ndarray:
    """A number that depends on name and row, NaN where there is no next row."""
    values = np.arange(len(store), dtype=np.float32) + sum(name.encode())
    return np.where(store.column("has_next"), values, np.nan).astype(np.float32)


def write(path: Path, writer: int, start: int, pipe: Connection, die_at: "int | re.Pattern[str]") -> None:
    """Append for ever and acknowledge what was committed; end at the `die_at`-th or matching file operation."""
    if die_at:
        _die_at(path, die_at)
    store = Store.open(path)
    pipe.send("ready")
    number = start
    while True:
        count = 1 + number % 3
        store.append([episode(writer, number + i) for i in range(count)])
        for i in range(count):
            pipe.send(f"{writer}-{number + i}")
        number += count
        if number % 4 == 0:
            name = f"r-{writer}-{number}"
            values = reward_values(store, name)
            store.add_reward(name, values, values, {"writer": writer})
            pipe.send(name)


def _die_at(path: Path, moment: int | re.Pattern[str]) -> None:
    """Kill this process just before its n-th operation on a file of the store, or the first that matches."""
    seen, inside = 0, str(path)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in _FILE_EVENTS or not str(arguments[0]).startswith(inside):
            return
        if event == "open" and isinstance(arguments[2], int) and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        seen += 1
        operation = f"{event} {' '.join(str(a) for a in arguments[:2])}"
        if seen == moment if isinstance(moment, int) else moment.search(operation):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@dataclass
class Writer:
    """A writing process and what it acknowledged."""

    process: ForkServerProcess
    pipe: Connection
    acknowledged: list[str] = field(default_factory=list)

    @staticmethod
    def start(path: Path, writer: int, start: int, die_at: int | re.Pattern[str] = 0) -> "Writer":
        here, there = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=write, args=(path, writer, start, there, die_at), daemon=True)
        process.start()
        there.close()
        return Writer(process, here)

    def listen(self, *, at_least: int = 0, timeout_s: float = 60.0) -> bool:
        """Take what was acknowledged; wait until it is `at_least` so many. False when the writer has ended."""
        deadline = time.monotonic() + timeout_s
        while self.pipe.poll(0) or len(self.acknowledged) < at_least:
            assert time.monotonic() < deadline, "the writer hangs"
            if not self.pipe.poll(0.05):
                continue
            try:
                message = self.pipe.recv()
            except EOFError:
                return False
            if message != "ready":
                self.acknowledged.append(message)
        return True

    def wait_ready(self) -> None:
        assert self.pipe.recv() == "ready"

    def kill(self) -> None:
        self.process.kill()
        self.process.join(30)
        self.listen_to_end()

    def listen_to_end(self) -> None:
        """What lay in the pipe when the process ended."""
        while True:
            try:
                message = self.pipe.recv()
            except EOFError:
                return
            if message != "ready":
                self.acknowledged.append(message)


@dataclass
class Harness:
    """One store under attack."""

    path: Path
    rng: np.random.Generator
    acknowledged: set[str] = field(default_factory=set)
    phases: Counter[str] = field(default_factory=Counter)
    """What the dead writer was doing, by what it left."""
    kills: int = 0
    checked: set[str] = field(default_factory=set)
    next_writer: int = 0

    def one_writer(self) -> None:
        """Kill a lone writer at a random moment, sometimes before its first append is through."""
        writer = self._start()
        writer.wait_ready()
        if self.rng.random() < 0.5:
            writer.listen(at_least=1)
        time.sleep(float(self.rng.uniform(0, 0.4)))
        self._killed(writer)
        self.check()

    def two_writers(self) -> None:
        """Kill one of two at a random moment; the other must not be held up by what is left."""
        pair = [self._start(), self._start()]
        for writer in pair:
            writer.wait_ready()
        time.sleep(float(self.rng.uniform(0, 0.6)))
        first, second = (pair[i] for i in self.rng.permutation(2))
        self._killed(first)
        before = len(second.acknowledged)
        assert second.listen(at_least=before + 2), "the survivor ended by itself"
        self._killed(second)
        self.check()

    def at_operation(self, moment: int | re.Pattern[str]) -> bool:
        """Kill at the n-th, or matching, file operation; False when an append and a reward were through before."""
        writer = self._start(die_at=moment)
        writer.listen_to_end()
        writer.process.join(30)
        assert writer.process.exitcode == -signal.SIGKILL
        self._killed(writer)
        self.check()
        return not any(name.startswith("r-") for name in writer.acknowledged)

    def _start(self, die_at: int | re.Pattern[str] = 0) -> Writer:
        self.next_writer += 1
        # number 3 appends one episode, then adds a reward
        return Writer.start(self.path, self.next_writer, 3 if die_at else int(self.rng.integers(0, 12)), die_at)

    def _killed(self, writer: Writer) -> None:
        writer.kill()
        self.kills += 1
        self.phases[self._phase(writer.process.pid or 0)] += 1
        self.acknowledged |= set(writer.acknowledged)

    def _phase(self, pid: int) -> str:
        """Tell from what a dead writer left where it was."""
        named = Store.open(self.path).snapshot.manifest.folders
        holder = owner_of(self.path / "lock")
        locked = holder is not None and holder.pid == pid
        for record in (self.path / "tmp").glob("*.json"):
            owner = owner_of(record)
            if owner is None or owner.pid != pid:
                continue
            if owner.part in named:
                return "committed, not yet tidied"
            if owner.part:
                return "renamed, not committed" if (self.path / owner.part).exists() else "about to rename"
            if record.with_suffix("").exists():
                return "writing under the lock" if locked else "writing"
        return "holding the lock" if locked else "between appends"

    def check(self) -> None:
        """Everything acknowledged is there, everything there is whole, and a new writer goes on."""
        store = Store.open(self.path)
        assert store.validate() == []
        rewards = store.rewards()
        missing = self.acknowledged - set(store.episodes.id) - set(rewards)
        assert not missing, f"lost: {missing}"
        for id in (i for i in store.episodes.id if i not in self.checked):
            writer, number = map(int, id.split("-"))
            assert content(store.episode(id)) == content(episode(writer, number)), id
            self.checked.add(id)
        for name in (n for n in rewards if n not in self.checked):
            values, column = reward_values(store, name), store.column(f"reward/{name}/mean")
            covered = ~np.isnan(column)
            assert covered.any()
            assert (column[covered] == values[covered]).all()
            self.checked.add(name)
        self.next_writer += 1
        own = f"{self.next_writer}-0"
        assert store.append([episode(self.next_writer, 0)]) == [own]
        self.acknowledged.add(own)
        left = [p.name for p in (self.path / "tmp").iterdir()] + [p.name for p in self.path.glob("lock")]
        assert not left, f"the next writer left {left}"
        listed = {Path(f).name for f in store.snapshot.manifest.folders}
        found = {p.name for p in (self.path / "parts").iterdir()} | {
            p.name for p in (self.path / "columns").glob("*/*") if p.is_dir()
        }
        assert found == listed, "an orphan stayed"


def random_kills(folder: Path, kills: int, seed: int) -> Iterator[Harness]:
    """Kill until there were that many; a fresh store now and then keeps checks short."""
    rng = np.random.default_rng(seed)
    done, batch = 0, 0
    while done < kills:
        harness = Harness(Store.create(folder / f"random-{batch}").path, rng)
        while done + harness.kills < kills and harness.kills < 15:
            harness.one_writer() if rng.random() < 0.5 else harness.two_writers()
        done, batch = done + harness.kills, batch + 1
        yield harness


def every_operation(folder: Path, seed: int, *, step: int = 1, first: int = 1) -> Iterator[Harness]:
    """Kill at the first, second, ... file operation, until an append gets through."""
    rng = np.random.default_rng(seed)
    count, batch, more = first, 0, True
    while more:
        harness = Harness(Store.create(folder / f"operation-{batch}").path, rng)
        while more and harness.kills < 15:
            more = harness.at_operation(count)
            count += step
        batch += 1
        yield harness


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="at random moments, at least")
    parser.add_argument("--step", type=int, default=1, help="kill at every n-th file operation of an append")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for title, runs in (
            ("random moments", random_kills(Path(folder), arguments.kills, arguments.seed)),
            ("each file operation", every_operation(Path(folder), arguments.seed, step=arguments.step)),
        ):
            total, checked, phases = 0, 0, Counter[str]()
            for harness in runs:
                total, checked = total + harness.kills, checked + len(harness.checked)
                phases += harness.phases
            print(f"{title}: {total} kills, {checked} episodes and rewards compared by content, none lost or torn")
            for phase, count in phases.most_common():
                print(f"  {count:4}  {phase}")


if __name__ == "__main__":
    _CONTEXT.set_forkserver_preload(["vlmrl.store"])
    main()
