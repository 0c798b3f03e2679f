"""Dynamixel X-series servos on a serial bus, protocol 2.0, through Robotis' own SDK."""

import time
from dataclasses import dataclass

import dynamixel_sdk as sdk
import numpy as np

from vlmrl.deploy.drivers import serial_bus
from vlmrl.deploy.drivers.serial_bus import ServoBus, Table
from vlmrl.robot import Observed, RobotSpec

_LOAD, _VELOCITY, _POSITION = 126, 128, 132
_SPEED = 0.229 * 2 * np.pi / 60
"""rad/s of one count."""


@dataclass(frozen=True)
class Config(serial_bus.Config):
    """Settings of a Dynamixel bus."""

    baud: int = 57_600
    model: int = 1060
    """Model number of the servos: 1060 is XL430-W250."""


class Dynamixel(ServoBus):
    """A robot of Dynamixel servos in position mode."""

    def __init__(self, spec: RobotSpec, config: Config) -> None:
        table = Table(model=config.model, torque=64, goal=116, goal_bytes=4, measured=_LOAD, span=10)
        super().__init__(spec, config, sdk, sdk.PacketHandler(2.0), table)

    def _ping(self, servo: int) -> int | None:
        model, result, _ = self._packets.ping(self._port, servo)
        return int(model) if result == sdk.COMM_SUCCESS else None

    def enable(self) -> None:
        """Torque on, at which each servo holds where it is; then goals to there."""
        for i in self._units.ids:
            self._switch(i, 1)
        self.command(self._read(self._config.tries).position)

    def _measured(self) -> Observed:
        position, velocity = (self._column(address, 4, magnitude=False) for address in (_POSITION, _VELOCITY))
        return Observed(time.monotonic(), self._units.radians(position), self._units.speeds(velocity, _SPEED))


def build(spec: RobotSpec, config: Config) -> Dynamixel:
    """A robot on a Dynamixel bus, not yet connected."""
    return Dynamixel(spec, config)
