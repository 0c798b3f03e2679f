"""Reward learned from preferences: an ensemble built from four choices, each a small table.

- `input`: what it looks at (`vlmrl.reward.inputs`);
- `model`: how numbers of rows make the score of a clip (`vlmrl.reward.heads`);
- `loss`: how wrong labels are dealt with (`vlmrl.reward.losses`);
- `trunk`: whether members are networks of their own (`vlmrl.reward.network`).

The default is RL-VLM-F's, single frames and a network of four convolutions and a linear layer, with four changes. The
loss is `absolute`, which a minority of wrong answers does not move, instead of Bradley-Terry's. The output is linear:
most pairs compare something with nothing, and a tanh then saturates at the first sign of progress (on drawer_open at
30 % of the way), which leaves no reward for going on; `tanh` brings it back. Pictures are brought to 64x64.
Each member has its own initial weights and its own bootstrap of the labels.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from vlmrl.artefact import load, save
from vlmrl.reward.scorer import Scorer
from vlmrl.reward.settings import Config
from vlmrl.store import Store
from vlmrl.types import Episode

__all__ = ["Config", "PreferenceReward", "build"]

KIND = "preference reward"


def build(scorer: Scorer, *, facts: Mapping[str, Any]) -> "PreferenceReward":
    """The rewarder of a trained ensemble; `facts` is what is known of it: labels, snapshot, held-out accuracy."""
    return PreferenceReward(scorer, facts)


class PreferenceReward:
    """The trained ensemble as a rewarder of episodes and stores."""

    name = "preference"

    def __init__(self, scorer: Scorer, facts: Mapping[str, Any]) -> None:
        """`facts` is what is known of it: labels, snapshot, held-out accuracy."""
        self.scorer, self.facts = scorer, dict(facts)
        self.config, self.camera, self.sees = scorer.config, scorer.camera, scorer.sees

    def reward(self, episode: Episode) -> tuple[Float32[np.ndarray, " T"], Float32[np.ndarray, " T"]]:
        """Mean and deviation over members, of what the next row shows or of the transition to it.

        Raises:
            DataError: if the episode lacks what the input looks at.
        """
        return _columns(self.scorer.of_episode(episode))

    def column(self, store: Store) -> tuple[Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]]:
        """The same for every episode of a store.

        Raises:
            DataError: if an episode has no row that the input can judge.
        """
        return _columns(self.scorer.of_store(store))

    def provenance(self) -> Mapping[str, object]:
        """Settings and facts."""
        return {"camera": self.camera, "config": asdict(self.config), **self.facts}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, weights and card."""
        content, tensors = self.scorer.content()
        save(Path(folder), kind=KIND, config=content | {"facts": self.facts}, tensors=tensors, card=self.card())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "PreferenceReward":
        """Read a folder or hub repository written by `save_pretrained`.

        Raises:
            DataError: if it is damaged, or was written before a reward's input could be chosen.
        """
        content, tensors = load(folder, kind=KIND)
        return cls(Scorer.restored(content, tensors), content["facts"])

    def card(self) -> str:
        """What a reader must know before trusting it."""
        facts, config, source = self.facts.items(), self.config, self.scorer.source
        known = "\n".join(f"- {key}: {value}" for key, value in facts)
        looks = f"camera `{', '.join(source.cameras)}`" if source.cameras else f"`{', '.join(source.obs)}`"
        return (
            f"# Preference reward\n\nAn ensemble of {config.members} on {looks} (input {config.input}, model "
            f"{config.model}, loss {config.loss}), trained by vlmrl.\n\n{known}\n"
        )


def _columns(members: Float[np.ndarray, "T M"]) -> tuple[Float32[np.ndarray, " T"], Float32[np.ndarray, " T"]]:
    return members.mean(1).astype(np.float32), members.std(1).astype(np.float32)
