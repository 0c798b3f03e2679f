"""The labeling job: asks a labeler, through the ledger, exactly those questions that have no answer yet.

Queries pass through in batches: their pictures are read, the ledger says which need an answer and reserves those,
workers ask. Of each query only its key stays, so that memory is next to constant in their number.
"""

import asyncio
import os
import time
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from vlmrl.annotate.budget import CUT, Budget, Limits, same
from vlmrl.annotate.compare import LastReplyError
from vlmrl.annotate.database import UnavailableError
from vlmrl.annotate.interrupt import first_interrupt
from vlmrl.annotate.keys import Keys
from vlmrl.annotate.ledger import Asked, Leased, Ledger
from vlmrl.annotate.question import question_key
from vlmrl.annotate.record import is_refusal
from vlmrl.annotate.tally import Counts, JobReport, Tally
from vlmrl.annotate.worker import new_owner
from vlmrl.errors import ConfigError, DataError, LabelerError
from vlmrl.types import Cost, Labeler, Query, Reply, Verdict

__all__ = ["Fill", "JobReport", "Metered", "Tally", "label", "run_job"]

T = TypeVar("T")

_OVERLAPS_S = 0.1
"""An answer that takes so long is written while the next question is asked."""
_POLL_S = 0.5
"""Between looks at questions which other workers hold, and at a ledger that cannot be used."""


@runtime_checkable
class Metered(Protocol):
    """What a labeler may say about itself; one that does not sees pictures, takes one call a question and is priced."""

    needs_pictures: bool
    calls_per_question: int
    priced: bool
    """Its replies carry what they cost in USD."""


@runtime_checkable
class Bounded(Protocol):
    """What a labeler may say about its price."""

    def at_most(self, cost: Cost) -> Cost:
        """Return what a question can cost whose pictures are like those of one that cost so much."""
        ...


@runtime_checkable
class Preparing(Protocol):
    """What a labeler may say who can do part of the work of a question before its turn."""

    def prepare(self, query: Query) -> None:
        """Do it; called on another thread than `ask`, of the same query later."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """What a labeler may say whose model can change behind its name."""

    def remember(self, served: str) -> None:
        """Learn which model gave answers to other questions of this job in an earlier run."""
        ...


@runtime_checkable
class Guessing(Protocol):
    """What a labeler may say whose price is known before it is paid."""

    def guess(self, query: Query) -> Cost:
        """Return what a question might cost, answers at their longest, without asking it."""
        ...


@runtime_checkable
class Retrying(Protocol):
    """What a labeler may say that asks a server again by itself."""

    def retry_while(self, allowed: Callable[[Cost], bool]) -> None:
        """Give a question up, rather than try once more, when tries that may have cost so much leave no room."""
        ...


@dataclass(frozen=True)
class _Item:
    """A question on its way to a worker."""

    key: str
    query: Query
    failed: bool
    """Whether it failed before."""
    prepared: asyncio.Future[None] | None
    guess: Callable[[], Cost] | None


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

    `pictures` fills queries that come without. Ctrl-C or SIGTERM lets the questions in flight finish and returns; a
    second one aborts. Whatever was answered is in the ledger, also when an error is raised.

    Raises:
        LabelerError: if the labeler cannot go on.
        DataError: if the ledger cannot be written for longer than the limits allow.
    """

    async def main() -> JobReport:
        job = _Job(labeler, ledger, limits or Limits(), pictures, progress)
        with first_interrupt(job.interrupt):
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


def _silent(tally: Tally) -> None:
    del tally


class _Job:
    """One run: scan the queries, feed what is unanswered to the workers, record what they bring."""

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
        self._budget = Budget(
            limits,
            calls_per_question=metered.calls_per_question if metered else 1,
            at_most=labeler.at_most if isinstance(labeler, Bounded) else same,
        )
        if isinstance(labeler, Retrying):
            labeler.retry_while(self._budget.may_retry)
        self._owner = new_owner()
        self._database = ThreadPoolExecutor(1, "ledger")
        self._reader = ThreadPoolExecutor(1, "pictures")
        self._outbox: list[tuple[str, Reply]] = []
        self._commit = asyncio.Lock()
        self._encoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "encoders")
        self._ready: asyncio.Queue[_Item | None] = asyncio.Queue(limits.concurrency)
        self._remembers = labeler if isinstance(labeler, Remembering) else None
        self._keys, self._seen = Keys(), set[int]()
        self._counts = Counts()
        self._failures_in_a_row = 0
        self._error: Exception | None = None
        self._stopping: asyncio.Task[None] | None = None

    def interrupt(self) -> None:
        """Let what is in flight finish, then end."""
        self._stopping = asyncio.get_running_loop().create_task(self._budget.stop("interrupt"))

    async def run(self, queries: Sequence[Query]) -> JobReport:
        """Run to the end, a limit or an error; leave no lease, thread or reply behind."""
        self._counts.number["total"] = len(queries)
        self._report()
        try:
            await self._work_through(queries)
        finally:
            await self._clean_up()
        if self._error is not None:
            raise self._error
        self._keys.fill(len(queries))
        found = await asyncio.to_thread(self._ledger.verdicts, self._keys)
        return JobReport(
            **vars(self._tally()), verdicts={v.value: found[v.value] for v in Verdict},
            stopped_by=self._budget.stopped_by, labeler=self._labeler.name, keys=self._keys,
        )  # fmt: skip

    async def _work_through(self, queries: Sequence[Query]) -> None:
        heartbeat = asyncio.create_task(self._beat())
        count = max(1, min(self._limits.concurrency, len(queries)))
        tasks = [asyncio.create_task(t) for t in (self._feed(queries, count), *(self._work() for _ in range(count)))]
        guard = asyncio.create_task(self._guard(tasks))
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in (heartbeat, guard, *tasks):
                task.cancel()
            await asyncio.gather(heartbeat, guard, *tasks, return_exceptions=True)

    async def _guard(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Cut what is in flight when the job was stopped and its grace is over."""
        await self._budget.cut()
        await asyncio.sleep(self._limits.grace_s)
        for task in tasks:
            task.cancel()

    async def _feed(self, queries: Sequence[Query], workers: int) -> None:
        """Offer all queries once, then those that other workers hold until these are answered or free."""
        held = array("q")
        try:
            size = self._limits.batch
            for start in range(0, len(queries), size):
                if self._budget.stopped_by in CUT:
                    break
                held.extend(await self._offer(queries, range(start, min(start + size, len(queries)))))
            while held and not self._budget.stopped_by:
                await asyncio.sleep(_POLL_S)
                again, held = held, array("q")
                for start in range(0, len(again), size):
                    held.extend(await self._offer(queries, again[start : start + size]))
        except Exception as e:  # raised again when what is in flight has been recorded
            await self._fail(e)
        for _ in range(workers):
            await self._ready.put(None)

    async def _offer(self, queries: Sequence[Query], places: Sequence[int]) -> list[int]:
        """Put some unanswered questions, with pictures, where the workers wait; return the places of those held."""
        first = len(self._keys) <= places[0]
        some = [queries[i] for i in places]
        asked = await self._in(self._reader, self._describe, some)
        if first:
            self._keys.extend(a.key for a in asked)
        fresh = {a.key: (i, a.query) for i, a in zip(places, asked, strict=True) if not first or self._is_new(a.key)}
        leased = await self._use_ledger(self._lease, asked if first else [], list(fresh))
        if first and leased.answered and self._remembers is not None:
            served = await self._use_ledger(self._ledger.last_served, leased.answered)
            self._remembers.remember(served)
            self._remembers = None if served else self._remembers
        self._counts.number["cached" if first else "elsewhere"] += len(leased.answered)
        self._counts.number["given_up"] += len(leased.given_up)
        if leased.answered or leased.given_up:
            self._report()
        for key in leased.granted:
            await self._ready.put(self._item(key, fresh[key][1], failed=key in leased.failed))
        settled = {*leased.granted, *leased.answered, *leased.given_up}
        return [i for key, (i, _) in fresh.items() if key not in settled and not self._budget.stopped_by]

    def _item(self, key: str, query: Query, *, failed: bool) -> _Item:
        """A question with its pictures encoded before its turn, on a thread of their own."""
        guess = self._labeler.guess if isinstance(self._labeler, Guessing) else None
        prepared = None
        if isinstance(self._labeler, Preparing) and not self._budget.stopped_by:
            prepared = asyncio.get_running_loop().run_in_executor(self._encoders, self._labeler.prepare, query)
        return _Item(key, query, failed, prepared, (lambda: guess(query)) if guess else None)

    def _is_new(self, key: str) -> bool:
        """Say whether a question comes for the first time in this run; half of a digest tells them apart."""
        mark, before = int(key[:16], 16), len(self._seen)
        self._seen.add(mark)
        self._counts.number["total"] -= len(self._seen) == before
        return len(self._seen) > before

    def _describe(self, queries: Sequence[Query]) -> list[Asked]:
        filled = queries if self._fill is None or all(q.images for q in queries) else self._fill(queries)
        contents = [self._labeler.content(query) for query in filled]
        return [Asked(question_key(c), c, q) for c, q in zip(contents, filled, strict=True)]

    def _lease(self, asked: Sequence[Asked], keys: Sequence[str]) -> Leased:
        """Write questions down and reserve those among `keys` that need an answer, unless the budget is spent."""
        if asked:
            self._ledger.register(asked, labeler=self._labeler.name)
        limits = self._limits
        given_up: dict[str, Any] = {"attempts": limits.attempts, "retry_refused": limits.retry_refused}
        if self._budget.stopped_by:
            return self._ledger.settled(keys, **given_up)
        return self._ledger.lease(keys, owner=self._owner, seconds=limits.lease_s, **given_up)

    async def _work(self) -> None:
        """Ask one question at a time, the reply before committed meanwhile; once stopped, only empty the queue."""
        kept: asyncio.Task[None] | None = None
        try:
            while (item := await self._ready.get()) is not None:
                try:
                    if item.prepared:
                        await item.prepared
                    if not await self._budget.admit(item.guess):
                        continue
                    begun = time.monotonic()
                    reply = await self._ask(item.query)
                    quick = time.monotonic() - begun < _OVERLAPS_S
                except LastReplyError as e:
                    self._outbox.append((item.key, e.reply))  # committed with the next, or at the end
                    await self._fail(e)
                except Exception as e:  # raised again when what is in flight has been recorded
                    await self._fail(e)
                else:
                    entry = (item.key, reply)
                    self._outbox.append(entry)  # before anything else may end this worker: it is paid
                    self._counts.reply(reply)
                    self._report()
                    if kept:
                        await kept
                    kept = asyncio.create_task(self._keep(entry, failed_before=item.failed))
                    if quick or reply.error or self._counts.trouble:
                        # Nothing more is paid for where that may end the job. And where answers come as fast as they
                        # are written, asking meanwhile gains nothing, and a kill would lose them.
                        await kept
        except asyncio.CancelledError:
            if kept:
                kept.cancel()  # what waits is committed at the end
            raise
        if kept:
            await kept

    async def _keep(self, entry: tuple[str, Reply], *, failed_before: bool) -> None:
        try:
            await self._record(entry, failed_before=failed_before)
        except Exception as e:  # raised again when what is in flight has been recorded
            await self._fail(e)

    async def _ask(self, query: Query) -> Reply:
        cost = Cost()
        try:
            reply = await self._labeler.ask(query)
            cost = reply.cost
            return reply
        except LastReplyError as e:
            cost = e.reply.cost
            raise
        except asyncio.CancelledError:
            self._counts.number["cut"] += 1
            raise
        finally:
            await self._budget.settle(cost)

    async def _record(self, entry: tuple[str, Reply], *, failed_before: bool) -> None:
        """Commit a waiting reply together with all others; return when it is in the ledger.

        A question that fails again is no sign that the labeler is ill: those that do come first, one after another, in
        every later run. Nor is an answer that is held back.
        """
        reply = entry[1]
        async with self._commit:
            if any(waiting is entry for waiting in self._outbox):
                await self._use_ledger(self._empty_outbox)
        refused = is_refusal(reply.error)
        if not (reply.error and failed_before):
            ill = reply.error and not (refused and reply.cost.calls)
            self._failures_in_a_row = self._failures_in_a_row + 1 if ill else 0
        if self._failures_in_a_row >= self._limits.failures:
            raise LabelerError(
                f"{self._labeler.name} failed {self._failures_in_a_row} questions in a row; the last: {reply.error}. "
                "What was answered is kept; run the same command again to ask the rest"
                + (", with limits.retry_refused=true those that were refused too" if refused else "")
            )

    def _empty_outbox(self) -> None:
        """Commit all replies that wait; on the ledger's thread, so that cancelling nobody can part the two steps."""
        replies = list(self._outbox)
        self._ledger.record(replies, owner=self._owner)
        del self._outbox[: len(replies)]

    async def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        await self._budget.stop("error")

    async def _beat(self) -> None:
        """Keep the leases alive while this process is."""
        while True:
            await asyncio.sleep(self._limits.lease_s / 3)
            with suppress(DataError):  # whoever has something to record will say so; the next beat may go through
                await self._use_ledger(self._ledger.renew, self._owner, seconds=self._limits.lease_s)

    async def _use_ledger(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call the ledger, again and again while it is locked, full or away, for as long as the limits allow."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.patience_s
        while True:
            try:
                result = await self._in(self._database, function, *args, **kwargs)
            except UnavailableError as e:
                if loop.time() >= deadline or self._error is not None:
                    raise
                self._counts.trouble = str(e)
                self._report()
                await asyncio.sleep(min(_POLL_S, max(0.0, deadline - loop.time())))
            else:
                self._counts.trouble = ""
                return result

    async def _clean_up(self) -> None:
        """Commit what came last, give up leases, end threads, close the labeler."""
        try:
            await self._in(self._database, self._empty_outbox)
            await self._in(self._database, self._ledger.release, self._owner)
        except UnavailableError as e:
            lost = f"{len(self._outbox)} replies are lost and will be asked again; " if self._outbox else ""
            self._error = DataError(
                f"{e}; {lost}what was committed before is safe: mend it, then run the same command again"
            )
        finally:
            self._database.shutdown()
            self._reader.shutdown()
            self._encoders.shutdown(cancel_futures=True)
            await self._labeler.close()

    def _report(self) -> None:
        self._progress(self._tally())

    def _tally(self) -> Tally:
        return self._counts.tally(self._budget.spent, self._budget.seconds)

    @staticmethod
    async def _in(pool: ThreadPoolExecutor, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*args, **kwargs))
