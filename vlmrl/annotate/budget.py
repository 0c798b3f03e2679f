"""What a labeling job may spend, checked before each question."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from vlmrl.errors import ConfigError
from vlmrl.types import Cost


@dataclass(frozen=True)
class Limits:
    """Where a labeling job stops; None is no limit."""

    concurrency: int = 8
    """Questions in flight at a time: at most this many are asked twice if the process is killed."""
    max_calls: int | None = None
    """Calls to the model; a two-stage question takes two."""
    max_cost_usd: float | None = None
    max_seconds: float | None = None
    attempts: int = 3
    """Replies that cannot be read after which a question is given up, over all runs."""
    failures: int = 5
    """Failed questions in a row after which the job gives up."""
    lease_s: float = 60.0
    """How long other machines wait before they take over a dead worker's questions; the same machine does at once."""
    batch: int = 64
    """Queries whose pictures are held at a time, besides those in flight."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts", "failures", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"limits: {name} is {getattr(self, name)}; wanted at least 1")
        for name in ("max_calls", "max_cost_usd", "max_seconds"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"limits: {name} is {value}; wanted at least 0, or null for no limit")


class Budget:
    """Admits questions while the dearest outcome of everything in flight stays within the limits.

    A question's calls are known beforehand. Its price is taken to be the dearest seen so far, and the first is asked
    alone to learn it: the cap can be passed only by as much as questions in flight are dearer than any before.
    """

    def __init__(self, limits: Limits, *, calls_per_question: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._calls_each, self._clock = limits, calls_per_question, clock
        self._start, self._in_flight, self._dearest = clock(), 0, 0.0
        self._change = asyncio.Condition()
        self.spent = Cost()
        self.stopped_by = ""

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return self._clock() - self._start

    async def stop(self, reason: str) -> None:
        """Admit nothing any more; the first reason stays."""
        async with self._change:
            self.stopped_by = self.stopped_by or reason
            self._change.notify_all()

    async def admit(self) -> bool:
        """Wait until one more question fits, and say whether it ever will; each admission needs one `settle`."""
        async with self._change:
            while not self.stopped_by:
                obstacle = self._obstacle()
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
            self._dearest = max(self._dearest, cost.usd)
            self._change.notify_all()

    def _obstacle(self) -> str:
        """Name the limit that one more question might pass, or nothing."""
        limits, outstanding = self._limits, self._in_flight + 1
        if limits.max_seconds is not None and self.seconds >= limits.max_seconds:
            return "max_seconds"
        if limits.max_calls is not None and self.spent.calls + outstanding * self._calls_each > limits.max_calls:
            return "max_calls"
        if limits.max_cost_usd is not None:
            unknown_price = self._in_flight > 0 and self._dearest == 0
            spent_up = self.spent.usd >= limits.max_cost_usd
            if unknown_price or spent_up or self.spent.usd + outstanding * self._dearest > limits.max_cost_usd:
                return "max_cost_usd"
        return ""
