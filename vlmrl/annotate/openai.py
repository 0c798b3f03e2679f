"""Any OpenAI-compatible server as a labeler: hosted, or one on this machine that serves a local model.

Pictures travel as data URLs. What the server says about load (429, 5xx, Retry-After) is obeyed; a missing server, a
wrong key, an unknown model or an empty account end the job with what to do.
"""

import asyncio
import base64
import io
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from PIL import Image

from vlmrl.annotate.compare import CallFailedError, Message, Picture, Protocols, Said, Script, compare, load_script
from vlmrl.annotate.estimate import guess_tokens
from vlmrl.annotate.prices import pick_price
from vlmrl.annotate.servers import Policy, Server, Servers
from vlmrl.errors import ConfigError, LabelerError
from vlmrl.types import Cost, Query, Reply

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI
    from openai.types.chat import ChatCompletion

_LONGEST_WAIT_S = 600.0
"""A server that asks for more patience than this is as good as gone."""
_BUSY = (408, 409, 425, 429)


@dataclass(frozen=True)
class Config:
    """A model behind the chat completions protocol."""

    model: str = ""
    """As the server names it."""
    base_url: str = "http://127.0.0.1:8000/v1"
    """A server on this machine unless you name another: nothing leaves it by default."""
    base_urls: tuple[str, ...] = ()
    """Servers of the same model that take turns, the idlest first, instead of base_url."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; a server on this machine may need none."""
    protocol: Protocols = "two_stage"
    prompt: str = "compare-1"
    """Folder below conf/prompt."""
    image_format: Literal["png", "jpeg"] = "png"
    jpeg_quality: int = 90
    detail: Literal["auto", "low", "high"] = "auto"
    temperature: float = 0.0
    seed: int | None = None
    """The server's sampling seed, for those that have one."""
    analysis_tokens: int = 512
    """Most tokens of an analysis (and of a whole one-stage answer)."""
    label_tokens: int = 16
    """Most tokens of a label; a model that thinks aloud first needs more."""
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """How this server calls that limit; OpenAI's newer models know only the second."""
    extra_body: dict[str, Any] = field(default_factory=dict[str, Any])
    """Further fields of the request, for example {chat_template_kwargs: {enable_thinking: false}}."""
    revision: str = ""
    """Tells apart models that servers give the same name."""
    draw: int = 0
    """Another number asks the same questions again: votes."""
    usd_per_million_prompt: float | None = None
    """null, as the next: what conf/prices.yaml says of the model, if anything."""
    usd_per_million_completion: float | None = None
    requests_per_minute: float | None = None
    """Of each server; null: as many as it takes."""
    tokens_per_minute: float | None = None
    """Of each server, prompts and answers together."""
    timeout_s: float = 120.0
    retries: int = 6
    """Of one message, after errors and time-outs; waiting because a server is away or busy does not count."""
    backoff_s: float = 1.0
    """Before the first retry; doubles each time, with jitter."""
    backoff_cap_s: float = 60.0
    """Also how long a server rests that fails `breaker_failures` times in a row."""
    breaker_failures: int = 5
    patience_s: float = 600.0
    """How long no server may answer, for example because it starts again, before the job ends."""

    def __post_init__(self) -> None:
        wanted = {"retries": 0, "breaker_failures": 1, "patience_s": 0, "backoff_s": 0, "jpeg_quality": 1}
        wrong = [name for name, least in wanted.items() if getattr(self, name) < least]
        above = ("timeout_s", "requests_per_minute", "tokens_per_minute")
        wrong += [name for name in above if (value := getattr(self, name)) is not None and not value > 0]
        if wrong or self.jpeg_quality > 100:
            name = [*wrong, "jpeg_quality"][0]
            least = f"at least {wanted[name]}" if name in wanted else "above 0"
            raise ConfigError(
                f"openai: {name} {getattr(self, name)} given; wanted {least}"
                + (" and at most 100" if name == "jpeg_quality" else "")
            )

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers."""
        return self.base_urls or (self.base_url,)


@dataclass(frozen=True)
class _Trouble:
    """Why a message has no answer yet."""

    what: str
    counts: bool
    """As one of its tries."""
    rests: bool = False
    """The server itself says how long to wait."""


def build(
    config: Config,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> "OpenAI":
    """Return the labeler; no connection is made before the first question.

    Raises:
        ConfigError: if no model is named, or the openai package is not installed.
        LabelerError: if the server is elsewhere and there is no key.
    """
    if find_spec("openai") is None:
        raise ConfigError("labeler 'openai' needs the package openai: pip install 'openai>=2'")
    if not config.model:
        raise ConfigError(
            f"openai: model is empty; name one that {config.urls[0]} serves (GET {config.urls[0]}/models)"
        )
    key = os.environ.get(config.api_key_env, "")
    far = [u for u in config.urls if (urlsplit(u).hostname or "") not in ("localhost", "127.0.0.1", "::1")]
    if not key and far:
        raise LabelerError(f"no key for {far[0]}: set the environment variable {config.api_key_env}")
    return OpenAI(config, load_script(config.prompt, protocol=config.protocol), key or "none", sleep, clock)


class OpenAI:
    """Asks a chat completions server which of two pictures is better."""

    needs_pictures = True

    def __init__(
        self,
        config: Config,
        script: Script,
        key: str,
        sleep: Callable[[float], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self.name = f"{config.model} ({config.protocol.replace('_', ' ')}, {config.prompt})"
        self.calls_per_question = script.calls
        self.price = pick_price(config.model, config.usd_per_million_prompt, config.usd_per_million_completion)
        self.priced = self.price is not None
        self._config, self._script, self._key, self._sleep, self._clock = config, script, key, sleep, clock
        self._clients: dict[str, AsyncOpenAI] = {}
        self._jitter = random.Random()  # must differ between processes, or they all come back at once
        self._servers = self._fresh_servers()
        self._most_tokens: dict[str, int] = {}

    def content(self, query: Query) -> Mapping[str, object]:
        """Return all that is sent but where to: a server that moves is asked nothing again."""
        config = self._config
        encoding: dict[str, Any] = {"format": config.image_format, "detail": config.detail}
        if config.image_format == "jpeg":
            encoding["quality"] = config.jpeg_quality
        return {
            "labeler": "openai",
            "model": config.model,
            "revision": config.revision,
            "draw": config.draw,
            "temperature": config.temperature,
            "seed": config.seed,
            "tokens": {stage: self._tokens(stage) for stage in self._script.texts},
            "extra_body": config.extra_body,
            "encoding": encoding,
            **self._script.content(query),
        }

    async def ask(self, query: Query) -> Reply:
        """Ask in one or two calls."""
        return await compare(self, self._script, query, annotator=self.name)

    async def close(self) -> None:
        """Close the connections; the next question opens new ones."""
        clients, self._clients = self._clients, {}
        self._servers = self._fresh_servers()
        for client in clients.values():
            await client.close()

    def at_most(self, cost: Cost) -> Cost:
        """Return what a question can cost whose pictures are like those of one that cost so much."""
        stages = self._script.texts
        rounds = -(-cost.calls // len(stages))
        # The analysis comes back within the prompt of the label.
        prompt = cost.prompt_tokens + rounds * (self._config.analysis_tokens if len(stages) > 1 else 0)
        completion = max(cost.completion_tokens, rounds * sum(map(self._tokens, stages)))
        return Cost(cost.calls, prompt, completion, self._usd(prompt, completion))

    async def say(self, message: Message, pictures: Sequence[Picture], *, stage: str) -> Said:
        """Send one message, as often as the servers' trouble allows.

        Raises:
            CallFailedError: if this message stays without an answer.
            LabelerError: if no server can be used at all.
        """
        start = time.monotonic()
        content = await asyncio.to_thread(self._encode, message, pictures)
        tokens = self._most_tokens.get(stage) or guess_tokens(message, pictures) + self._tokens(stage)
        completion, url = await self._complete(content, stage, tokens)
        if not getattr(completion, "choices", None):
            raise CallFailedError(f"{url} sent no chat completion: {_short(str(completion))}")
        choice = completion.choices[0]
        refusal = choice.message.refusal or ""
        return Said(
            text=refusal or choice.message.content or "",
            cost=self._cost(completion, latency_s=time.monotonic() - start),
            refused=bool(refusal) or choice.finish_reason == "content_filter",
        )

    async def _complete(self, content: list[dict[str, Any]], stage: str, tokens: int) -> "tuple[ChatCompletion, str]":
        """Return an answer and who gave it."""
        attempt, tries = 0, 0
        while True:
            server = await self._servers.choose(tokens)
            outcome = await self._try(server, content, stage, tokens)
            if not isinstance(outcome, _Trouble):
                return outcome, server.url
            attempt, tries = attempt + 1, tries + outcome.counts
            if tries > self._config.retries:
                raise CallFailedError(f"{outcome.what}, after {tries} tries")
            if not outcome.rests:
                await self._sleep(self._backoff(attempt))

    async def _try(
        self, server: Server, content: list[dict[str, Any]], stage: str, tokens: int
    ) -> "ChatCompletion | _Trouble":
        """Return the answer of one server, or what went wrong that may go right another time."""
        from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

        servers = self._servers
        try:
            completion = await self._send(server.url, content, stage)
        except asyncio.CancelledError:
            servers.cancelled(server)
            raise
        except APIStatusError as e:
            return self._judge(e, server)
        except APITimeoutError:
            trouble = _Trouble(f"no answer within {self._config.timeout_s:g} s", counts=True)
        except APIConnectionError as e:
            trouble = _Trouble(f"no server at {server.url} ({e.__cause__ or e})", counts=False)
        except APIError as e:
            trouble = _Trouble(self._tell(e), counts=True)
        else:
            usage = getattr(completion, "usage", None)
            used = usage.total_tokens if usage else tokens
            self._most_tokens[stage] = max(used, self._most_tokens.get(stage, 0))
            servers.succeeded(server, tokens=used - tokens)
            return completion
        servers.failed(server, trouble.what)
        if servers.missing and not trouble.counts:
            raise LabelerError(
                f"{trouble.what}: start it, or set labeler.base_url; docs/labeling.md serves a local model"
            )
        return trouble

    async def _send(self, url: str, content: list[dict[str, Any]], stage: str) -> "ChatCompletion":
        config = self._config
        body: dict[str, Any] = {config.token_field: self._tokens(stage)}
        if config.seed is not None:
            body["seed"] = config.seed
        messages: Any = [{"role": "user", "content": content}]
        return await self._connected(url).chat.completions.create(
            model=config.model,
            messages=messages,
            temperature=config.temperature,
            extra_body={**body, **config.extra_body},
        )

    def _connected(self, url: str) -> "AsyncOpenAI":
        from openai import AsyncOpenAI

        if url not in self._clients:
            # Retries are ours: the package's own would hide how often and why.
            self._clients[url] = AsyncOpenAI(
                api_key=self._key, base_url=url, timeout=self._config.timeout_s, max_retries=0
            )
        return self._clients[url]

    def _fresh_servers(self) -> Servers:
        config = self._config
        policy = Policy(
            config.breaker_failures,
            config.backoff_cap_s,
            config.patience_s,
            config.requests_per_minute,
            config.tokens_per_minute,
        )
        return Servers(config.urls, policy, sleep=self._sleep, clock=self._clock, generator=self._jitter)

    def _judge(self, error: "APIStatusError", server: Server) -> "_Trouble":
        """Tell the rotation what a server's refusal means for it, and return what it means for the message.

        Raises:
            CallFailedError: if this message will never be answered.
            LabelerError: if none will.
        """
        config, status, said, url = self._config, error.status_code, self._tell(error), server.url
        server.reached = True
        wait, why = _retry_after(error.response.headers), ""
        if status in (401, 403):
            why = f"{url} refuses the key ({said}): set the environment variable {config.api_key_env} to a valid one"
        elif status == 404:
            why = (
                f"{url} does not serve model {config.model!r} ({said}): set labeler.model to one that "
                f"GET {url}/models lists, and check that labeler.base_url ends as it should, often in /v1"
            )
        elif status == 402 or error.code == "insufficient_quota":
            why = f"{url} has no credit left for this key ({said})"
        elif wait > _LONGEST_WAIT_S:
            why = f"{url} asks to come back in {wait:.0f} s ({said}): try again then"
        if why:
            self._servers.lost(server, why)
        elif status == 429 or (status == 503 and wait):
            self._servers.throttled(server, said, wait=wait)
        elif status in _BUSY or status >= 500:
            self._servers.failed(server, said)
            return _Trouble(said, counts=True)
        else:
            self._servers.refused(server)
            raise CallFailedError(said) from error
        return _Trouble(said, counts=False, rests=wait > 0)

    def _tell(self, error: Any) -> str:
        """Describe an error in one line, without the key that some servers echo."""
        status = getattr(error, "status_code", None)
        text = _short(str(error.message).replace(self._key, "***") if self._key != "none" else str(error.message))
        return f"HTTP {status}: {text}" if status else text

    def _backoff(self, attempt: int) -> float:
        config = self._config
        return min(config.backoff_cap_s, config.backoff_s * 2 ** (attempt - 1)) * self._jitter.uniform(0.5, 1.0)

    def _tokens(self, stage: str) -> int:
        return self._config.label_tokens if stage == "label" else self._config.analysis_tokens

    def _cost(self, completion: "ChatCompletion", *, latency_s: float) -> Cost:
        usage = completion.usage
        prompt, answer = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
        return Cost(1, prompt, answer, self._usd(prompt, answer), latency_s)

    def _usd(self, prompt: int, completion: int) -> float:
        price = self.price
        return (price.prompt * prompt + price.completion * completion) / 1e6 if price else 0.0

    def _encode(self, message: Message, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for part in message:
            if isinstance(part, str):
                parts.append({"type": "text", "text": part})
            else:
                url = {"url": self._data_url(pictures[part]), "detail": self._config.detail}
                parts.append({"type": "image_url", "image_url": url})
        return parts

    def _data_url(self, picture: Picture) -> str:
        kind, buffer = self._config.image_format, io.BytesIO()
        settings = {"quality": self._config.jpeg_quality} if kind == "jpeg" else {}
        Image.fromarray(picture).save(buffer, format=kind, **settings)
        return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _retry_after(headers: Mapping[str, str]) -> float:
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


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "..."
