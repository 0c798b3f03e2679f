"""Between Gymnasium's spaces and numbers with names: actions in [-1, 1], flat observations, scalars of `info`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32

from vlmrl.errors import ConfigError


@dataclass(frozen=True)
class Actions:
    """From [-1, 1] to the environment's own actions."""

    space: "spaces.Box | spaces.Discrete"

    @property
    def names(self) -> tuple[str, ...]:
        """One name a number."""
        if isinstance(self.space, spaces.Discrete):
            return ("choice",)
        return tuple(f"action_{i}" for i in range(int(np.prod(self.space.shape))))

    @property
    def units(self) -> tuple[str, ...]:
        """What 1 stands for."""
        if isinstance(self.space, spaces.Discrete):
            return (f"choice {int(self.space.start) + int(self.space.n) - 1}",)
        return tuple(f"{high:g}" for high in self.space.high.ravel())

    def __call__(self, action: Float32[np.ndarray, " A"]) -> Any:
        """The environment's action; the range is cut evenly among choices."""
        space = self.space
        if isinstance(space, spaces.Discrete):
            return int(space.start) + min(int((float(action[0]) + 1) / 2 * int(space.n)), int(space.n) - 1)
        middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
        return (middle + half * action.reshape(space.shape)).astype(space.dtype)


def actions(space: "spaces.Space[Any]", name: str) -> Actions:
    """Take an action space that numbers in [-1, 1] can fill.

    Raises:
        ConfigError: if it is another.
    """
    finite = isinstance(space, spaces.Box) and bool(np.isfinite([space.low, space.high]).all())
    if not (finite or isinstance(space, spaces.Discrete)):
        raise ConfigError(f"Gymnasium environment {name!r}: actions in a bounded Box or Discrete wanted, found {space}")
    return Actions(space)  # pyright: ignore[reportArgumentType]


def numbers(
    space: "spaces.Space[Any]", name: str
) -> tuple[tuple[str, ...], Float32[np.ndarray, " D"], Float32[np.ndarray, " D"]]:
    """Names and bounds of the flattened observation: `obs_0`, or `<key>_0` in a dictionary.

    Raises:
        ConfigError: if it is not made of numbers.
    """
    if isinstance(space, spaces.Dict):
        parts = [(f"{key}_", part) for key, part in space.spaces.items()]
    else:
        parts = [("obs_", space)]
    if not all(isinstance(part, spaces.Box) for _, part in parts):
        raise ConfigError(f"Gymnasium environment {name!r}: observations of numbers (Box) wanted, found {space}")
    names = tuple(f"{prefix}{i}" for prefix, part in parts for i in range(int(np.prod(part.shape or (1,)))))
    limit = np.finfo(np.float32).max
    low, high = (
        np.clip(np.concatenate([np.ravel(getattr(part, side)) for _, part in parts]), -limit, limit)
        for side in ("low", "high")
    )
    return names, low.astype(np.float32), high.astype(np.float32)


def scalars(info: Mapping[str, Any]) -> dict[str, float]:
    """What `info` tells in single numbers."""
    single = {k: np.asarray(v) for k, v in info.items() if isinstance(v, (bool, int, float, np.generic, np.ndarray))}
    return {k: float(v.item()) for k, v in single.items() if v.size == 1 and v.dtype.kind in "bif"}


def to_goal(values: Mapping[str, float]) -> dict[str, float]:
    """Distance of what is reached from what is wanted, where an observation tells both."""
    pairs: Sequence[tuple[float, float]] = [
        (v, values[k.replace("achieved", "desired", 1)])
        for k, v in values.items()
        if k.startswith("achieved_goal_") and k.replace("achieved", "desired", 1) in values
    ]
    return {"to_goal": float(np.linalg.norm([a - b for a, b in pairs]))} if pairs else {}
