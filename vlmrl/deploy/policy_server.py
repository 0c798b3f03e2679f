"""Serves a policy by the openpi websocket protocol: one chunk an observation, or, for our own client, many at once.

Requests that wait at the same moment become one batch, whoever sent them; since networks run on blocks of one size, no
answer depends on who else asked. A client of openpi gets a stream of chance and a memory of its latest observations for
as long as it is connected: a new connection is a new episode. Nothing that a client sends is executed, and what it
sends is bounded; whoever does not read is dropped.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import numpy as np
from jaxtyping import Float, Real

from vlmrl.annotate.people.tokens import Tokens
from vlmrl.deploy.inference import About
from vlmrl.errors import DataError, VlmrlError
from vlmrl.policy import RerankedPolicy, wire
from vlmrl.sight import PREFIX as PICTURE
from vlmrl.sight import axes
from vlmrl.types import Policy, Proposer, history

INVALID_DATA = 1007
"""Close code of RFC 6455 for a message that is not what the protocol says."""
PREFIX = "observation/"
"""With which openpi's examples name observations."""


@dataclass(frozen=True)
class Limits:
    """What one server takes."""

    clients: int = 100
    message_bytes: int = 16 * 2**20
    chunks: int = 4096
    """Drawn for one request, and together in one batch where requests are small."""
    send_s: float = 10.0
    """A client that has not taken its answer by then is dropped."""


@dataclass(frozen=True)
class Question:
    """Observations of one request."""

    observations: Mapping[str, np.ndarray]
    samples: int
    """Chunks for each; 0: that which the policy would execute."""
    chance: Sequence[np.random.Generator]
    answer: "asyncio.Future[np.ndarray]" = field(compare=False, repr=False)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Questions of one kind fit into one batch."""
        return self.samples, tuple((key, value.shape[1:]) for key, value in sorted(self.observations.items()))

    @property
    def chunks(self) -> int:
        """How many it asks for."""
        return len(self.chance) * max(self.samples, 1)


class PolicyServer:
    """Answers clients until it is cancelled."""

    def __init__(
        self, policy: Policy, keys: Sequence[str], *, weights: str, tokens: Tokens, limits: Limits | None = None
    ) -> None:
        """Serve a policy that sees the observations `keys`; without tokens whoever reaches the port is served."""
        self.policy, self.keys, self.tokens, self.limits = policy, tuple(keys), tokens, limits or Limits()
        self.history = history(policy)
        facts = {
            "name": policy.name,
            "keys": list(keys),
            "history": self.history,
            "weights": weights,
            "about": About.of(policy).told(),
        }
        self.metadata = wire.pack({wire.OURS: facts})
        self._waiting: asyncio.Queue[Question] = asyncio.Queue()
        self._clients = self._connected = 0

    async def run(self, host: str, port: int, *, ready: Callable[[int], None]) -> None:
        """Listen; `ready` is told the port, which is a free one where 0 was asked for."""
        server = wire.library("websockets.asyncio.server")
        async with (
            server.serve(
                self._client,
                host,
                port,
                process_request=self._admit,
                # A page in a browser names its origin; it could reach localhost too.
                origins=[None],
                compression=None,
                max_size=self.limits.message_bytes,
                close_timeout=1,
            ) as listening,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._work())
            ready(listening.sockets[0].getsockname()[1])
            await listening.serve_forever()

    def _admit(self, connection: Any, request: Any) -> Any:
        if request.path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        given = request.headers.get_all("Authorization")
        token = given[0].removeprefix("Api-Key ").removeprefix("Bearer ") if len(given) == 1 else ""
        if len(self.tokens) and self.tokens.person(token) is None:
            return connection.respond(HTTPStatus.UNAUTHORIZED, "a token is wanted: Authorization: Api-Key TOKEN\n")
        if self._connected >= self.limits.clients:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{self.limits.clients} clients are served\n")
        return None

    async def _client(self, socket: Any) -> None:
        self._clients, self._connected = self._clients + 1, self._connected + 1
        try:
            # Clients come and go: that a connection has ended is no error of the server's.
            with suppress(wire.library("websockets.exceptions").ConnectionClosed):
                await self._converse(socket, np.random.default_rng(self._clients))
        except TimeoutError:
            logging.getLogger(__name__).warning("a client does not read its answers; dropped")
            socket.transport.abort()
        finally:
            self._connected -= 1

    async def _converse(self, socket: Any, chance: np.random.Generator) -> None:
        window = deque[dict[str, np.ndarray]](maxlen=self.history)
        await self._send(socket, self.metadata)
        try:
            async for message in socket:
                start = time.perf_counter()
                content = wire.unpack(message)
                question = self.asked(content, chance, window)
                self._waiting.put_nowait(question)
                chunks = await question.answer
                timing = {"infer_ms": 1e3 * (time.perf_counter() - start)}
                actions = chunks if wire.SEEDS in content else chunks[0]
                await self._send(socket, wire.pack({"actions": actions, "server_timing": timing}))
        except VlmrlError as error:
            await self._send(socket, f"vlmrl: {error}")
            await socket.close(INVALID_DATA, "refused")

    async def _send(self, socket: Any, message: bytes | str) -> None:
        async with asyncio.timeout(self.limits.send_s):
            await socket.send(message)

    def asked(
        self, content: Mapping[str, Any], chance: np.random.Generator, window: deque[dict[str, np.ndarray]]
    ) -> Question:
        """The question of a message; that of a client of openpi is of its window's observations.

        Raises:
            DataError: if an observation is missing or no numbers, or too much is asked.
        """
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        seen = {key: numbers(content, key) for key in self.keys}
        if wire.SEEDS in content:
            seeds, samples = content[wire.SEEDS], content.get(wire.SAMPLES, 0)
            if not isinstance(seeds, np.ndarray) or seeds.ndim != 1 or seeds.dtype.kind not in "iu" or not len(seeds):
                raise DataError(f"{wire.SEEDS}: an integer for each observation wanted")
            if len(seeds) > self.limits.chunks:
                raise DataError(f"at most {self.limits.chunks} observations a request, found {len(seeds)}")
            if (seeds < 0).any() or not isinstance(samples, int) or samples < 0:
                raise DataError(f"{wire.SEEDS} and {wire.SAMPLES} from 0 wanted")
            generators = [np.random.default_rng(seed) for seed in seeds.tolist()]
        else:
            if window and any(value.shape != window[-1][key].shape for key, value in seen.items()):
                window.clear()
            window.append(seen)
            window.extendleft([seen] * (self.history - len(window)))
            times = {key: np.stack([one[key] for one in window]) for key in seen}
            seen = {key: (value if self.history > 1 else value[0])[None] for key, value in times.items()}
            samples, generators = 0, [chance]
        ranks = {axes(key, value) for key, value in seen.items()}
        if any(len(value) != len(generators) for value in seen.values()) or ranks != {3 if self.history > 1 else 2}:
            shapes = {key: value.shape for key, value in seen.items()}
            raise DataError(f"observations of {len(generators)} robots, {self.history} each, wanted; found {shapes}")
        if samples and not isinstance(self.policy, Proposer):
            raise DataError(f"policy {self.policy.name!r} proposes nothing to choose from")
        question = Question(seen, samples, generators, answer)
        inside = self.policy.samples if isinstance(self.policy, RerankedPolicy) else 1
        if question.chunks * inside > self.limits.chunks:
            raise DataError(f"at most {self.limits.chunks} chunks a request, found {question.chunks * inside}")
        return question

    async def _work(self) -> None:
        while True:
            waiting, total = [await self._waiting.get()], 0
            while not self._waiting.empty() and (total := total + waiting[-1].chunks) < self.limits.chunks:
                waiting.append(self._waiting.get_nowait())
            groups: dict[tuple[Any, ...], list[Question]] = {}
            for question in waiting:
                groups.setdefault(question.kind, []).append(question)
            for group in groups.values():
                await self._answer(group)

    async def _answer(self, group: Sequence[Question]) -> None:
        done = asyncio.ensure_future(asyncio.to_thread(self._chunks, group))
        await asyncio.wait([done])
        error = done.exception()
        if error is not None and len(group) > 1:
            # One bad question must not spoil the others'.
            for question in group:
                await self._answer([question])
            return
        first = 0
        for question in group:
            rows, first = slice(first, first + len(question.chance)), first + len(question.chance)
            if question.answer.cancelled():
                continue
            if error is not None:
                question.answer.set_exception(error)
            else:
                question.answer.set_result(done.result()[rows])

    def _chunks(self, group: Sequence[Question]) -> Float[np.ndarray, "B ..."]:
        together = {key: np.concatenate([q.observations[key] for q in group]) for key in group[0].observations}
        chance = [generator for question in group for generator in question.chance]
        if isinstance(self.policy, Proposer) and group[0].samples:
            made = self.policy.propose(together, group[0].samples, chance)
        else:
            for place, generator in enumerate(chance):
                self.policy.reset(np.arange(len(chance)) == place, [""] * len(chance), generator)
            made = self.policy.act(together)
        if not np.isfinite(made).all():
            raise DataError(f"policy {self.policy.name!r} has no finite action there")
        return made


def numbers(content: Mapping[str, Any], key: str) -> Real[np.ndarray, "..."]:
    """An observation, by its own name or with openpi's prefix.

    Raises:
        DataError: if it is missing, or not finite numbers.
    """
    value = content.get(key, content.get(f"{PREFIX}{key}"))
    if value is None:
        raise DataError(f"observation {key!r} wanted, found {', '.join(map(repr, content)) or 'nothing'}")
    told = DataError(f"observation {key!r}: an array of finite numbers wanted")
    if not isinstance(value, np.ndarray) or not value.ndim:
        raise told
    if key.startswith(PICTURE):
        if value.dtype != np.uint8:
            raise DataError(f"observation {key!r}: an RGB picture as uint8 wanted, found {value.dtype}")
        return value
    with np.errstate(over="ignore"):
        value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise told
    return value
