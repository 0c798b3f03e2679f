"""What a learned reward looks at, one file an input.

Each file has `NEXT` (whether it judges what a row shows, so that its value is the reward of the row before, or the
transition that starts there), `rows` (global rows that it can judge), `read` (those rows as one stack), `of_episode`
(the same of an episode in hand), and `network` (how a stack enters the network, and its trunk).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from vlmrl.errors import unknown

INPUTS: Mapping[str, str] = {
    "embedding": "vlmrl.reward.inputs.embedding",
    "image": "vlmrl.reward.inputs.image",
    "state": "vlmrl.reward.inputs.state",
    "state_action": "vlmrl.reward.inputs.state_action",
}


@dataclass(frozen=True)
class Source:
    """Where an input finds what it looks at."""

    cameras: tuple[str, ...]
    size: tuple[int, int]
    """Height and width that pictures are brought to."""
    obs: tuple[str, ...]
    """Keys of the observation, joined."""
    encoder: str
    """Checkpoint whose embeddings are read."""


def load_input(name: str) -> Any:
    """The module of an input.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in INPUTS:
        raise unknown("input", name, INPUTS)
    return import_module(INPUTS[name])
