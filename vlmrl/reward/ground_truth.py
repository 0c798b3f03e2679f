"""The simulator's own reward: the ceiling that learned rewards are compared with, never a default."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from vlmrl.errors import DataError
from vlmrl.types import Episode


@dataclass(frozen=True)
class Config:
    """Which privileged quantity is the reward."""

    key: str = "reward"
    """Of the store's `truth`; its value at row i+1 is the reward of row i."""


@dataclass(frozen=True)
class GroundTruthReward:
    """Reads `truth/<key>`."""

    key: str
    name = "ground_truth"
    sees = None

    def reward(self, episode: Episode) -> tuple[Float32[np.ndarray, " T"], Float32[np.ndarray, " T"]]:
        """The simulator's reward for arriving at the next row, without doubt."""
        if self.key not in episode.truth:
            have = ", ".join(sorted(episode.truth)) or "nothing: these logs are not from a simulator"
            raise DataError(f"episode {episode.id!r} has no ground truth {self.key!r}; have: {have}")
        mean = np.full(len(episode), np.nan, np.float32)
        mean[:-1] = episode.truth[self.key][1:]
        mean[~episode.has_next] = np.nan
        return mean, np.where(episode.has_next, 0, np.nan).astype(np.float32)

    def provenance(self) -> Mapping[str, object]:
        """Which quantity it was."""
        return {"truth": self.key}


def build(config: Config) -> GroundTruthReward:
    """The rewarder."""
    return GroundTruthReward(config.key)
