"""What varies from one episode to the next: ranges in `task.yaml`, and the values of one episode.

Every value has a stream of its own, from the episode's number and the value's name: adding one changes no other, and
none takes from the stream that draws the initial state.
"""

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np
from jaxtyping import Float64

from vlmrl.errors import ConfigError, unknown

Vector = tuple[float, ...]

SPLITS = ("train", "held_out")
"""Names of the ranges that a task keeps apart."""


@dataclass(frozen=True)
class Variation:
    """Ranges of values that are drawn anew for every episode; empty: as the scene is.

    A range is low and high, or several such pairs in rising order: `[0.4, 0.7, 1.5, 2]` is darker or brighter, not in
    between.
    """

    camera_position_m: Vector = ()
    """How far each camera stands from its place, in any direction."""
    camera_rotation_rad: Vector = ()
    """How far each camera is turned, about any axis through it."""
    light_factor: Vector = ()
    """On every lamp of the scene and the headlight."""
    colour_factor: Vector = ()
    """On red, green and blue of every surface, each drawn by itself."""
    distractors: Vector = ()
    """Objects that are drawn but touch nothing."""
    distractor_places: Vector = ()
    """Where they stand, m: x low, x high, y low, y high and height of the ground, for one place after another."""
    distractor_size_m: Vector = (0.015, 0.035)
    """Half of their width, from low to high."""
    mass_factor: Vector = ()
    """On mass and inertia of everything that moves but the robot."""
    friction_factor: Vector = ()
    """On friction in contacts, and on friction and damping of every joint but the robot's."""
    action_delay_steps: Vector = ()
    """Control steps until an action is carried out; zeros before the first."""
    action_noise: Vector = ()
    """Standard deviation of what is added to each action, whose range is [-1, 1]."""
    push_n: Vector = ()
    """Force of pushes on one body or another that moves but is not the robot's, in any direction: a fifth of the time,
    0.1 s each."""
    observation_noise: Vector = ()
    """Standard deviation of what is added to each observed number, in its own unit; `frame` shows the truth."""
    dropped_frames: Vector = ()
    """Share of steps at which the previous observation is seen again."""

    @property
    def active(self) -> bool:
        """Whether anything is drawn."""
        return any(getattr(self, key) for key in RANGES)

    def settings(self) -> dict[str, list[float]]:
        """What is drawn, JSON-ready."""
        kept = (*RANGES, *(("distractor_places", "distractor_size_m") if self.distractors else ()))
        return {key: list(value) for key, value in asdict(self).items() if key in kept and value}

    def check(self, where: str) -> None:
        """Refuse ranges that make no sense.

        Raises:
            ConfigError: what was found, and what is wanted.
        """
        for key in RANGES:
            _check_range(getattr(self, key), key, where)
        places = self.distractor_places
        boxes = [places[k : k + 5] for k in range(0, len(places), 5)]
        if any(len(box) != 5 or box[0] > box[1] or box[2] > box[3] for box in boxes):
            raise ConfigError(
                f"{where}.distractor_places: x low, x high, y low, y high, ground for each, found {list(places)}"
            )
        if self.distractors and not places:
            raise ConfigError(f"{where}.distractors needs distractor_places: x low, x high, y low, y high, ground (m)")
        size = self.distractor_size_m
        if len(size) != 2 or not 0 < size[0] <= size[1]:
            raise ConfigError(f"{where}.distractor_size_m: low and high above 0 wanted, found {list(size)}")


RANGES = tuple(f.name for f in fields(Variation) if f.name not in ("distractor_places", "distractor_size_m"))
COUNTS = ("distractors", "action_delay_steps")
"""Ranges of whole numbers."""
LOOKS = ("camera_position_m", "camera_rotation_rad", "light_factor", "colour_factor", "distractors")
"""What changes pictures and nothing else."""


def _check_range(bounds: Vector, key: str, where: str) -> None:
    if len(bounds) % 2 or list(bounds) != sorted(bounds) or not np.isfinite(bounds).all():
        raise ConfigError(f"{where}.{key}: pairs of low and high in rising order wanted, found {list(bounds)}")
    if key in COUNTS and any(b != int(b) for b in bounds):
        raise ConfigError(f"{where}.{key}: whole numbers wanted, found {list(bounds)}")
    lowest = 1e-3 if key in ("mass_factor", "friction_factor") else 0.0
    highest = 1.0 if key == "dropped_frames" else np.inf
    if bounds and not (lowest <= bounds[0] and bounds[-1] <= highest):
        limits = f"from {lowest:g}" + (f" to {highest:g}" if np.isfinite(highest) else "")
        raise ConfigError(f"{where}.{key}: numbers {limits} wanted, found {list(bounds)}")


def check_splits(variations: Mapping[str, Variation], where: str) -> None:
    """Check the ranges of a task, and that what is held out has not been trained on.

    Raises:
        ConfigError: if two ranges of one value meet.
    """
    for split, variation in variations.items():
        if split not in SPLITS:
            raise ConfigError(f"{where}: {unknown('split', split, SPLITS)}")
        variation.check(f"{where}.{split}")
    train, held_out = (variations.get(split, Variation()) for split in SPLITS)
    for key in RANGES:
        # What a training does not vary, it sees as the scene is.
        nominal = 1.0 if key.endswith("_factor") else 0.0
        a, b = getattr(train, key) or (nominal, nominal), getattr(held_out, key)
        if any(low <= top and bottom <= high for low, high in _pairs(a) for bottom, top in _pairs(b)):
            raise ConfigError(f"{where}: {key} is held out in {list(b)}, which meets {list(a)} of train")


def stream(episode: int, name: str, *more: int) -> np.random.Generator:
    """The generator of one value of an episode; `more` tells the steps apart."""
    return np.random.default_rng([episode, zlib.crc32(name.encode()), *more])


def draw(variation: Variation, episode: int) -> dict[str, float]:
    """The values of an episode, for each range that is not empty; colours have many, drawn where they are used."""
    given = {key: getattr(variation, key) for key in RANGES if key != "colour_factor"}
    return {key: _value(bounds, key, stream(episode, key)) for key, bounds in given.items() if bounds}


def _value(bounds: Vector, key: str, generator: np.random.Generator) -> float:
    if key in COUNTS:
        return float(generator.choice([n for low, high in _pairs(bounds) for n in range(int(low), int(high) + 1)]))
    return float(spread(bounds, (), generator))


def spread(bounds: Vector, shape: tuple[int, ...], generator: np.random.Generator) -> Float64[np.ndarray, "..."]:
    """Numbers drawn evenly over the intervals of a range together; single points count alike."""
    low, high = np.array(bounds).reshape(-1, 2).T
    widths = high - low
    shares = widths / widths.sum() if widths.sum() > 0 else np.full(len(widths), 1 / len(widths))
    chosen = generator.choice(len(widths), size=shape, p=shares)
    return np.asarray(low[chosen] + widths[chosen] * generator.random(shape))


def _pairs(bounds: Vector) -> list[tuple[float, float]]:
    return list(zip(bounds[::2], bounds[1::2], strict=True))
