"""Any OpenAI-compatible server as a labeler: hosted, or one on this machine that serves a local model.

Pictures travel as data URLs. What the server says about load (429, 5xx, Retry-After) is obeyed; a missing server, a
wrong key, an unknown model or an empty account end the job with what to do.
"""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from vlmrl.annotate import completion as answers
from vlmrl.annotate import encode
from vlmrl.annotate.compare import CallFailedError, Picture, Said, compare
from vlmrl.annotate.script import COMPARE, Message, Protocols, Script, load_script
from vlmrl.errors import ConfigError, LabelerError
from vlmrl.types import Cost, Kind, Query, Reply

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
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; a server on this machine may need none."""
    protocol: Protocols = "auto"
    """auto: two stages where the prompt has them."""
    prompt: str = ""
    """Folder below conf/prompt; empty: the task's, or the one that fits the question."""
    logprobs: bool | None = None
    """Whether the probabilities of the answer's tokens are asked for; null: for yes-or-no questions only."""
    top_logprobs: int = 10
    """How many tokens the server is to list at each place."""
    structured: bool = False
    """Ask for the answer as JSON of a schema; a server that ignores this is read as any other."""
    image_format: Literal["png", "jpeg"] = "png"
    jpeg_quality: int = 90
    max_picture_mb: float = 5.0
    """Larger pictures are refused rather than sent."""
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
    answers_as: str = ""
    """What the server calls the model in its answers, where that is another name than `model`."""
    draw: int = 0
    """Another number asks the same questions again: votes."""
    usd_per_million_prompt: float | None = None
    usd_per_million_completion: float | None = None
    timeout_s: float = 120.0
    retries: int = 6
    backoff_s: float = 1.0
    """Before the first retry; doubles each time, with jitter."""
    backoff_cap_s: float = 60.0

    def __post_init__(self) -> None:
        if self.retries < 0 or self.timeout_s <= 0 or not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(
                f"openai: retries {self.retries}, timeout_s {self.timeout_s}, jpeg_quality {self.jpeg_quality} given; "
                "wanted retries at least 0, timeout_s above 0, jpeg_quality 1 to 100"
            )
        if self.max_picture_mb <= 0 or self.top_logprobs < 2:
            raise ConfigError(
                f"openai: max_picture_mb {self.max_picture_mb}, top_logprobs {self.top_logprobs} given; "
                "wanted above 0, and at least 2"
            )


def build(config: Config, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> "OpenAI":
    """Return the labeler; no connection is made before the first question.

    Raises:
        ConfigError: if no model is named, or the openai package is not installed.
        LabelerError: if the server is elsewhere and there is no key.
    """
    if find_spec("openai") is None:
        raise ConfigError("labeler 'openai' needs the package openai: pip install 'openai>=2'")
    if not config.model:
        raise ConfigError(
            f"openai: model is empty; name one that {config.base_url} serves (GET {config.base_url}/models)"
        )
    local = (urlsplit(config.base_url).hostname or "") in ("localhost", "127.0.0.1", "::1")
    key = os.environ.get(config.api_key_env, "")
    if not key and not local:
        raise LabelerError(f"no key for {config.base_url}: set the environment variable {config.api_key_env}")
    return OpenAI(config, load_script(config.prompt or COMPARE, protocol=config.protocol), key or "none", sleep)


class OpenAI:
    """Asks a chat completions server about pictures."""

    needs_pictures = True

    def __init__(self, config: Config, script: Script, key: str, sleep: Callable[[float], Awaitable[None]]) -> None:
        self.name = f"{config.model} ({script.protocol.replace('_', ' ')}, {script.name})"
        self.calls_per_question = script.calls
        self.priced = None not in (config.usd_per_million_prompt, config.usd_per_million_completion)
        self._config, self._script, self._key, self._sleep = config, script, key, sleep
        self._client: AsyncOpenAI | None = None
        self._jitter = random.Random()  # must differ between processes, or they all come back at once
        self._reached = False
        self._served, self._tells = "", True

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
            # Left out where they are off, so that questions without them keep their keys.
            **({"logprobs": config.top_logprobs} if self._wants_logprobs(query) else {}),
            **({"structured": answers.response_format(query)} if config.structured else {}),
            **self._script.content(query),
        }

    async def ask(self, query: Query) -> Reply:
        """Ask in one or two calls."""
        return await compare(self, self._script, query, annotator=self.name)

    async def close(self) -> None:
        """Close the connections; the next question opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def say(self, message: Message, pictures: Sequence[Picture], *, stage: str, query: Query) -> Said:
        """Send one message, as often as the server's trouble allows.

        Raises:
            CallFailedError: if this message stays without an answer.
            LabelerError: if the server cannot be used at all, or another model answers.
        """
        start, config = time.monotonic(), self._config
        content = await asyncio.to_thread(
            encode.parts,
            message,
            pictures,
            kind=config.image_format,
            quality=config.jpeg_quality,
            detail=config.detail,
            most_mb=config.max_picture_mb,
        )
        completion = await self._answer(content, stage, query)
        found = answers.said(
            completion, cost=self._cost(completion, latency_s=time.monotonic() - start), where=config.base_url
        )
        model, _ = answers.served(completion)
        answers.check_served(
            model, asked=config.model, accepted=config.answers_as, before=self._served, where=config.base_url
        )
        self._served = self._served or model
        return found

    async def _answer(self, content: list[dict[str, Any]], stage: str, query: Query) -> "ChatCompletion":
        """Ask with what this question wants beside its text; without logprobs where nobody insists and none come."""
        last = stage == list(self._script.texts)[-1]
        wants = last and self._tells and self._wants_logprobs(query)
        more: dict[str, Any] = {"logprobs": True, "top_logprobs": self._config.top_logprobs} if wants else {}
        if last and self._config.structured:
            more["response_format"] = answers.response_format(query)
        try:
            return await self._complete(content, stage, more)
        except CallFailedError as e:
            if not wants or self._config.logprobs or "logprobs" not in str(e):
                raise
        self._tells = False
        return await self._complete(content, stage, {k: v for k, v in more.items() if "logprobs" not in k})

    def _wants_logprobs(self, query: Query) -> bool:
        return query.kind is Kind.SUCCESS if self._config.logprobs is None else self._config.logprobs

    async def _complete(self, content: list[dict[str, Any]], stage: str, more: Mapping[str, Any]) -> "ChatCompletion":
        from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

        trouble, wait = "", 0.0
        for attempt in range(self._config.retries + 1):
            if attempt:
                await self._sleep(max(wait, self._backoff(attempt)))
            wait = 0.0
            try:
                completion = await self._send(content, stage, more)
            except APIStatusError as e:
                self._reached = True
                wait, trouble = self._judge(e), self._tell(e)
            except APITimeoutError:
                trouble = f"no answer within {self._config.timeout_s:g} s"
            except APIConnectionError as e:
                trouble = f"no server at {self._config.base_url} ({e.__cause__ or e})"
                if not self._reached or attempt == self._config.retries:
                    raise LabelerError(
                        f"{trouble}: start it, or set labeler.base_url; docs/labeling.md serves a local model"
                    ) from e
            except APIError as e:
                trouble = self._tell(e)
            else:
                self._reached = True
                return completion
        raise CallFailedError(f"{trouble}, after {self._config.retries + 1} tries")

    async def _send(self, content: list[dict[str, Any]], stage: str, more: Mapping[str, Any]) -> "ChatCompletion":
        config = self._config
        body: dict[str, Any] = {config.token_field: self._tokens(stage)}
        if config.seed is not None:
            body["seed"] = config.seed
        messages: Any = [{"role": "user", "content": content}]
        return await self._connected().chat.completions.create(
            model=config.model,
            messages=messages,
            temperature=config.temperature,
            extra_body={**body, **more, **config.extra_body},
        )

    def _connected(self) -> "AsyncOpenAI":
        from openai import AsyncOpenAI

        if self._client is None:
            config = self._config
            # Retries are ours: the package's own would hide how often and why.
            self._client = AsyncOpenAI(
                api_key=self._key, base_url=config.base_url, timeout=config.timeout_s, max_retries=0
            )
        return self._client

    def _judge(self, error: "APIStatusError") -> float:
        """Return how long the server wants us to wait before a retry.

        Raises:
            CallFailedError: if this message will never be answered.
            LabelerError: if none will.
        """
        config, status, said = self._config, error.status_code, self._tell(error)
        if status in (401, 403):
            raise LabelerError(
                f"{config.base_url} refuses the key ({said}): "
                f"set the environment variable {config.api_key_env} to a valid one"
            ) from error
        if status == 404:
            raise LabelerError(
                f"{config.base_url} does not serve model {config.model!r} ({said}): set labeler.model to one that "
                f"GET {config.base_url}/models lists, and check that labeler.base_url ends as it should, often in /v1"
            ) from error
        if status == 402 or error.code == "insufficient_quota":
            raise LabelerError(f"{config.base_url} has no credit left for this key ({said})") from error
        if status not in _BUSY and status < 500:
            raise CallFailedError(said) from error
        wait = _retry_after(error.response.headers)
        if wait > _LONGEST_WAIT_S:
            raise LabelerError(
                f"{config.base_url} asks to come back in {wait:.0f} s ({said}): try again then"
            ) from error
        return wait

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
        usage = getattr(completion, "usage", None)
        prompt, answer = (int(getattr(usage, key, 0) or 0) for key in ("prompt_tokens", "completion_tokens"))
        config = self._config
        usd = (config.usd_per_million_prompt or 0.0) * prompt + (config.usd_per_million_completion or 0.0) * answer
        return Cost(1, prompt, answer, usd / 1e6, latency_s)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds a server asks for: a number, or a date; 0 when it says nothing readable."""
    text = headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "..."
