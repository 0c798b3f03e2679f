"""Any OpenAI-compatible server as a labeler: hosted, or one on this machine that serves a local model.

Pictures travel as data URLs. What the server says about load (429, 5xx, Retry-After) is obeyed; a missing server, a
wrong key, an unknown model or an empty account end the job with what to do.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Literal
from urllib.parse import urlsplit

from vlmrl.annotate import completion as answers
from vlmrl.annotate.compare import CallFailedError, Picture, Said, UnfitError, compare
from vlmrl.annotate.encode import Encoder
from vlmrl.annotate.estimate import guess_tokens
from vlmrl.annotate.prices import pick_price
from vlmrl.annotate.script import COMPARE, Message, Protocols, Script, load_script
from vlmrl.annotate.servers import Policy
from vlmrl.annotate.transport import Settings, Transport
from vlmrl.errors import ConfigError, LabelerError
from vlmrl.runfolder import masked
from vlmrl.types import Cost, Kind, Query, Reply

_log = logging.getLogger(__name__)


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
        least = {"retries": 0, "breaker_failures": 1, "patience_s": 0, "backoff_s": 0, "backoff_cap_s": 0}
        for name in least | {"timeout_s": 0, "requests_per_minute": 0, "tokens_per_minute": 0}:
            value = getattr(self, name)
            if value is not None and not (value >= least[name] if name in least else value > 0):
                wanted = f"at least {least[name]}" if name in least else "above 0"
                raise ConfigError(f"openai: {name} {value} given; wanted {wanted}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"openai: jpeg_quality {self.jpeg_quality} given; wanted 1 to 100")
        if self.max_picture_mb <= 0 or self.top_logprobs < 2:
            raise ConfigError(
                f"openai: max_picture_mb {self.max_picture_mb}, top_logprobs {self.top_logprobs} given; "
                "wanted above 0, and at least 2"
            )

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers."""
        return self.base_urls or (self.base_url,)


def build(
    config: Config,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> "OpenAI":
    """Return the labeler; no connection is made before the first question.

    Raises:
        ConfigError: if no model is named, or the openai package is not installed.
        LabelerError: if a server is elsewhere and there is no key.
    """
    if find_spec("openai") is None:
        raise ConfigError("labeler 'openai' needs the package openai: pip install 'openai>=2'")
    url = masked(config.urls[0])
    if not config.model:
        raise ConfigError(f"openai: model is empty; name one that {url} serves (GET {url}/models)")
    key = os.environ.get(config.api_key_env, "")
    far = [u for u in config.urls if (urlsplit(u).hostname or "") not in ("localhost", "127.0.0.1", "::1")]
    if not key and far:
        raise LabelerError(f"no key for {masked(far[0])}: set the environment variable {config.api_key_env}")
    for bare in [u for u in far if key and urlsplit(u).scheme == "http"]:
        _log.warning("the key %s goes to %s in clear: use https, or a tunnel", config.api_key_env, masked(bare))
    transport = Transport(_transport(config, key or "none"), sleep=sleep, clock=clock)
    return OpenAI(config, load_script(config.prompt or COMPARE, protocol=config.protocol), transport)


def _transport(config: Config, key: str) -> Settings:
    policy = Policy(
        config.breaker_failures,
        rest_s=config.backoff_cap_s,
        patience_s=config.patience_s,
        requests_per_minute=config.requests_per_minute,
        tokens_per_minute=config.tokens_per_minute,
        pause_s=config.backoff_s,
    )
    return Settings(
        config.urls,
        config.model,
        key,
        config.api_key_env,
        timeout_s=config.timeout_s,
        retries=config.retries,
        backoff_s=config.backoff_s,
        backoff_cap_s=config.backoff_cap_s,
        policy=policy,
    )


class OpenAI:
    """Asks a chat completions server about pictures."""

    needs_pictures = True

    def __init__(self, config: Config, script: Script, transport: Transport) -> None:
        self.name = f"{config.model} ({script.protocol.replace('_', ' ')}, {script.name})"
        self.calls_per_question = script.calls
        self.price = pick_price(config.model, config.usd_per_million_prompt, config.usd_per_million_completion)
        self.priced = self.price is not None
        self._config, self._script, self._transport = config, script, transport
        self._encoder = Encoder(
            kind=config.image_format,
            quality=config.jpeg_quality,
            detail=config.detail,
            most_mb=config.max_picture_mb,
        )
        self._most_tokens: dict[str, int] = {}
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

    def prepare(self, query: Query) -> None:
        """Encode the pictures, so that the message can leave as soon as there is room for it."""
        self._encoder.prepare(query.images)

    async def ask(self, query: Query) -> Reply:
        """Ask in one or two calls."""
        return await compare(self, self._script, query, annotator=self.name)

    def retry_while(self, allowed: Callable[[Cost], bool]) -> None:
        """Try a message again only while what was lost on it leaves room within somebody's limits."""
        self._transport.allowed = allowed

    def remember(self, served: str) -> None:
        """Expect the model that answered in an earlier run, unless the settings name what answers now."""
        if not self._config.answers_as:
            self._served = self._served or served.partition("@")[0]

    async def close(self) -> None:
        """Close the connections; the next question opens new ones."""
        await self._transport.close()

    def at_most(self, cost: Cost) -> Cost:
        """Return what a question can cost whose pictures are like those of one that cost so much."""
        stages = self._script.texts
        rounds = -(-cost.calls // len(stages))
        # The analysis comes back within the prompt of the label.
        prompt = cost.prompt_tokens + rounds * (self._config.analysis_tokens if len(stages) > 1 else 0)
        completion = max(cost.completion_tokens, rounds * sum(map(self._tokens, stages)))
        return Cost(cost.calls, prompt, completion, self._usd(prompt, completion))

    def guess(self, query: Query) -> Cost:
        """Return what a question with its pictures might cost, answers at their longest, without asking it."""
        prompt = completion = 0
        for stage in self._script.texts:
            message = self._script.message(stage, query)
            # The analysis of the stage before comes back.
            prompt += guess_tokens(message, query.images) + completion
            completion += self._tokens(stage)
        return Cost(self.calls_per_question, prompt, completion, self._usd(prompt, completion))

    async def say(self, message: Message, pictures: Sequence[Picture], *, stage: str, query: Query) -> Said:
        """Send one message, as often as the server's trouble allows.

        Raises:
            CallFailedError: if this message stays without an answer.
            LabelerError: if the server cannot be used at all, or another model answers.
        """
        start, config = time.monotonic(), self._config
        if self._encoder.knows(pictures):
            content = self._encoder.parts(message, pictures)
        else:
            content = await asyncio.to_thread(self._encoder.parts, message, pictures)
        tokens = self._most_tokens.get(stage) or guess_tokens(message, pictures) + self._tokens(stage)
        completion, url, lost = await self._answer(content, stage, query, tokens)
        cost = self._cost(completion, tokens=tokens, stage=stage, latency_s=time.monotonic() - start)
        self._most_tokens[stage] = max(cost.prompt_tokens + cost.completion_tokens, self._most_tokens.get(stage, 0))
        found = answers.said(completion, cost=cost + lost, where=url)
        model, _ = answers.served(completion)
        try:
            answers.check_served(model, asked=config.model, accepted=config.answers_as, before=self._served, where=url)
        except LabelerError as e:
            raise UnfitError(str(e), said=found) from e
        self._served = self._served or model
        return found

    async def _answer(
        self, content: list[dict[str, Any]], stage: str, query: Query, tokens: int
    ) -> tuple[Any, str, Cost]:
        """Ask with what this question wants beside its text; without logprobs where nobody insists and none come."""
        last = stage == list(self._script.texts)[-1]
        wants = last and self._tells and self._wants_logprobs(query)
        more: dict[str, Any] = {"logprobs": True, "top_logprobs": self._config.top_logprobs} if wants else {}
        if last and self._config.structured:
            more["response_format"] = answers.response_format(query)
        dearest = self._dearest(stage, tokens)
        try:
            return await self._transport.complete(self._body(content, stage, more), tokens=tokens, dearest=dearest)
        except CallFailedError as e:
            if not wants or self._config.logprobs or "logprobs" not in str(e):
                raise
            before = e.cost
        self._tells = False
        less = {k: v for k, v in more.items() if "logprobs" not in k}
        found, url, lost = await self._transport.complete(
            self._body(content, stage, less), tokens=tokens, dearest=dearest
        )
        return found, url, lost + before

    def _wants_logprobs(self, query: Query) -> bool:
        return query.kind is Kind.SUCCESS if self._config.logprobs is None else self._config.logprobs

    def _body(self, content: list[dict[str, Any]], stage: str, more: Mapping[str, Any]) -> dict[str, Any]:
        config = self._config
        extra: dict[str, Any] = {config.token_field: self._tokens(stage)}
        if config.seed is not None:
            extra["seed"] = config.seed
        return {
            "model": config.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": config.temperature,
            **extra,
            **more,
            **config.extra_body,
        }

    def _tokens(self, stage: str) -> int:
        return self._config.label_tokens if stage == "label" else self._config.analysis_tokens

    def _cost(self, completion: Any, *, tokens: int, stage: str, latency_s: float) -> Cost:
        """Return what an answer took; of a server that does not tell, as much as was expected, so that caps hold."""
        usage = getattr(completion, "usage", None)
        prompt, answer = (int(getattr(usage, key, 0) or 0) for key in ("prompt_tokens", "completion_tokens"))
        if not prompt + answer:
            return replace(self._dearest(stage, tokens), latency_s=latency_s)
        return Cost(1, prompt, answer, self._usd(prompt, answer), latency_s)

    def _dearest(self, stage: str, tokens: int) -> Cost:
        """Return what a call of about so many tokens may cost, its answer at its longest."""
        answer = self._tokens(stage)
        prompt = max(0, tokens - answer)
        return Cost(1, prompt, answer, self._usd(prompt, answer))

    def _usd(self, prompt: int, completion: int) -> float:
        price = self.price
        return (price.prompt * prompt + price.completion * completion) / 1e6 if price else 0.0
