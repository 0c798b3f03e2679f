"""The last observations of an episode, for policies that look back."""

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from vlmrl.sight import PREFIX
from vlmrl.sim import SimEnv


def pictured(env: SimEnv, observation: Mapping[str, np.ndarray], cameras: Sequence[str]) -> Mapping[str, np.ndarray]:
    """The observation with what cameras show at this moment."""
    return {**observation, **{f"{PREFIX}{camera}": env.frame(camera) for camera in cameras}} if cameras else observation


class Recent:
    """Keeps the last `length` observations of one robot."""

    def __init__(self, length: int, first: Mapping[str, np.ndarray]) -> None:
        self._seen = deque([first] * length, maxlen=length)

    def add(self, observation: Mapping[str, np.ndarray]) -> None:
        """See one more."""
        self._seen.append(observation)

    def shown(self) -> Mapping[str, np.ndarray]:
        """The latest observation; where more than one is kept, all of them along a first axis, the oldest first."""
        if len(self._seen) == 1:
            return self._seen[0]
        return {key: np.stack([one[key] for one in self._seen]) for key in self._seen[-1]}
