"""What a learner sees: numbers of an observation, by key, and pictures of cameras, read when they are wanted."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt8

from vlmrl.errors import ConfigError

PREFIX = "image/"
"""Observations of cameras are named `image/<camera>`: uint8 RGB, (B, H, W, 3), as the camera gives them."""
EMBEDDING = "embedding/"
"""Observations that a frozen encoder makes of pictures are named `embedding/<encoder>/<camera>`."""
SENTENCE = "sentence/"
"""Observations that a frozen encoder makes of the task's sentence are named `sentence/<encoder>`."""
INSTRUCTIONS = "instructions"
"""Under which name each robot's sentence stands among observations."""


@dataclass(frozen=True)
class Sight:
    """How learners and policies look at pictures."""

    size: tuple[int, int] = (64, 64)
    """Height and width that pictures are brought to."""
    crop: float = 0.9
    """Share of height and width that is looked at: a random place in training, the centre in use; 1: everything."""
    colour: float = 0.1
    """Brightness, contrast and saturation in training change by factors of up to 1 plus or minus this."""
    channels: tuple[int, ...] = (16, 32, 64, 128)
    """Of the residual stages, two blocks each: a ResNet-18 of a quarter of its width. ResNet-18 itself is
    [64,128,256,512]: ten times the work."""
    keypoints: int = 32
    """Places that each camera's encoder finds in a picture: twice as many features."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the convolutions in training; auto takes bfloat16 where the processor multiplies it natively. Policies and
    values look in float32."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1 or not 0 <= self.colour < 1 or self.keypoints < 1 or not self.channels:
            found = f"{self.crop}, {self.colour}, {self.keypoints} and {self.channels}"
            raise ConfigError(
                "sight: crop above 0 and up to 1, colour from 0 and below 1, keypoints from 1 and channels "
                f"wanted, found {found}"
            )

    @property
    def cropped(self) -> tuple[int, int]:
        """Height and width of what is looked at."""
        height, width = (max(1, round(self.crop * side)) for side in self.size)
        return height, width


@dataclass(frozen=True)
class Pictures:
    """Pictures of transitions, none of which is in memory before it is read."""

    cameras: tuple[str, ...]
    sight: Sight
    row: Int64[np.ndarray, " N"]
    """Row of the store of each transition."""
    read: Callable[[str, Int64[np.ndarray, " n"]], UInt8[np.ndarray, "n H W 3"]]
    """A camera's pictures at rows of the store, brought to the sight's size; where a row has none, the one before."""
    step: int = 1
    """Rows from a transition's observation to its next."""

    def __getitem__(self, rows: np.ndarray) -> "Pictures":
        return replace(self, row=self.row[rows])


def embedding(key: str) -> tuple[str, str] | None:
    """Encoder (a checkpoint as `vlmrl.encoder` names it) and camera of a key `embedding/ENCODER/CAMERA`, else None."""
    if not key.startswith(EMBEDDING):
        return None
    encoder, _, camera = key.removeprefix(EMBEDDING).rpartition("/")
    if not encoder or not camera:
        raise ConfigError(f"embedding/ENCODER/CAMERA wanted (embedding/seen/judge), found {key!r}")
    return encoder, camera


def sentence(key: str) -> str | None:
    """Encoder of a key `sentence/ENCODER`, else None."""
    return key.removeprefix(SENTENCE) if key.startswith(SENTENCE) and key != SENTENCE else None


def axes(key: str, value: np.ndarray) -> int:
    """Axes of an observation, those of a picture counted as one: 2 for one of each robot, 3 for several in time."""
    return value.ndim - 2 if key.startswith(PREFIX) else value.ndim


def named(key: str) -> tuple[str, slice]:
    """The observation that a key names, and which of its numbers: `state` all of them, `state:0:4` the first four.

    Raises:
        ConfigError: if it is neither.
    """
    found = re.fullmatch(r"([^:]+)(?::(\d+):(\d+))?", key)
    if found is None or (found[2] and int(found[2]) >= int(found[3])):
        raise ConfigError(
            f"observation KEY or KEY:FIRST:STOP wanted (state:0:4: its first four numbers), found {key!r}"
        )
    return found[1], slice(int(found[2]), int(found[3])) if found[2] else slice(None)
