"""Several workers on one queue, killed with -9 at random and started again until every question has its answer.

`python tests/kill_workers.py LEDGER` forks workers of one labeling job, kills one of them every now and then, starts
another in its place, and counts what the ledger holds at the end. Every call to the labeler is written to a file
before it is answered, so that what was paid twice is known too. With `--machines` each worker takes itself for one of
another machine: then its death is only known by its lease, which ends with time.
"""

import argparse
import json
import os
import random
import signal
import socket
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from annotate_fakes import FakeLabeler, FakeStore
from sqlalchemy import func, select

from vlmrl.annotate import Ledger, Limits, Pictures, job, run_job, sample_pairs, schema


@dataclass
class Figures:
    questions: int
    killed: int
    answered: int
    answered_twice: int
    asked_twice: int
    """Calls beyond each question's first; the answer to the first was not in the ledger when its worker died."""
    leases_left: int
    seconds: float


class Paid(FakeLabeler):
    """Writes down every question before it is answered, as a bill would."""

    def __init__(self, bill, delay_s):
        super().__init__(delay_s=delay_s)
        self.bill = bill

    async def ask(self, query):
        os.write(self.bill, f"{query.items}\n".encode())
        return await super().ask(query)


def run(ledger, *, questions, workers, kills, seed=0, concurrency=2, machines=False, lease_s=60.0, delay_s=0.01):
    """Return the figures of one queue; kills come at random places of its course."""
    job._POLL_S = 0.02
    store, generator = FakeStore(rows=200), random.Random(seed)
    queries = sample_pairs(store, "front", count=questions, instruction="x", generator=np.random.default_rng(seed))
    Ledger(ledger).close()
    with tempfile.NamedTemporaryFile() as bill:
        handle = os.open(bill.name, os.O_WRONLY | os.O_APPEND)

        def work(number):
            if machines:
                socket.gethostname = lambda: f"machine-{number}"
            with Ledger(ledger) as book:
                labeler, limits = Paid(handle, delay_s), Limits(concurrency=concurrency, batch=8, lease_s=lease_s)
                run_job(queries, labeler, ledger=book, limits=limits, pictures=Pictures(store))

        begin, started = time.monotonic(), 0
        alive = set()
        for started in range(workers):
            alive.add(forked(work, started))
        for asked in sorted(generator.sample(range(1, questions), kills)):
            while paid(bill.name) < asked and alive:
                alive -= ended()
                time.sleep(0.001)
            if not alive:
                break
            victim = generator.choice(sorted(alive))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            started += 1
            alive = alive - {victim} | {forked(work, started)}
        while alive:
            alive -= {os.wait()[0]}
        return count(ledger, questions, started + 1 - workers, Path(bill.name), time.monotonic() - begin)


def forked(work, number):
    """Run `work` in a process of its own and return that one's number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work(number)
    finally:
        os._exit(0)


def ended():
    pid, _ = os.waitpid(-1, os.WNOHANG)
    return {pid}


def paid(bill):
    return Path(bill).read_bytes().count(b"\n")


def count(ledger, questions, killed, bill, seconds):
    answers = select(func.count()).where(schema.reply.c.answer_type != "none").group_by(schema.reply.c.question)
    with Ledger(ledger) as book, book.transaction(writes=False) as connection:
        each = list(connection.execute(answers).scalars())
        leases = connection.execute(select(func.count()).select_from(schema.lease)).scalar_one()
    calls = Counter(bill.read_text().splitlines())
    return Figures(
        questions=questions,
        killed=killed,
        answered=len(each),
        answered_twice=sum(n > 1 for n in each),
        asked_twice=sum(calls.values()) - len(calls),
        leases_left=leases,
        seconds=round(seconds, 2),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("ledger", help="a file, or the URL of an empty database")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--machines", action="store_true")
    parser.add_argument("--lease_s", type=float, default=60.0)
    parser.add_argument("--delay_s", type=float, default=0.01)
    print(json.dumps(asdict(run(**vars(parser.parse_args())))))


if __name__ == "__main__":
    main()
