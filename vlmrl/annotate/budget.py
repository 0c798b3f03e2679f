"""What a labeling job may spend, checked before each question."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from vlmrl.annotate.leases import check as check_lease
from vlmrl.errors import ConfigError
from vlmrl.types import Cost


@dataclass(frozen=True)
class Limits:
    """Where a labeling job stops; None is no limit."""

    concurrency: int = 8
    """Questions in flight at a time: at most these, and those whose answers are just being written, are asked twice if
    the process is killed."""
    max_calls: int | None = None
    """Calls to the model; a two-stage question takes two."""
    max_tokens: int | None = None
    """Of prompts and answers together."""
    max_cost_usd: float | None = None
    max_seconds: float | None = None
    attempts: int = 3
    """Replies that cannot be read after which a question is given up, over all runs."""
    retry_refused: bool = False
    """Whether questions that were given up in earlier runs, refused by the labeler or unreadable too often, are asked
    (and paid) once more."""
    failures: int = 5
    """Failed questions in a row after which the job gives up."""
    lease_s: float = 60.0
    """How long other machines wait before they take over a dead worker's questions; the same machine does at once."""
    batch: int = 64
    """Queries whose pictures are held at a time, besides those in flight."""
    grace_s: float = 60.0
    """How long questions in flight may take to finish after Ctrl-C, SIGTERM or max_seconds; the rest is cut."""
    patience_s: float = 600.0
    """How long replies wait in memory for a ledger that cannot be written: locked, disk full, server away."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts", "failures", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"limits: {name} is {getattr(self, name)}; wanted at least 1")
        for name in ("max_calls", "max_tokens", "max_cost_usd", "max_seconds", "grace_s", "patience_s"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"limits: {name} is {value}; wanted at least 0, or null for no limit")
        check_lease(self.lease_s)


CUT = ("interrupt", "max_seconds", "error")
"""Reasons for which nothing more is looked at, and what is in flight has only so long."""


def same(cost: Cost) -> Cost:
    """Return a cost as it is: what a labeler that says nothing else is taken to cost at most."""
    return cost


class Budget:
    """Admits questions while the dearest outcome of everything in flight stays within the limits.

    A question's calls are known beforehand; tries that failed and may have been billed are repeated only while there is
    room (`may_retry`). Its tokens and price are taken to be the dearest seen so far, raised by
    `at_most` to what such a question can cost; the first is asked alone to learn it. So a cap can be passed only by as
    much as questions in flight are dearer than that: longer prompts than any before, or a server that ignores limits.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        calls_per_question: int,
        at_most: Callable[[Cost], Cost] = same,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits, self._calls_each, self._at_most, self._clock = limits, calls_per_question, at_most, clock
        self._start, self._in_flight = clock(), 0
        self._dearest: Cost | None = None
        self._change = asyncio.Condition()
        self.spent = Cost()
        self.stopped_by = ""

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return self._clock() - self._start

    async def stop(self, reason: str) -> None:
        """Admit nothing any more; the first reason stays, unless somebody cannot wait any longer."""
        async with self._change:
            if not self.stopped_by or (reason in CUT and self.stopped_by not in CUT):
                self.stopped_by = reason
            self._change.notify_all()

    async def cut(self) -> None:
        """Wait until what is in flight has only so long, at the latest when the time is up."""
        limit = self._limits.max_seconds
        try:
            async with asyncio.timeout(None if limit is None else max(0.0, limit - self.seconds)), self._change:
                while self.stopped_by not in CUT:
                    await self._change.wait()
        except TimeoutError:
            await self.stop("max_seconds")

    async def admit(self, guess: Callable[[], Cost] | None = None) -> bool:
        """Wait until one more question fits, and say whether it ever will; each admission needs one `settle`.

        While nothing is known, `guess` says what the question may cost.
        """
        async with self._change:
            while not self.stopped_by:
                guessed = guess() if guess and self._capped and self._dearest is None else Cost()
                obstacle = self._obstacle(guessed)
                if not obstacle:
                    self._in_flight += 1
                    return True
                if obstacle == "max_seconds" or not self._in_flight:
                    self.stopped_by = obstacle
                    self._change.notify_all()
                    return False
                await self._change.wait()
            return False

    async def settle(self, cost: Cost) -> None:
        """Count what an admitted question took."""
        async with self._change:
            self._in_flight -= 1
            self.spent += cost
            if cost.calls:
                self._dearest = _dearer(self._dearest or Cost(), self._at_most(cost))
            self._change.notify_all()

    @property
    def _capped(self) -> bool:
        return self._limits.max_tokens is not None or self._limits.max_cost_usd is not None

    def may_retry(self, cost: Cost) -> bool:
        """Whether a question in flight may be tried again after tries that may have cost so much."""
        limits, spent, dearest = self._limits, self.spent + cost, self._dearest or Cost()
        return self.stopped_by not in CUT and not any(
            limit is not None and used + self._in_flight * each > limit
            for limit, used, each in (
                (limits.max_calls, spent.calls, self._calls_each),
                (limits.max_tokens, _tokens(spent), _tokens(dearest)),
                (limits.max_cost_usd, spent.usd, dearest.usd),
            )
        )

    def _obstacle(self, guessed: Cost) -> str:
        """Name the limit that one more question might pass, or nothing."""
        limits, outstanding, spent = self._limits, self._in_flight + 1, self.spent
        if limits.max_seconds is not None and self.seconds >= limits.max_seconds:
            return "max_seconds"
        if limits.max_calls is not None and spent.calls + outstanding * self._calls_each > limits.max_calls:
            return "max_calls"
        dearest = self._dearest or guessed
        for name, limit, used, each in (
            ("max_tokens", limits.max_tokens, _tokens(spent), _tokens(dearest)),
            ("max_cost_usd", limits.max_cost_usd, spent.usd, dearest.usd),
        ):
            unknown = self._dearest is None and self._in_flight > 0
            if limit is not None and (unknown or used >= limit or used + outstanding * each > limit):
                return name
        return ""


def _tokens(cost: Cost) -> int:
    return cost.prompt_tokens + cost.completion_tokens


def _dearer(a: Cost, b: Cost) -> Cost:
    return Cost(
        prompt_tokens=max(a.prompt_tokens, b.prompt_tokens),
        completion_tokens=max(a.completion_tokens, b.completion_tokens),
        usd=max(a.usd, b.usd),
    )
