"""A robot as data: joints, limits, rate, cameras and driver, read from `robots/<name>/robot.yaml` without hardware.

Everything is in SI units and radians; a driver converts to and from its own units, once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from vlmrl.content import find, places
from vlmrl.errors import ConfigError, unknown
from vlmrl.strict import FROM_PLACE, build, read

Vector = tuple[float, ...]
FILE = "robot.yaml"


@dataclass(frozen=True)
class Joint:
    """One position-controlled joint, a gripper's among them."""

    name: str
    """As the policy's actions and states name it, and as the MJCF does."""
    lower: float
    upper: float
    """Range of positions, rad (m for a slide)."""
    velocity: float
    """Largest speed, rad/s."""
    acceleration: float
    """Largest acceleration and deceleration, rad/s^2."""
    jerk: float
    """Largest rate of change of the acceleration, rad/s^3."""
    home: float = 0.0
    """Position of the home pose, rad."""
    current: float | None = None
    """Largest current, A; null: not measured."""


@dataclass(frozen=True)
class Workspace:
    """A box, in the robot's base frame, that some points of the robot must not leave."""

    low: Vector
    high: Vector
    """m, three numbers each."""
    sites: tuple[str, ...]
    """Sites of the MJCF that are kept inside."""


@dataclass(frozen=True)
class RobotSpec:
    """What is known of a kind of robot before one is connected."""

    name: str
    folder: Path
    joints: tuple[Joint, ...]
    """In the order of actions and states."""
    control_hz: float
    """Rate at which positions are commanded."""
    model: str
    """MJCF, relative to the folder."""
    licence: str
    """Of the model, and where its numbers come from."""
    driver: str
    """What talks to the hardware."""
    tip: str
    """Site of the MJCF that does the work; its z axis is the tool's direction."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What else the driver takes."""
    gripper: str = ""
    """Name of the joint that opens and closes the gripper, if any."""
    workspace: Workspace | None = None
    clearance: float = 0.005
    """Smallest distance between parts of the robot that are no neighbours, m."""
    tracking: float = 0.15
    """Largest distance between commanded and measured position, rad."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the joints."""
        return tuple(joint.name for joint in self.joints)

    @property
    def home(self) -> Float64[np.ndarray, " J"]:
        """The home pose, rad."""
        return np.array([joint.home for joint in self.joints])

    @property
    def centre(self) -> Float64[np.ndarray, " J"]:
        """Middle of each joint's range, rad: action 0."""
        return np.array([(joint.upper + joint.lower) / 2 for joint in self.joints])

    @property
    def half(self) -> Float64[np.ndarray, " J"]:
        """Half of each joint's range, rad: what an action of 1 is away from the middle."""
        return np.array([(joint.upper - joint.lower) / 2 for joint in self.joints])

    @property
    def action_units(self) -> tuple[str, ...]:
        """What 1 means in each number of an action: -1 and 1 are the ends of the joint's range."""
        return tuple(f"{h:.4g} rad about {c:.4g} rad" for h, c in zip(self.half, self.centre, strict=True))

    @property
    def period(self) -> float:
        """Between commands, s."""
        return 1.0 / self.control_hz

    @property
    def path(self) -> Path:
        """Of the MJCF."""
        return self.folder / self.model


def robot_names() -> list[str]:
    """Of every robot there is."""
    return sorted({path.parent.name for place in places("robots") for path in place.glob(f"*/{FILE}")})


def load_robot(name: str) -> RobotSpec:
    """Read `robots/<name>/robot.yaml`.

    Raises:
        ConfigError: if there is no such robot, or a key is unknown, missing, mistyped or makes no sense.
    """
    if name not in robot_names():
        raise unknown("robot", name, robot_names())
    path = find("robots", name) / FILE
    spec = build(RobotSpec, read(path) | {"name": name, "folder": path.parent}, str(path), hidden=FROM_PLACE)
    check(spec, str(path))
    return spec


def check(spec: RobotSpec, where: str) -> None:
    """Refuse limits within which a robot could not move or stop.

    Raises:
        ConfigError: naming the first one.
    """
    if not spec.joints or len(set(spec.names)) != len(spec.names):
        raise ConfigError(f"{where}: joints with different names wanted, found {list(spec.names)}")
    if spec.control_hz <= 0 or spec.tracking <= 0 or spec.clearance < 0:
        raise ConfigError(
            f"{where}: control_hz and tracking above 0 and clearance of at least 0 wanted, "
            f"found {spec.control_hz}, {spec.tracking}, {spec.clearance}"
        )
    for joint in spec.joints:
        if not joint.lower < joint.upper or not joint.lower <= joint.home <= joint.upper:
            raise ConfigError(
                f"{where}: joint {joint.name!r}: lower below upper and home between them wanted, "
                f"found {joint.lower}, {joint.upper}, {joint.home}"
            )
        if min(joint.velocity, joint.acceleration, joint.jerk) <= 0:
            raise ConfigError(f"{where}: joint {joint.name!r}: velocity, acceleration and jerk must be above 0")
    if spec.gripper and spec.gripper not in spec.names:
        raise ConfigError(f"{where}: {unknown('gripper joint', spec.gripper, spec.names)}")
    box = spec.workspace
    if box and (len(box.low) != 3 or len(box.high) != 3 or not all(a < b for a, b in zip(box.low, box.high))):  # noqa: B905 - lengths are checked before
        raise ConfigError(
            f"{where}: workspace: low below high, three numbers each, wanted; found {box.low}, {box.high}"
        )
    if box and not box.sites:
        raise ConfigError(f"{where}: workspace: name at least one site that must stay inside")


@dataclass(frozen=True)
class Observed:
    """What a robot says about itself at one moment."""

    time: float
    """When it was read, by the driver's clock that never goes back, s."""
    position: Float64[np.ndarray, " J"]
    """rad"""
    velocity: Float64[np.ndarray, " J"]
    """rad/s"""
    current: Float64[np.ndarray, " J"] | None = None
    """A; None where the driver cannot measure it."""


@runtime_checkable
class Robot(Protocol):
    """A connected robot. Everything is in rad, rad/s and A, joints in the order of the specification."""

    spec: RobotSpec

    def connect(self) -> None:
        """Open the connection and check that it is this robot; nothing moves, torque stays off.

        Raises:
            RobotError: saying what was found and what to do.
        """
        ...

    def enable(self) -> None:
        """Switch torque on; the robot holds where it is."""
        ...

    def release(self) -> None:
        """Switch torque off: a person may move the robot, and it falls where nobody holds it.

        Raises:
            RobotError: if it does not answer.
        """
        ...

    def observe(self) -> Observed:
        """Read every joint.

        Raises:
            RobotError: if the robot does not answer.
        """
        ...

    def command(self, position: Float64[np.ndarray, " J"]) -> Float64[np.ndarray, " J"]:
        """Send positions, and return what was truly sent after rounding to the robot's own units.

        Raises:
            RobotError: if it could not be sent.
        """
        ...

    def stop(self) -> None:
        """Hold where it is by the robot's own means; never raises."""
        ...

    def close(self) -> None:
        """Give the connection back; torque stays as it is, for an arm without it falls."""
        ...
