"""Servers in rotation: who is asked next, how fast, and who is left alone for a while because of what it did.

Each server has a circuit breaker (after some failures in a row it rests, then one message tries it), a pace that keeps
to requests and tokens a minute, and after a 429 a smaller number in flight that grows again with every answer.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from vlmrl.errors import LabelerError
from vlmrl.runfolder import masked

_LOOK_S = 0.1
"""Between looks for a server that takes one more."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """How servers are treated."""

    failures: int
    """In a row, after which a server rests."""
    rest_s: float
    patience_s: float
    """How long none may answer before the job ends."""
    requests_per_minute: float | None
    tokens_per_minute: float | None
    pause_s: float = 1.0
    """How long a server that refuses without saying for how long is left alone."""


class Pace:
    """Spreads amounts evenly: each take is given the time at which it may start."""

    def __init__(self, per_minute: float | None) -> None:
        """Allow so much a minute; None: as much as there is."""
        self._interval_s, self._free = (60 / per_minute if per_minute else 0.0), -math.inf

    def take(self, amount: float | int, now: float) -> float:
        """Reserve an amount and return how many seconds to wait before it is used."""
        start = max(now, self._free)
        self._free = start + amount * self._interval_s
        return start - now

    def correct(self, amount: float | int) -> None:
        """Add what was used beyond what was reserved; negative gives back."""
        self._free += amount * self._interval_s

    def wait(self, now: float) -> float:
        """Return how long the next take would wait."""
        return max(0.0, self._free - now)


@dataclass
class Server:
    """One server and what is known of it."""

    url: str
    requests: Pace
    tokens: Pace
    in_flight: int = 0
    window: float = math.inf
    """Most in flight."""
    failed: int = 0
    """In a row."""
    until: float = -math.inf
    """It rests so long."""
    probing: bool = False
    """One message tries whether it is back."""
    reached: bool = False
    """It answered something, if only an error."""
    gone: str = ""
    """Why it is asked no more."""

    @property
    def name(self) -> str:
        """Its URL as it may be shown: without a password."""
        return masked(self.url)

    def takes(self, now: float) -> bool:
        """Say whether one more message may go there now."""
        return not self.gone and not self.probing and now >= self.until and self.in_flight < self.window


class Servers:
    """Chooses among servers that serve the same model."""

    def __init__(
        self,
        urls: Sequence[str],
        policy: Policy,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        generator: random.Random,
    ) -> None:
        """Nothing is known of any server yet; `generator` spreads the ends of their rests."""
        self._policy, self._sleep, self._clock, self._jitter = policy, sleep, clock, generator
        self.all = [Server(u, Pace(policy.requests_per_minute), Pace(policy.tokens_per_minute)) for u in urls]
        self._ill_since: float | None = None
        """When the first failure came since somebody answered."""
        self._trouble = ""

    async def choose(self, tokens: int) -> Server:
        """Wait for a server that takes one more message of so many tokens; each choice needs one of the outcomes below.

        Raises:
            LabelerError: if none is left, or none has answered for too long.
        """
        while True:
            now = self._clock()
            self._give_up(now)
            if ready := [s for s in self.all if s.takes(now)]:
                server = min(ready, key=lambda s: (max(s.requests.wait(now), s.tokens.wait(now)), s.in_flight))
                server.in_flight += 1
                server.probing = server.failed >= self._policy.failures
                wait = max(server.requests.take(1, now), server.tokens.take(tokens, now))
                if wait > 0:
                    await self._pace(server, wait)
                return server
            rests = [s.until - now for s in self.all if not s.gone and not s.probing and s.until > now]
            busy = len(rests) < sum(not s.gone for s in self.all)
            await self._sleep(_LOOK_S if busy else min(rests))

    async def _pace(self, server: Server, wait: float) -> None:
        try:
            await self._sleep(wait)
        except asyncio.CancelledError:
            self._leave(server)
            raise

    def _give_up(self, now: float) -> None:
        """Raise if waiting for a server has no end: also for one that refuses again and again, but for no time."""
        if all(s.gone for s in self.all):
            raise LabelerError("; ".join(s.gone for s in self.all))
        ill, patience = 0.0 if self._ill_since is None else now - self._ill_since, self._policy.patience_s
        if ill > patience and not any(s.probing for s in self.all):
            raise LabelerError(
                f"no server has answered for {ill:.0f} s (labeler.patience_s is {patience:g}); "
                f"the last trouble: {self._trouble}"
            )

    def succeeded(self, server: Server, *, tokens: int) -> None:
        """Count an answer that took so many tokens more than were expected."""
        self._leave(server)
        server.tokens.correct(tokens)
        if server.failed >= self._policy.failures:
            _log.warning("%s answers again", server.name)
        server.failed, server.reached, self._ill_since = 0, True, None
        server.window += 1 / server.window

    def failed(self, server: Server, trouble: str) -> None:
        """Count a failure; after several in a row the server rests."""
        self._leave(server)
        self._note(trouble)
        server.failed += 1
        if server.failed >= self._policy.failures and self._clock() >= server.until:
            rest = self._policy.rest_s * self._jitter.uniform(0.75, 1.25)
            server.until = self._clock() + rest
            _log.warning("%s rests for %.3g s after %d failures: %s", server.name, rest, server.failed, trouble)

    def throttled(self, server: Server, trouble: str, *, wait: float) -> None:
        """Leave a server that is asked too much alone for as long as it says, and then send it half as much.

        One that says nothing gets a short pause: else each refusal of one burst would halve anew, down to one.
        """
        now = self._clock()
        # Of many refusals at once only the first halves: the others were sent before it was known.
        if now >= server.until:
            server.window = max(1.0, min(server.window, server.in_flight) / 2)
        self._leave(server)
        self._note(trouble)
        server.until = max(server.until, now + (wait or self._policy.pause_s))

    def refused(self, server: Server) -> None:
        """Count an answer that says the message is wrong: the server is well."""
        self.succeeded(server, tokens=0)

    def lost(self, server: Server, why: str) -> None:
        """Ask a server no more.

        Raises:
            LabelerError: if it was the last.
        """
        self._leave(server)
        known, server.gone = server.gone, why
        if all(s.gone for s in self.all):
            raise LabelerError("; ".join(s.gone for s in self.all))
        if not known:
            _log.warning("%s; going on with the other servers", why)

    @property
    def missing(self) -> bool:
        """Whether every server was tried and none ever answered: then it is no passing trouble."""
        return all(s.gone or (s.failed and not s.reached) for s in self.all)

    def cancelled(self, server: Server) -> None:
        """Forget a message that was cut."""
        self._leave(server)

    def _note(self, trouble: str) -> None:
        self._trouble = trouble
        self._ill_since = self._clock() if self._ill_since is None else self._ill_since

    @staticmethod
    def _leave(server: Server) -> None:
        server.in_flight -= 1
        server.probing = False
