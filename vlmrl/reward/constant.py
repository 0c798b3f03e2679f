"""The same reward everywhere: what a learner gets from the data alone. A baseline of every report."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from vlmrl.types import Episode


@dataclass(frozen=True)
class Config:
    """No settings."""


class ConstantReward:
    """Zero for every transition."""

    name = "constant"
    sees = None

    def reward(self, episode: Episode) -> tuple[Float32[np.ndarray, " T"], Float32[np.ndarray, " T"]]:
        """Zeros, NaN where there is no next row."""
        mean = np.where(episode.has_next, 0, np.nan).astype(np.float32)
        return mean, mean

    def provenance(self) -> Mapping[str, object]:
        """Nothing was learned."""
        return {}


def build(config: Config) -> ConstantReward:
    """The rewarder."""
    return ConstantReward()
