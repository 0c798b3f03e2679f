"""The labeling job: asks a labeler, through the ledger, exactly those questions that have no answer yet."""

import asyncio
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from vlmrl.annotate.budget import Budget, Limits
from vlmrl.annotate.database import chunks, new_owner
from vlmrl.annotate.ledger import Asked, Ledger
from vlmrl.annotate.question import question_key
from vlmrl.errors import ConfigError, LabelerError
from vlmrl.types import Cost, Labeler, Query, Reply, Verdict

T = TypeVar("T")

_POLL_S = 0.5
"""Between looks at questions which other workers hold."""


@runtime_checkable
class Metered(Protocol):
    """What a labeler may say about itself; one that does not sees pictures, takes one call a question and is priced."""

    needs_pictures: bool
    calls_per_question: int
    priced: bool
    """Its replies carry what they cost in USD."""


@dataclass(frozen=True)
class Tally:
    """How far a job is, counted in different questions."""

    total: int = 0
    cached: int = 0
    """Answered before this run."""
    asked: int = 0
    """Replies received in this run."""
    unreadable: int = 0
    """Of those, replies that could not be read."""
    failed: int = 0
    """Of those, calls that gave no reply."""
    elsewhere: int = 0
    """Answered by other workers meanwhile."""
    given_up: int = 0
    """Not asked again: too many replies could not be read."""
    cost: Cost = field(default_factory=Cost)
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """Questions that need nothing more in this run."""
        return self.cached + self.asked + self.elsewhere + self.given_up


@dataclass(frozen=True)
class JobReport(Tally):
    """What a labeling job did."""

    verdicts: Mapping[str, int] = field(default_factory=dict[str, int])
    """How often each verdict stands, over all queries that have an answer."""
    stopped_by: str = ""
    """max_calls, max_cost_usd, max_seconds, interrupt, or empty when every question was asked."""
    labeler: str = ""
    keys: tuple[str, ...] = field(default=(), repr=False)
    """The ledger's key of each query, in the queries' order."""


Fill = Callable[[Sequence[Query]], list[Query]]


def run_job(
    queries: Sequence[Query],
    labeler: Labeler,
    *,
    ledger: Ledger,
    limits: Limits | None = None,
    pictures: Fill | None = None,
    progress: Callable[[Tally], None] | None = None,
) -> JobReport:
    """Ask what is unanswered and return what was done; the labeler is closed afterwards.

    `pictures` fills queries that come without. Ctrl-C lets the questions in flight finish and returns; a second one
    aborts. Whatever was answered is in the ledger, also when an error is raised.

    Raises:
        LabelerError: if the labeler cannot go on.
    """

    async def main() -> JobReport:
        job = _Job(labeler, ledger, limits or Limits(), pictures, progress)
        with _first_interrupt(job.interrupt):
            return await job.run(queries)

    return asyncio.run(main())


async def label(
    queries: Sequence[Query],
    labeler: Labeler,
    *,
    ledger: Ledger,
    limits: Limits | None = None,
    pictures: Fill | None = None,
    progress: Callable[[Tally], None] | None = None,
) -> JobReport:
    """Do the same as `run_job` within a running event loop; cancelling it is safe."""
    return await _Job(labeler, ledger, limits or Limits(), pictures, progress).run(queries)


@contextmanager
def _first_interrupt(act: Callable[[], None]) -> Generator[None, None, None]:
    """Call `act` at the first Ctrl-C; later ones do what they always do."""
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def once() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
        act()

    loop.add_signal_handler(signal.SIGINT, once)
    try:
        yield
    finally:
        if loop.remove_signal_handler(signal.SIGINT):
            signal.signal(signal.SIGINT, before)


def _silent(tally: Tally) -> None:
    del tally


class _Job:
    """One run: scan what is unanswered, feed it to the workers, record what they bring."""

    def __init__(
        self,
        labeler: Labeler,
        ledger: Ledger,
        limits: Limits,
        pictures: Fill | None,
        progress: Callable[[Tally], None] | None,
    ) -> None:
        self._labeler, self._ledger, self._limits = labeler, ledger, limits
        metered = labeler if isinstance(labeler, Metered) else None
        if limits.max_cost_usd is not None and metered and not metered.priced:
            raise ConfigError(
                f"max_cost_usd is {limits.max_cost_usd}, but {labeler.name} has no prices: "
                "set its prices per million tokens, or use max_calls"
            )
        self._fill = pictures if metered is None or metered.needs_pictures else None
        self._progress = progress or _silent
        self._budget = Budget(limits, calls_per_question=metered.calls_per_question if metered else 1)
        self._owner = new_owner()
        self._database = ThreadPoolExecutor(1, "ledger")
        self._reader = ThreadPoolExecutor(1, "pictures")
        self._outbox: list[tuple[str, Reply]] = []
        self._commit = asyncio.Lock()
        self._ready: asyncio.Queue[tuple[str, Query] | None] = asyncio.Queue(limits.concurrency)
        self._counts: Counter[str] = Counter()
        self._failures_in_a_row = 0
        self._error: Exception | None = None
        self._stopping: asyncio.Task[None] | None = None

    def interrupt(self) -> None:
        """Let what is in flight finish, then end."""
        self._stopping = asyncio.get_running_loop().create_task(self._budget.stop("interrupt"))

    async def run(self, queries: Sequence[Query]) -> JobReport:
        """Run to the end, a limit or an error; leave no lease, thread or reply behind."""
        try:
            keys = await self._scan(queries)
            pending = await self._pending(keys, queries)
            await self._ask_all(pending)
        finally:
            await self._clean_up()
        verdicts = await asyncio.to_thread(self._verdicts, keys)
        return JobReport(
            **vars(self._tally()), verdicts=verdicts, stopped_by=self._budget.stopped_by,
            labeler=self._labeler.name, keys=keys,
        )  # fmt: skip

    async def _scan(self, queries: Sequence[Query]) -> tuple[str, ...]:
        """Return each query's key and register it; pictures are held a batch at a time."""
        keys: list[str] = []
        for some in chunks(queries, self._limits.batch):
            asked = await self._in(self._reader, self._describe, some)
            await self._in(self._database, self._ledger.register, asked, labeler=self._labeler.name)
            keys += [a.key for a in asked]
            if self._budget.stopped_by:
                raise LabelerError(f"interrupted while reading pictures ({len(keys)} of {len(queries)} queries)")
        return tuple(keys)

    def _describe(self, queries: Sequence[Query]) -> list[Asked]:
        contents = [self._labeler.content(query) for query in self._with_pictures(queries)]
        return [Asked(question_key(c), c, q) for c, q in zip(contents, queries, strict=True)]

    def _with_pictures(self, queries: Sequence[Query]) -> Sequence[Query]:
        return queries if self._fill is None or all(q.images for q in queries) else self._fill(queries)

    async def _pending(self, keys: Sequence[str], queries: Sequence[Query]) -> dict[str, Query]:
        """Return the questions to ask, in the order of the queries."""
        answered = await self._in(self._database, self._ledger.answers, keys)
        unreadable = await self._in(self._database, self._ledger.unreadable, keys)
        unique = dict(zip(reversed(keys), reversed(queries), strict=True))
        self._counts["total"], self._counts["cached"] = len(unique), len(answered)
        given_up = {k for k, n in unreadable.items() if n >= self._limits.attempts and k not in answered}
        self._counts["given_up"] = len(given_up)
        return {k: unique[k] for k in dict.fromkeys(keys) if k not in answered and k not in given_up}

    async def _ask_all(self, pending: Mapping[str, Query]) -> None:
        self._progress(self._tally())
        if not pending:
            return
        heartbeat = asyncio.create_task(self._beat())
        workers = [self._work() for _ in range(min(self._limits.concurrency, len(pending)))]
        tasks = [asyncio.create_task(t) for t in (self._feed(pending, workers=len(workers)), *workers)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in (heartbeat, *tasks):
                task.cancel()
            await asyncio.gather(heartbeat, *tasks, return_exceptions=True)
        if self._error is not None:
            raise self._error

    async def _feed(self, pending: Mapping[str, Query], *, workers: int) -> None:
        """Lease questions batch by batch and put them, with pictures, where the workers wait."""
        waiting, held = deque(pending), deque[str]()
        try:
            while (waiting or held) and not self._budget.stopped_by:
                if not waiting:
                    await asyncio.sleep(_POLL_S)
                    waiting, held = held, waiting
                some = [waiting.popleft() for _ in range(min(self._limits.batch, len(waiting)))]
                leased = await self._in(
                    self._database, self._ledger.lease, some, owner=self._owner, seconds=self._limits.lease_s
                )
                self._counts["elsewhere"] += len(leased.answered)
                held.extend(k for k in some if k not in {*leased.granted, *leased.answered})
                granted = await self._in(self._reader, self._with_pictures, [pending[k] for k in leased.granted])
                for pair in zip(leased.granted, granted, strict=True):
                    await self._ready.put(pair)
        except Exception as e:  # raised again when what is in flight has been recorded
            await self._fail(e)
        for _ in range(workers):
            await self._ready.put(None)

    async def _work(self) -> None:
        """Ask one question at a time, its reply committed before the next; once stopped, only empty the queue."""
        while (item := await self._ready.get()) is not None:
            key, query = item
            if not await self._budget.admit():
                continue
            try:
                await self._record(key, await self._ask(query))
            except Exception as e:  # raised again when what else is in flight has been recorded
                await self._fail(e)

    async def _ask(self, query: Query) -> Reply:
        cost = Cost()
        try:
            reply = await self._labeler.ask(query)
            cost = reply.cost
            return reply
        finally:
            await self._budget.settle(cost)

    async def _record(self, key: str, reply: Reply) -> None:
        """Commit a reply together with all others that wait; return when it is in the ledger."""
        entry = (key, reply)
        self._outbox.append(entry)
        async with self._commit:
            if any(waiting is entry for waiting in self._outbox):
                replies, self._outbox = self._outbox, []
                await self._in(self._database, self._ledger.record, replies, owner=self._owner)
        self._counts["asked"] += 1
        self._counts["failed"] += bool(reply.error)
        self._counts["unreadable"] += reply.answer is None and not reply.error
        self._failures_in_a_row = self._failures_in_a_row + 1 if reply.error else 0
        self._progress(self._tally())
        if self._failures_in_a_row >= self._limits.failures:
            raise LabelerError(
                f"{self._labeler.name} failed {self._failures_in_a_row} questions in a row; the last: {reply.error}. "
                "What was answered is kept; run the same command again to ask the rest"
            )

    async def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        await self._budget.stop("error")

    async def _beat(self) -> None:
        """Keep the leases alive while this process is."""
        while True:
            await asyncio.sleep(self._limits.lease_s / 3)
            await self._in(self._database, self._ledger.renew, self._owner, seconds=self._limits.lease_s)

    async def _clean_up(self) -> None:
        """Commit what came last, give up leases, end threads, close the labeler."""
        try:
            if self._outbox:
                await self._in(self._database, self._ledger.record, self._outbox, owner=self._owner)
            await self._in(self._database, self._ledger.release, self._owner)
            await self._labeler.close()
        finally:
            self._database.shutdown()
            self._reader.shutdown()

    def _verdicts(self, keys: Sequence[str]) -> dict[str, int]:
        answers = self._ledger.answers(keys)
        found = Counter(a.value for k in keys if k in answers and isinstance(a := answers[k].answer, Verdict))
        return {v.value: found[v.value] for v in Verdict}

    def _tally(self) -> Tally:
        return Tally(**self._counts, cost=self._budget.spent, seconds=self._budget.seconds)

    @staticmethod
    async def _in(pool: ThreadPoolExecutor, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*args, **kwargs))
