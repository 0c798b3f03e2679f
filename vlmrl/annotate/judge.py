"""The built-in judge, or any image-text dual encoder, as a labeler: it sees, costs nothing, and says how sure it is.

p(a better) = sigmoid((s_a - s_b) / T), where s is VLM-RM's reward of a picture (`encoder.vlmrm_reward`). T and the
thresholds were measured with the checkpoint; one that nobody measured takes 1 / logit_scale and is called uncalibrated.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from vlmrl.annotate.embeddings import embeddings
from vlmrl.encoder import DualEncoder, check_prompts, vlmrm_reward
from vlmrl.errors import ConfigError, DataError
from vlmrl.store import Store
from vlmrl.types import Cost, Frame, Item, Kind, Query, Reply, Verdict

_SAME = 0.9999
"""Cosine from which on an unmeasured model's pictures are a tie: float16 keeps no more."""

Embed = Callable[[Item], Float[np.ndarray, " D"]]


@dataclass(frozen=True)
class Config:
    """A model that compares pictures with a sentence."""

    checkpoint: str = "seen"
    """seen or zeroshot: the built-in judge, trained on all tasks or without the reference tasks. Else the folder or hub
    id of any CLIP or SigLIP."""
    goals: tuple[str, ...] = ()
    """What pictures are compared with; empty: the sentence of the question."""
    baselines: tuple[str, ...] = ()
    """What the scene shows without the goal, as many as goals; used where alpha is above 0."""
    alpha: float = 0.0
    """0: cosine with the goal; 1: only along the line from baseline to goal."""
    temperature: float | None = None
    """Difference of scores that is worth one logit; null: as measured with the checkpoint."""
    threshold: float | None = None
    """Probability below which no side is named; null: as measured with the checkpoint."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ConfigError(f"judge: temperature {self.temperature} given; wanted above 0")
        if self.threshold is not None and not 0.5 <= self.threshold <= 1:
            raise ConfigError(f"judge: threshold {self.threshold} given; wanted 0.5 (always decide) to 1")
        check_prompts(max(1, len(self.goals)), len(self.baselines), self.alpha)


def build(config: Config, *, encoder: DualEncoder, embed: Embed, instruction: str | Sequence[str] = "") -> "Judge":
    """Return the labeler; `embed` gives an item's unit vector by `encoder`, `instruction` is what will be asked."""
    return Judge(config, encoder, embed, instruction)


def stored(
    store: Store, camera: str, encoder: DualEncoder, *, progress: Callable[[int, int], None] | None = None
) -> Embed:
    """Return what looks up the vectors of single frames of one camera, encoding pictures where the store has none."""
    vectors, table = embeddings(store, camera, encoder, progress=progress), store.episodes

    def embed(item: Item) -> Float[np.ndarray, " D"]:
        if not isinstance(item, Frame) or item.camera != camera:
            raise ConfigError(
                f"the judge was given pictures of camera {camera!r}, one each, "
                f"asked about {item}: say ask.show=frame, or labeler=openai or transformers"
            )
        vector = vectors[int(table.start[table.index(item.episode)]) + item.row]
        if np.isnan(vector[0]):
            raise DataError(f"{item} shows no picture")
        return vector

    return embed


class Judge:
    """Answers preference queries from embeddings; the same question always gets the same answer."""

    needs_pictures = False
    calls_per_question = 1
    priced = True

    def __init__(self, config: Config, encoder: DualEncoder, embed: Embed, instruction: str | Sequence[str]) -> None:
        self._config, self._encoder, self._embed = config, encoder, embed
        known = encoder.facts
        self.threshold = float(known.get("threshold", 0.5) if config.threshold is None else config.threshold)
        self.same = float(known.get("same", _SAME))
        self._prompts: dict[tuple[str, ...], Float32[np.ndarray, "P D"]] = {}
        goals = config.goals or ((instruction,) if isinstance(instruction, str) else tuple(instruction))
        seen = all(plain(g) in map(plain, known["tasks_seen"]) for g in goals) if "tasks_seen" in known else None
        # About sentences it never saw a model is surer than it should be.
        measured = known.get("temperature") if seen in (True, None) else known.get("temperature_unseen")
        self.temperature = float(config.temperature or measured or 1 / encoder.logit_scale)
        # Scores of other prompts than the bare goal have another spread than the one that was measured.
        bare = config.alpha == 0 and len(config.goals) <= 1
        calibrated = measured is not None and config.temperature is None and bare
        self.name = _name(encoder.name, seen=seen, calibrated=calibrated)
        self.facts: Mapping[str, object] = {
            "checkpoint": encoder.name.removeprefix("judge "),
            "fingerprint": encoder.fingerprint,
            "sentences": list(goals),
            "seen": seen,
            "calibrated": calibrated,
            "temperature": self.temperature,
            "threshold": self.threshold,
            "trained_on": known.get("trained_on", ""),
        }

    def content(self, query: Query) -> Mapping[str, object]:
        """Return model, prompts, thresholds and what it knows of the pictures: these determine the answer exactly."""
        return {
            "labeler": "judge",
            "version": 1,
            "kind": query.kind.value,
            "model": self._encoder.fingerprint,
            "goals": list(self._goals(query)),
            "baselines": list(self._config.baselines),
            "alpha": self._config.alpha,
            "temperature": self.temperature,
            "threshold": self.threshold,
            "same": self.same,
            "embeddings": [_digest(self._embed(item)) for item in query.items],
        }

    async def ask(self, query: Query) -> Reply:
        """Name the side that fits the sentence better, with its probability, or say that it cannot tell."""
        if query.kind is not Kind.PREFERENCE:
            raise ConfigError(f"the judge answers preference queries, not {query.kind.value}")
        pair = _unit(np.stack([self._embed(item) for item in query.items]))
        a, b = self.scores(pair, self._goals(query)).tolist()
        p = 1 / (1 + math.exp(min((b - a) / self.temperature, 700.0)))
        same = float(pair[0] @ pair[1]) >= self.same
        return Reply(self._verdict(p, same=same), self.name, p, text=f"p(a) = {p:.6f}", cost=Cost(calls=1))

    async def close(self) -> None:
        """Do nothing: the model is freed with its last user."""

    def scores(self, pictures: Float32[np.ndarray, "N D"], goals: Sequence[str]) -> Float32[np.ndarray, " N"]:
        """VLM-RM's reward of unit vectors."""
        baselines = self._texts(self._config.baselines) if self._config.baselines else None
        return vlmrm_reward(pictures, self._texts(tuple(goals)), baselines, self._config.alpha)

    def _verdict(self, p: float, *, same: bool) -> Verdict:
        if p != 0.5 and max(p, 1 - p) >= self.threshold:
            return Verdict.A_BETTER if p > 0.5 else Verdict.B_BETTER
        return Verdict.TIE if same else Verdict.UNSURE

    def _goals(self, query: Query) -> tuple[str, ...]:
        return self._config.goals or (query.instruction,)

    def _texts(self, sentences: tuple[str, ...]) -> Float32[np.ndarray, "P D"]:
        if sentences not in self._prompts:
            self._prompts[sentences] = self._encoder.texts(sentences)
        return self._prompts[sentences]


def plain(sentence: str) -> str:
    """Return a sentence without what no tokenizer of a judge tells apart: case, spacing, the last stop."""
    return " ".join(sentence.lower().split()).rstrip(" .!")


def _name(encoder: str, *, seen: bool | None, calibrated: bool) -> str:
    known = {True: "sentence seen in training", False: "sentence not seen in training", None: ""}[seen]
    said = ", ".join(part for part in (known, "" if calibrated else "uncalibrated") if part)
    name = encoder if encoder.startswith("judge ") else f"judge {encoder}"
    return f"{name} ({said})" if said else name


def _digest(vector: Float[np.ndarray, " D"]) -> str:
    return hashlib.sha256(vector.astype(np.float32).tobytes()).hexdigest()


def _unit(vectors: Float[np.ndarray, "N D"]) -> Float32[np.ndarray, "N D"]:
    """Undo the rounding of float16."""
    vectors = vectors.astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
