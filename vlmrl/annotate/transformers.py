"""A generative vision-language model on this machine as a labeler: any that transformers loads, by folder or hub id.

Questions in flight are answered in batches, greedily, so the same question gets the same answer. Keep
`limits.concurrency` at `batch_size` or above, or batches stay small.
"""

import asyncio
import copy
import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from vlmrl.annotate.compare import Picture, Said, compare
from vlmrl.annotate.likely import Likely, answer_words
from vlmrl.annotate.processor import load_processor
from vlmrl.annotate.script import COMPARE, Message, Protocols, Script, load_script
from vlmrl.errors import ConfigError, LabelerError
from vlmrl.nn import pick_device
from vlmrl.types import Cost, Kind, Query, Reply

_GATHER_S = 0.005
"""How long the first question of a batch waits for others."""
_PARTS = {".safetensors", ".json", ".jinja", ".txt", ".model"}
"""Files of a model folder that decide its answers."""


@dataclass(frozen=True)
class Config:
    """A local model."""

    model: str = ""
    """Folder, or id on the Hugging Face hub (downloaded once), for example HuggingFaceTB/SmolVLM-500M-Instruct."""
    revision: str = "main"
    """Of a hub id."""
    device: str = "auto"
    """auto: the GPU where there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on a GPU, float32 on the CPU."""
    batch_size: int = 8
    protocol: Protocols = "auto"
    """auto: two stages where the prompt has them."""
    prompt: str = ""
    """Folder below conf/prompt; empty: the task's, or the one that fits the question."""
    logprobs: bool | None = None
    """Whether the exact probabilities of the answer are kept; null: of yes-or-no questions only."""
    analysis_tokens: int = 256
    """Most tokens of an analysis (and of a whole one-stage answer)."""
    label_tokens: int = 8
    draw: int = 0
    """Another number asks the same questions again."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.analysis_tokens < 1 or self.label_tokens < 1:
            raise ConfigError(
                f"transformers: batch_size {self.batch_size}, analysis_tokens {self.analysis_tokens}, "
                f"label_tokens {self.label_tokens} given; wanted at least 1 each"
            )


def build(config: Config) -> "Transformers":
    """Return the labeler; the model is loaded at the first question.

    Raises:
        ConfigError: if no model is named, or the device does not exist.
    """
    if not config.model:
        raise ConfigError("transformers: model is empty; set labeler.model to a folder or a hub id")
    pick_device(config.device)
    return Transformers(config, load_script(config.prompt or COMPARE, protocol=config.protocol))


@dataclass
class _Waiting:
    """One message, its pictures, and who waits for the answer."""

    message: Message
    pictures: Sequence[Picture]
    stage: str
    likely: bool
    """Whether the probabilities of its answer's tokens are wanted."""
    answer: "asyncio.Future[Said]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def pictured(self) -> list[Picture]:
        """The pictures within the message."""
        return [self.pictures[part] for part in self.message if isinstance(part, int)]


class Transformers:
    """Asks a local model about pictures."""

    needs_pictures = True
    priced = True

    def __init__(self, config: Config, script: Script) -> None:
        self._config, self._script = config, script
        self.name = f"{config.model.rstrip('/')} ({script.protocol.replace('_', ' ')}, {script.name})"
        self.calls_per_question = script.calls
        self._model: _Model | None = None
        self._thread = ThreadPoolExecutor(1, "model")
        self._waiting: list[_Waiting] = []
        self._runner: asyncio.Task[None] | None = None

    @cached_property
    def identity(self) -> str:
        """Digest of the model's files, or the hub's commit."""
        folder = Path(self._config.model)
        return _digest(folder) if folder.is_dir() else _hub_commit(self._config.model, self._config.revision)

    def content(self, query: Query) -> Mapping[str, object]:
        """Return the model by its content, so that a moved or renamed folder is asked nothing again."""
        return {
            "labeler": "transformers",
            "model": self.identity,
            "dtype": str(_dtype(self._config.dtype, pick_device(self._config.device))),
            "draw": self._config.draw,
            "tokens": {stage: self._tokens(stage) for stage in self._script.texts},
            # Left out where it is off, so that questions without it keep their keys.
            **({"logprobs": True} if self._wants_likely(query) else {}),
            **self._script.content(query),
        }

    async def ask(self, query: Query) -> Reply:
        """Ask in one or two messages, batched with those of other questions in flight."""
        return await compare(self, self._script, query, annotator=self.name)

    async def close(self) -> None:
        """Free the model; the next question loads it again."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner
        self._model = None

    async def say(self, message: Message, pictures: Sequence[Picture], *, stage: str, query: Query) -> Said:
        """Answer one message.

        Raises:
            LabelerError: if the model cannot be loaded or the device has too little memory.
        """
        last = stage == list(self._script.texts)[-1]
        waiting = _Waiting(message, pictures, stage, last and self._wants_likely(query))
        self._waiting.append(waiting)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await waiting.answer

    async def _run(self) -> None:
        """Answer batch by batch, the longest waiting stage first, until nobody waits."""
        await asyncio.sleep(_GATHER_S)
        while self._waiting:
            stage, pictured = self._waiting[0].stage, bool(self._waiting[0].pictured)
            alike = [w for w in self._waiting if w.stage == stage and bool(w.pictured) == pictured]
            batch = alike[: self._config.batch_size]
            self._waiting = [w for w in self._waiting if not any(w is b for b in batch)]
            batch = [w for w in batch if not w.answer.done()]
            try:
                said = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, batch)
            except Exception as e:  # raised in each of those who wait
                for w in batch:
                    if not w.answer.done():
                        w.answer.set_exception(e)
            else:
                for w, s in zip(batch, said, strict=True):
                    if not w.answer.done():
                        w.answer.set_result(s)
            await asyncio.sleep(_GATHER_S)

    def _answer(self, batch: Sequence[_Waiting]) -> list[Said]:
        if not batch:
            return []
        if self._model is None:
            self._model = _Model(self._config)
        try:
            return self._model.generate(batch, tokens=self._tokens(batch[0].stage))
        except torch.OutOfMemoryError as e:
            raise LabelerError(
                f"{self._config.model} with batch_size {self._config.batch_size} does not fit into the memory of "
                f"{self._model.device}: set labeler.batch_size lower"
            ) from e

    def _wants_likely(self, query: Query) -> bool:
        return query.kind is Kind.SUCCESS if self._config.logprobs is None else self._config.logprobs

    def _tokens(self, stage: str) -> int:
        return self._config.label_tokens if stage == "label" else self._config.analysis_tokens


class _Model:
    """Weights and processor, ready to generate."""

    def __init__(self, config: Config) -> None:
        from transformers import AutoModelForImageTextToText

        self.device = pick_device(config.device)
        self._dtype = _dtype(config.dtype, self.device)
        where = {} if Path(config.model).is_dir() else {"revision": config.revision}
        try:
            processor = load_processor(config.model, **where)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                config.model, dtype=self._dtype, use_safetensors=True, **where
            )
        except (OSError, ValueError, ImportError) as e:
            reason = " ".join(str(e).split())
            raise LabelerError(f"cannot load {config.model!r} as a vision-language model: {reason}") from e
        if not getattr(processor, "chat_template", None):
            raise LabelerError(f"{config.model!r} has no chat template: only instruction-tuned models can be asked")
        processor.tokenizer.padding_side = "left"
        self._processor, self._model = processor, model.to(self.device).eval()
        settings = copy.deepcopy(self._model.generation_config)
        settings.update(do_sample=False, temperature=None, top_p=None, top_k=None)
        self._settings = settings
        ends: Any = settings.eos_token_id
        self._ends = set[int](ends if isinstance(ends, list) else [ends])
        self._answers: Mapping[int, str] | None = None

    @torch.inference_mode()
    def generate(self, batch: Sequence[_Waiting], *, tokens: int) -> list[Said]:
        """Answer several messages of one stage."""
        start = time.monotonic()
        pictures = [w.pictured for w in batch]
        inputs = self._processor(
            text=[self._text(w.message) for w in batch],
            images=pictures if pictures[0] else None,
            return_tensors="pt",
            padding=True,
        ).to(self.device, self._dtype)
        length = inputs["input_ids"].shape[1]
        settings = copy.copy(self._settings)
        settings.max_new_tokens = tokens
        likely = Likely(self._processor.tokenizer, self._words()) if any(w.likely for w in batch) else None
        watched = {"logits_processor": [likely]} if likely else {}
        answers = self._model.generate(**inputs, generation_config=settings, **watched)[:, length:]
        texts = self._processor.batch_decode(answers, skip_special_tokens=True)
        asked = inputs["attention_mask"].sum(dim=1).tolist()
        said = (answers != self._processor.tokenizer.pad_token_id).sum(dim=1).tolist()
        each_s = (time.monotonic() - start) / len(batch)
        return [
            Said(
                text=texts[i],
                cost=Cost(1, asked[i], said[i], 0.0, each_s),
                cut=said[i] == tokens and int(answers[i, -1]) not in self._ends,
                tokens=likely.tokens(answers[i], i) if likely and w.likely else (),
            )
            for i, w in enumerate(batch)
        ]

    def _words(self) -> Mapping[int, str]:
        if self._answers is None:
            self._answers = answer_words(self._processor.tokenizer)
        return self._answers

    def _text(self, message: Message) -> str:
        parts = [{"type": "image"} if isinstance(p, int) else {"type": "text", "text": p} for p in message]
        conversation = [{"role": "user", "content": parts}]
        return self._processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)


def _dtype(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]


def _digest(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in _PARTS):
        with path.open("rb") as file:
            whole.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def _hub_commit(model: str, revision: str) -> str:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as e:
        raise LabelerError(
            f"no model {model!r}: it is no folder here, and the hub says: {' '.join(str(e).split())}"
        ) from e
    return f"{model}@{config._commit_hash or revision}"
