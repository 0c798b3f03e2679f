"""Zero-shot reward of an image-text dual encoder: how much a picture looks like the goal.

The formula is VLM-RM's, `vlmrl.encoder.vlmrm_reward`. Over a store it reads the embedding column, so that prompts and
alpha cost milliseconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from vlmrl.annotate.embeddings import embeddings
from vlmrl.encoder import DualEncoder, check_prompts, vlmrm_reward
from vlmrl.errors import ConfigError, DataError
from vlmrl.reward.alignment import on_next_row, shown
from vlmrl.store import Store
from vlmrl.types import Episode


@dataclass(frozen=True)
class Config:
    """A zero-shot reward."""

    checkpoint: str = "seen"
    """The built-in judge (seen, zeroshot), or any CLIP or SigLIP: a folder, or a hub id with an optional @revision."""
    camera: str | None = None
    """Whose pictures are scored; null: the store's first."""
    goals: tuple[str, ...] = ()
    """What is to be seen in the end, in one or several wordings; empty: each episode's recorded sentence."""
    baselines: tuple[str, ...] = ()
    """The scene without the goal, as many as there are goals; only alpha above 0 needs them."""
    alpha: float = 0.0
    """From 0, the cosine, to 1, only what changes from baseline to goal counts."""
    device: str = "auto"
    """auto: the GPU where there is one."""

    def __post_init__(self) -> None:
        check_prompts(max(1, len(self.goals)), len(self.baselines), self.alpha)


def build(config: Config, *, encoder: DualEncoder | None = None) -> "ClipReward":
    """The rewarder; `encoder` spares loading the checkpoint.

    Raises:
        ConfigError: if the checkpoint cannot be loaded, no camera is named, or prompts and alpha do not fit.
    """
    if config.camera is None:
        raise ConfigError("clip: camera is null; say whose pictures are scored")
    encoder = encoder or DualEncoder.load(config.checkpoint, device=config.device)
    return ClipReward(config, encoder, camera=config.camera)


class ClipReward:
    """Scores pictures of one camera against prompts."""

    name = "clip"

    def __init__(self, config: Config, encoder: DualEncoder, *, camera: str) -> None:
        """Embed the prompts that are known already, so that wrong ones are found before any picture is."""
        self.config, self.encoder, self.camera = config, encoder, camera
        self.sees = (camera, encoder.size)
        self._known: dict[tuple[str, ...], Float32[np.ndarray, "P D"]] = {}
        if config.goals:
            self.score(np.zeros((0, encoder.dim), np.float32), config.goals)

    def score(self, vectors: Float[np.ndarray, "M D"], goals: tuple[str, ...]) -> Float32[np.ndarray, " M"]:
        """Reward of pictures' unit vectors."""
        baselines = self._prompts(self.config.baselines) if self.config.baselines else None
        return vlmrm_reward(vectors, self._prompts(goals), baselines, self.config.alpha)

    def reward(self, episode: Episode) -> tuple[Float32[np.ndarray, " T"], Float32[np.ndarray, " T"]]:
        """Score of what the next row shows, interpolated linearly between pictures; the deviation is 0."""
        rows, pixels = shown(episode, self.camera)
        scores = self.score(self.encoder.images(pixels), self._goals(episode.instruction, episode.id))
        return _columns(on_next_row(rows, scores[:, None], episode.has_next)[:, 0])

    def column(self, store: Store) -> tuple[Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]]:
        """The same for every episode of a store, from its embedding column, which is made where it is missing.

        Raises:
            DataError: if an episode has no picture.
        """
        vectors, table, has_next = (
            embeddings(store, self.camera, self.encoder),
            store.episodes,
            store.column("has_next"),
        )
        mean = np.full(len(store), np.nan)
        for id, sentence, start, stop in zip(table.id, table.instruction, table.start, table.stop, strict=True):
            rows = np.flatnonzero(~np.isnan(vectors[start:stop, 0]))
            if not len(rows):
                raise DataError(f"episode {id!r} has no picture of camera {self.camera!r}: nothing to judge")
            scores = self.score(vectors[start + rows], self._goals(sentence, id))
            mean[start:stop] = on_next_row(rows, scores[:, None], has_next[start:stop])[:, 0]
        return _columns(mean)

    def provenance(self) -> Mapping[str, object]:
        """Checkpoint by name and content, prompts and alpha."""
        return {
            "camera": self.camera,
            "checkpoint": self.encoder.name,
            "sha256": self.encoder.fingerprint,
            "goals": list(self.config.goals) or "each episode's recorded sentence",
            "baselines": list(self.config.baselines),
            "alpha": self.config.alpha,
        }

    def _goals(self, sentence: str, id: str) -> tuple[str, ...]:
        if not self.config.goals and not sentence:
            raise ConfigError(f"episode {id!r} has no recorded sentence: say the goal, rewarder.goals=['...']")
        return self.config.goals or (sentence,)

    def _prompts(self, sentences: tuple[str, ...]) -> Float32[np.ndarray, "P D"]:
        if sentences not in self._known:
            self._known[sentences] = self.encoder.texts(sentences)
        return self._known[sentences]


def _columns(mean: Float[np.ndarray, " N"]) -> tuple[Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]]:
    return mean.astype(np.float32), np.where(np.isnan(mean), np.nan, 0).astype(np.float32)
