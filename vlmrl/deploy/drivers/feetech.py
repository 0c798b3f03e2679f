"""Feetech STS3215 servos on a serial bus (SO-100, SO-101), through Feetech's own SDK."""

import time

import numpy as np
import scservo_sdk as sdk

from vlmrl.deploy.drivers.serial_bus import Config, ServoBus, Table
from vlmrl.robot import Observed, RobotSpec

__all__ = ["Config", "Feetech", "build"]

_MODEL = 3
_POSITION, _VELOCITY, _CURRENT = 56, 58, 69
_TABLE = Table(model=777, torque=40, goal=42, goal_bytes=2, measured=_POSITION, span=15)
_SPEED, _AMPERE = 2 * np.pi / 4096, 6.5e-3
"""rad/s and A of one count."""


class Feetech(ServoBus):
    """A robot of STS3215 servos."""

    def __init__(self, spec: RobotSpec, config: Config) -> None:
        super().__init__(spec, config, sdk, sdk.PacketHandler(0), _TABLE)

    def _ping(self, servo: int) -> int | None:
        data, result, _ = self._packets.readTxRx(self._port, servo, _MODEL, 2)
        return data[0] | data[1] << 8 if result == sdk.COMM_SUCCESS and len(data) == 2 else None

    def enable(self) -> None:
        """Goals to where the joints are, then torque on."""
        self.command(self._read(self._config.tries).position)
        for i in self._units.ids:
            self._switch(i, 1)
        self.command(self._read(self._config.tries).position)

    def _measured(self) -> Observed:
        return Observed(
            time.monotonic(),
            self._units.radians(self._column(_POSITION, 2, magnitude=True)),
            self._units.speeds(self._column(_VELOCITY, 2, magnitude=True), _SPEED),
            np.array(self._column(_CURRENT, 2, magnitude=True)) * _AMPERE,
        )


def build(spec: RobotSpec, config: Config) -> Feetech:
    """A robot on a Feetech bus, not yet connected."""
    return Feetech(spec, config)
