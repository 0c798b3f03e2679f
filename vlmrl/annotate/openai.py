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
    return OpenAI(config, load_script(config.prompt, protocol=config.protocol), key or "none", sleep)


class OpenAI:
    """Asks a chat completions server which of two pictures is better."""

    needs_pictures = True

    def __init__(self, config: Config, script: Script, key: str, sleep: Callable[[float], Awaitable[None]]) -> None:
        self.name = f"{config.model} ({config.protocol.replace('_', ' ')}, {config.prompt})"
        self.calls_per_question = script.calls
        self.priced = None not in (config.usd_per_million_prompt, config.usd_per_million_completion)
        self._config, self._script, self._key, self._sleep = config, script, key, sleep
        self._client: AsyncOpenAI | None = None
        self._jitter = random.Random()  # must differ between processes, or they all come back at once
        self._reached = False

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
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def say(self, message: Message, pictures: Sequence[Picture], *, stage: str) -> Said:
        """Send one message, as often as the server's trouble allows.

        Raises:
            CallFailedError: if this message stays without an answer.
            LabelerError: if the server cannot be used at all.
        """
        start = time.monotonic()
        content = await asyncio.to_thread(self._encode, message, pictures)
        completion = await self._complete(content, stage)
        if not getattr(completion, "choices", None):
            raise CallFailedError(f"{self._config.base_url} sent no chat completion: {_short(str(completion))}")
        choice = completion.choices[0]
        refusal = choice.message.refusal or ""
        return Said(
            text=refusal or choice.message.content or "",
            cost=self._cost(completion, latency_s=time.monotonic() - start),
            refused=bool(refusal) or choice.finish_reason == "content_filter",
        )

    async def _complete(self, content: list[dict[str, Any]], stage: str) -> "ChatCompletion":
        from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

        trouble, wait = "", 0.0
        for attempt in range(self._config.retries + 1):
            if attempt:
                await self._sleep(max(wait, self._backoff(attempt)))
            wait = 0.0
            try:
                completion = await self._send(content, stage)
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

    async def _send(self, content: list[dict[str, Any]], stage: str) -> "ChatCompletion":
        config = self._config
        body: dict[str, Any] = {config.token_field: self._tokens(stage)}
        if config.seed is not None:
            body["seed"] = config.seed
        messages: Any = [{"role": "user", "content": content}]
        return await self._connected().chat.completions.create(
            model=config.model,
            messages=messages,
            temperature=config.temperature,
            extra_body={**body, **config.extra_body},
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
        usage = completion.usage
        prompt, answer = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
        config = self._config
        usd = (config.usd_per_million_prompt or 0.0) * prompt + (config.usd_per_million_completion or 0.0) * answer
        return Cost(1, prompt, answer, usd / 1e6, latency_s)

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
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "..."
