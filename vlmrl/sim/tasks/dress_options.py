"""What a dressing task may say in `physics.options` and `resets.ranges`."""

from collections.abc import Mapping
from dataclasses import dataclass

from vlmrl.errors import ConfigError, unknown
from vlmrl.sim.task import Task, Vector, parsed
from vlmrl.sim.tasks.dress_bank import GARMENTS, PEOPLE
from vlmrl.sim.tasks.dress_expert import PATHS


@dataclass(frozen=True)
class Options:
    """`physics.options` of a dressing task."""

    people: tuple[str, ...] = ("medium",)
    """Members of `dress_bank.PEOPLE`; a seed draws one."""
    garments: tuple[str, ...] = ("purple_jacket",)
    """Members of `dress_bank.GARMENTS`; a seed draws one."""
    force_limit_n: float = 15.0
    """Of the sum over all contacts between garment and arm; the gripper stops there."""
    cloud_points: int = 0
    """Points of the observation `cloud`; 0: none."""
    cloud_camera: str = "depth"
    """The camera of the task that sees them."""
    path: str = "along"
    """Way of the scripted expert, one of `dress_expert.PATHS`."""


RANGES = (
    "shoulder_height",
    "upper_arm_slope",
    "upper_arm_yaw",
    "elbow",
    "elbow_yaw",
    "gripper_ahead",
    "gripper_aside",
    "gripper_above",
)
"""What a seed draws evenly.

Shoulder: m above the floor. Upper arm: rad below the horizontal, and to the person's left. Elbow: rad by which the
forearm is bent up against the upper arm, and to the left. Gripper: m from the fingertips, on along the forearm, to its
left, and up.
"""


def read_options(task: Task) -> Options:
    """Check a task's options.

    Raises:
        ConfigError: if one is unknown, of the wrong type, or names what does not exist.
    """
    where, options = f"task {task.name!r}: physics.options", parsed(Options, task)
    for kind, names, have in (
        ("person", options.people, PEOPLE),
        ("garment", options.garments, GARMENTS),
        ("path", (options.path,), PATHS),
        ("camera", (options.cloud_camera,) if options.cloud_points else (), task.cameras),
    ):
        for name in names:
            if name not in have:
                raise ConfigError(f"{where}: {unknown(kind, name, have)}")
    if options.force_limit_n <= 0 or options.cloud_points < 0 or not options.people or not options.garments:
        raise ConfigError(
            f"{where}: a force_limit_n above 0, people and garments wanted, found {dict(task.physics.options)}"
        )
    return options


def read_ranges(task: Task) -> Mapping[str, Vector]:
    """Check that a task's ranges are exactly `RANGES`, low and high.

    Raises:
        ConfigError: if not.
    """
    where, ranges = f"task {task.name!r}: resets.ranges", task.resets.ranges
    for name in ranges:
        if name not in RANGES:
            raise ConfigError(f"{where}: {unknown('range', name, RANGES)}")
    if missing := [name for name in RANGES if name not in ranges]:
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    for name, ends in ranges.items():
        if len(ends) != 2 or ends[0] > ends[1]:
            raise ConfigError(f"{where}.{name}: [low, high] wanted, found {list(ends)}")
    return ranges
