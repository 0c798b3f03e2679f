"""Uniform random actions: what every policy must beat, and the zero of normalised scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float


@dataclass
class UniformPolicy:
    """Draws every action from [-1, 1], whatever it sees."""

    size: int
    """Numbers in an action."""
    name: str = "random"
    _chance: dict[int, np.random.Generator] = field(default_factory=dict, repr=False)

    def reset(self, mask: Bool[np.ndarray, " B"], instructions: Sequence[str], generator: np.random.Generator) -> None:
        """Take each starting robot's chance from the generator."""
        self._chance |= dict.fromkeys(np.flatnonzero(mask).tolist(), generator)

    def act(self, observations: Mapping[str, np.ndarray]) -> Float[np.ndarray, "B 1 A"]:
        """One random action each."""
        count = len(next(iter(observations.values())))
        return np.stack([self._chance[k].uniform(-1, 1, (1, self.size)) for k in range(count)])
