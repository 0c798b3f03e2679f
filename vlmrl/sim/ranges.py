"""Ranges from which episodes draw looks, dynamics and senses: what is trained on, and what is kept for examination."""

from dataclasses import dataclass, fields
from typing import Literal

from vlmrl.errors import ConfigError

Range = tuple[float, ...]
"""Low and high, both included."""
Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class Variation:
    """What varies from episode to episode; by default nothing."""

    camera_m: Range = (0.0, 0.0)
    """How far cameras are shifted, in any direction; that of videos stays."""
    camera_turn: Range = (0.0, 0.0)
    """How far they are turned about their own place, in parts of their opening angle."""
    light: Range = (1.0, 1.0)
    """Factor on all lights."""
    colour: Range = (0.0, 0.0)
    """Largest relative change of a surface's red, green and blue."""
    distractors: Range = (0.0, 0.0)
    """Things that are drawn and that nothing touches."""
    mass: Range = (1.0, 1.0)
    """Factor on all masses."""
    friction: Range = (1.0, 1.0)
    """Factor on all sliding friction."""
    delay_steps: Range = (0.0, 0.0)
    """Control steps that an action is late."""
    noise: Range = (0.0, 0.0)
    """Standard deviation of what is added to each number of the state, in its own unit."""
    drop: Range = (0.0, 0.0)
    """Chance that an observation is lost, and the one before it is seen again."""
    push: Range = (0.0, 0.0)
    """Largest push, in parts of the largest action, for spells of ten control steps."""


@dataclass(frozen=True)
class Variations:
    """What policies may be trained on, and what is kept for their examination."""

    train: Variation = Variation(
        camera_m=(0.0, 0.03),
        camera_turn=(0.0, 0.05),
        light=(0.7, 1.3),
        colour=(0.0, 0.3),
        distractors=(0.0, 3.0),
        mass=(0.8, 1.25),
        friction=(0.8, 1.25),
        delay_steps=(0.0, 1.0),
        noise=(0.0, 0.002),
    )
    held_out: Variation = Variation(
        camera_m=(0.03, 0.06),
        camera_turn=(0.05, 0.1),
        light=(1.3, 1.6),
        colour=(0.3, 0.5),
        distractors=(4.0, 6.0),
        mass=(1.25, 1.6),
        friction=(1.25, 1.6),
        delay_steps=(2.0, 3.0),
        noise=(0.002, 0.005),
    )


def check(variation: Variation, where: str) -> None:
    """Refuse ranges that make no sense.

    Raises:
        ConfigError: which, and what is wanted.
    """
    for field in fields(Variation):
        found = getattr(variation, field.name)
        if len(found) != 2 or not 0 <= found[0] <= found[1]:
            raise ConfigError(f"{where}.{field.name}: [low, high] from 0 up wanted, found {list(found)}")


def check_apart(variations: Variations, where: str) -> None:
    """Refuse train and held-out ranges that overlap in more than an end.

    Raises:
        ConfigError: which do.
    """
    for split in ("train", "held_out"):
        check(getattr(variations, split), f"{where}.{split}")
    for field in fields(Variation):
        train, held_out = getattr(variations.train, field.name), getattr(variations.held_out, field.name)
        none = getattr(Variation(), field.name)
        if none not in (train, held_out) and train[0] < held_out[1] and held_out[0] < train[1]:
            raise ConfigError(
                f"{where}: {field.name} is {list(train)} in train and {list(held_out)} in held_out; "
                "ranges that do not overlap wanted"
            )
