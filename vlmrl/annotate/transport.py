"""Gets one message answered by one of several OpenAI-compatible servers, as often as their trouble allows.

What a server says about load (429, 5xx, Retry-After) is obeyed; a missing server, a wrong key, an unknown model or an
empty account take it out of the rotation, and end the job with what to do where it was the last.
"""

import asyncio
import itertools
import json
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from vlmrl.annotate.compare import CallFailedError
from vlmrl.annotate.servers import Policy, Server, Servers
from vlmrl.errors import LabelerError
from vlmrl.types import Cost

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

_LONGEST_WAIT_S = 600.0
"""A server that asks for more patience than this is as good as gone."""
_BUSY = (408, 409, 425)
_LATE = (408, 504, 524)
"""A gateway lost patience: the model may have answered, and be paid."""
_MODERATED = re.compile(r"moderat|flagged|content.polic|safety", re.IGNORECASE)
"""Of a 403 that refuses one message and not the key."""
_CONNECTIONS = 16
"""Of one pool, which looks through all of them twice for every request; a pool more costs 20 ms, once."""


@dataclass(frozen=True)
class Settings:
    """What the transport must know."""

    urls: tuple[str, ...]
    model: str
    key: str
    key_env: str
    """Where the key came from."""
    timeout_s: float
    retries: int
    backoff_s: float
    backoff_cap_s: float
    policy: Policy


@dataclass(frozen=True)
class Trouble:
    """Why a message has no answer yet."""

    what: str
    counts: bool
    """As one of its tries."""
    rests: bool = False
    """The server itself says how long to wait."""
    billed: bool = False
    """It may have been answered, and paid for, though nothing that can be read came."""


class Transport:
    """The connections to the servers of one model."""

    def __init__(
        self, settings: Settings, *, sleep: Callable[[float], Awaitable[None]], clock: Callable[[], float]
    ) -> None:
        """Connect to nobody before the first message."""
        self._settings, self._sleep, self._clock = settings, sleep, clock
        self._clients: dict[tuple[str, int], AsyncOpenAI] = {}
        self._turn = itertools.count()
        self._jitter = random.Random()  # must differ between processes, or they all come back at once
        self._servers = self._fresh()
        self.allowed: Callable[[Cost], bool] = lambda lost: True
        """Whether a message is tried again after tries that may have cost so much."""

    def _fresh(self) -> Servers:
        known = self._settings
        return Servers(known.urls, known.policy, sleep=self._sleep, clock=self._clock, generator=self._jitter)

    async def close(self) -> None:
        """Close the connections and forget what is known of the servers; the next message opens new ones."""
        clients, self._clients = self._clients, {}
        self._servers = self._fresh()
        for client in clients.values():
            await client.close()

    async def complete(self, body: Mapping[str, Any], *, tokens: int, dearest: Cost) -> tuple[Any, str, Cost]:
        """Return the answer to a request of about so many tokens, who gave it, and what tries before may have cost.

        A server may bill what never reached us: each try that ran out of time or broke off counts as `dearest`.

        Raises:
            CallFailedError: if this message stays without an answer.
            LabelerError: if no server can be used at all.
        """
        attempt, tries, lost = 0, 0, Cost()
        while True:
            server = await self._servers.choose(tokens)
            try:
                outcome = await self._try(server, body, tokens)
            except CallFailedError as e:
                raise CallFailedError(str(e), cost=lost) from e
            if not isinstance(outcome, Trouble):
                return outcome, server.name, lost
            attempt, tries = attempt + 1, tries + outcome.counts
            lost += dearest if outcome.billed else Cost()
            if tries > self._settings.retries:
                raise CallFailedError(f"{outcome.what}, after {tries} tries", cost=lost)
            if not self.allowed(lost):
                raise CallFailedError(f"{outcome.what}; not tried again: the job's limits leave no room", cost=lost)
            if not outcome.rests:
                await self._sleep(self._backoff(attempt))

    async def _try(self, server: Server, body: Mapping[str, Any], tokens: int) -> Any:
        """Return the answer of one server, or as Trouble what went wrong that may go right another time."""
        from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

        servers = self._servers
        try:
            # Not chat.completions.create, which walks through a message again, nor its types, which walk through the
            # answer: together more than a third of what a question costs us.
            completion = parsed(await self._connected(server).post("/chat/completions", cast_to=str, body=body))
        except asyncio.CancelledError:
            servers.cancelled(server)
            raise
        except APIStatusError as e:
            return self._judge(e, server)
        except APITimeoutError as e:
            within = f"no answer within {self._settings.timeout_s:g} s"
            trouble = Trouble(within, counts=True, billed=_sent(e))
        except APIConnectionError as e:
            sent = _sent(e)
            said = f"{server.name} broke the connection" if sent else f"no server at {server.name}"
            trouble = Trouble(f"{said} ({e.__cause__ or e})", counts=sent, billed=sent)
        except APIError as e:
            trouble = Trouble(self._tell(e), counts=True)
        except ValueError as e:
            trouble = Trouble(f"{server.name} sent no JSON ({short(str(e))})", counts=True, billed=True)
        else:
            usage = getattr(completion, "usage", None)
            used = getattr(usage, "total_tokens", None)
            used = used if isinstance(used, int) else tokens
            servers.succeeded(server, tokens=used - tokens)
            return completion
        servers.failed(server, trouble.what)
        if servers.missing and not trouble.counts:
            raise LabelerError(
                f"{trouble.what}: start it, or set labeler.base_url; docs/labeling.md serves a local model"
            )
        return trouble

    def _connected(self, server: Server) -> "AsyncOpenAI":
        from openai import AsyncOpenAI

        known = self._settings
        place = server.url, next(self._turn) % -(-server.in_flight // _CONNECTIONS)
        if place not in self._clients:
            # Retries are ours: the package's own would hide how often and why.
            self._clients[place] = AsyncOpenAI(
                api_key=known.key, base_url=server.url, timeout=known.timeout_s, max_retries=0
            )
        return self._clients[place]

    def _judge(self, error: "APIStatusError", server: Server) -> Trouble:
        """Tell the rotation what a server's refusal means for it, and return what it means for the message.

        Raises:
            CallFailedError: if this message will never be answered.
            LabelerError: if none will.
        """
        known, status, said, url = self._settings, error.status_code, self._tell(error), server.name
        server.reached = True
        wait, why = retry_after(error.response.headers), ""
        if status == 403 and _MODERATED.search(said):
            self._servers.refused(server)
            raise CallFailedError(said) from error
        if status in (401, 403):
            why = f"{url} refuses the key ({said}): set the environment variable {known.key_env} to a valid one"
        elif status == 404:
            why = (
                f"{url} does not serve model {known.model!r} ({said}): set labeler.model to one that "
                f"GET {url}/models lists, and check that labeler.base_url ends as it should, often in /v1"
            )
        elif status == 402 or error.code == "insufficient_quota":
            why = f"{url} has no credit left for this key ({said})"
        elif wait > _LONGEST_WAIT_S:
            why = f"{url} asks to come back in {wait:.0f} s ({said}): try again then"
        if why:
            self._servers.lost(server, why)
        elif status == 429 or (status >= 500 and wait):
            self._servers.throttled(server, said, wait=wait)
        elif status in _BUSY or status >= 500:
            self._servers.failed(server, said)
            return Trouble(said, counts=True, billed=status in _LATE)
        else:
            self._servers.refused(server)
            raise CallFailedError(said) from error
        return Trouble(said, counts=False, rests=wait > 0)

    def _tell(self, error: Any) -> str:
        """Describe an error in one line, without the key that some servers echo."""
        status, key, text = getattr(error, "status_code", None), self._settings.key, str(error.message)
        text = short(text.replace(key, "***") if key != "none" else text)
        return f"HTTP {status}: {text}" if status else text

    def _backoff(self, attempt: int) -> float:
        known = self._settings
        return min(known.backoff_cap_s, known.backoff_s * 2 ** min(attempt - 1, 60)) * self._jitter.uniform(0.5, 1.0)


def parsed(text: str) -> Any:
    """Return a body with the keys of its objects as attributes; one that was never to be JSON stays a text.

    Raises:
        ValueError: if it is JSON and damaged.
    """
    try:
        return json.loads(text, object_hook=lambda found: SimpleNamespace(**found))
    except ValueError:
        if text.lstrip()[:1] in ("{", "["):
            raise
        return text


def _sent(error: Exception) -> bool:
    """Whether a message may have left before a connection failed: then it may be what broke it, or be paid for."""
    # By name: the openai package changed from httpx to httpx2 between its versions.
    return type(error.__cause__).__name__ not in ("NoneType", "ConnectError", "ConnectTimeout", "PoolTimeout")


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds a server asks for: a number, or a date; 0 when it says nothing readable."""
    text = headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    # By the server's own clock where it tells: ours may be wrong, or jump.
    then, now = _seconds(text), _seconds(headers.get("date", ""))
    return 0.0 if then is None else max(0.0, then - (time.time() if now is None else now))


def _seconds(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None


def short(text: str) -> str:
    """Return a text as one line of bounded length, without what would steer a terminal."""
    line = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return line if len(line) <= 300 else line[:297] + "..."
