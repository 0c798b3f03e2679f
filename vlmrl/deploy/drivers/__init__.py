"""What talks to robots: one file a driver, each with `Config` and `build(spec, config)`."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from vlmrl.errors import ConfigError, unknown
from vlmrl.robot import Robot, RobotSpec
from vlmrl.strict import build, read

DRIVERS = {
    "dynamixel": "vlmrl.deploy.drivers.dynamixel",
    "feetech": "vlmrl.deploy.drivers.feetech",
    "mujoco": "vlmrl.deploy.drivers.mujoco",
}
"""Name to module, imported on use."""

_PACKAGES = {"dynamixel_sdk": "dynamixel-sdk", "scservo_sdk": "feetech-servo-sdk", "serial": "pyserial"}


def driver(name: str) -> ModuleType:
    """The module of a driver.

    Raises:
        ConfigError: if there is none of that name, or a package that it needs is not installed.
    """
    if name not in DRIVERS:
        raise unknown("driver", name, DRIVERS)
    try:
        return import_module(DRIVERS[name])
    except ModuleNotFoundError as e:
        package = _PACKAGES.get(e.name or "", e.name)
        raise ConfigError(f"driver {name!r} needs the package {package}: pip install {package}") from e


def robot(spec: RobotSpec, *, name: str = "", **options: object) -> Robot:
    """A robot through its driver, or through the one named, not yet connected; `options` over the robot's own.

    The option `calibration` names a file of `vlmrl robot calibrate`, whose options lie between them.

    Raises:
        ConfigError: if the driver or an option of it is unknown, or the calibration is another kind of robot's.
    """
    chosen = name or spec.driver
    module = driver(chosen)
    own = dict(spec.options) if chosen == spec.driver else {}
    if file := options.pop("calibration", None):
        unit = read(Path(str(file)))
        if (kind := unit.pop("robot", "")) != spec.name:
            raise ConfigError(f"{file} is the calibration of a robot {kind!r}, not of {spec.name!r}")
        own |= unit
    config = build(module.Config, own | options, f"robot {spec.name!r}, driver {chosen}")
    return module.build(spec, config)
