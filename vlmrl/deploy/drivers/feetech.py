"""Feetech STS3215 servos on a serial bus (SO-100, SO-101), through Feetech's own SDK."""

import contextlib
import os
import termios
import time
from typing import Any

import numpy as np
import scservo_sdk as sdk
import serial
from jaxtyping import Float64

from vlmrl.deploy.drivers.serial_bus import (
    LATE_S,
    SLICE_S,
    Config,
    Units,
    check_port,
    check_servos,
    reserve,
    signed,
    talking,
)
from vlmrl.errors import RobotError
from vlmrl.robot import Observed, RobotSpec

__all__ = ["Config", "Feetech", "build"]

_MODEL, _TORQUE, _GOAL, _MEASURED = 777, 40, 42, 56
_SPAN = 15
"""Bytes from the present position to the present current."""
_SPEED, _CURRENT = 2 * np.pi / 4096, 6.5e-3
"""rad/s and A of one count."""


class Feetech:
    """A robot of STS3215 servos."""

    def __init__(self, spec: RobotSpec, config: Config) -> None:
        self.spec, self._config, self._units = spec, config, Units(spec, config)
        self._port: Any = None
        self._packets: Any = sdk.PacketHandler(0)
        self._reader: Any = None
        self._held: int | None = None

    def connect(self) -> None:
        """Open the port and ask every servo for its model."""
        check_port(self._config, self.spec.name)
        self._held = reserve(self._config.port, self.spec.name)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._port = sdk.PortHandler(self._config.port)
        try:
            opened = self._port.setBaudRate(self._config.baud)
        except serial.SerialException as error:
            raise RobotError(f"robot {self.spec.name!r}: {self._config.port} cannot be opened: {error}") from error
        if not opened:
            raise RobotError(f"robot {self.spec.name!r}: {self._config.baud} is no baud rate of this bus")
        self._port.ser.timeout = SLICE_S
        found = {i: self._ping(i) for i in self._units.ids}
        check_servos(found, wanted=_MODEL, spec=self.spec, config=self._config)
        self._reader = sdk.GroupSyncRead(self._port, self._packets, _MEASURED, _SPAN)
        for i in self._units.ids:
            self._reader.addParam(i)

    def _ping(self, servo: int) -> int | None:
        for _ in range(self._config.tries):
            with talking(self._port, self.spec.name):
                data, result, _ = self._packets.readTxRx(self._port, servo, 3, 2)
            if result == sdk.COMM_SUCCESS and len(data) == 2:
                return data[0] | data[1] << 8
            self._settle()
        return None

    def _settle(self) -> None:
        """Wait for answers that come late and throw them away: they would be taken for those of the next question."""
        time.sleep(LATE_S)
        # A bus that is gone says so when it is asked again.
        with contextlib.suppress(termios.error, OSError):
            self._port.ser.reset_input_buffer()

    def enable(self) -> None:
        """Goals to where the joints are, then torque on."""
        self.command(self._read(self._config.tries).position)
        for i in self._units.ids:
            self._write(i, _TORQUE, 1)
        self.command(self._read(self._config.tries).position)

    def release(self) -> None:
        """Torque off."""
        for i in self._units.ids:
            self._write(i, _TORQUE, 0)

    def _write(self, servo: int, address: int, value: int) -> None:
        result = sdk.COMM_RX_FAIL
        for _ in range(self._config.tries):
            with talking(self._port, self.spec.name):
                result, error = self._packets.write1ByteTxRx(self._port, servo, address, value)
            if result == sdk.COMM_SUCCESS and not error:
                return
            if result == sdk.COMM_SUCCESS:
                raise RobotError(f"servo {servo} reports {self._packets.getRxPacketError(error)}")
            self._settle()
        raise RobotError(f"servo {servo} does not take a command: {self._packets.getTxRxResult(result)}")

    def observe(self) -> Observed:
        """One synchronous reading of all servos, tried again where an answer got lost."""
        return self._read(1 if self._config.once else self._config.tries)

    def _read(self, tries: int) -> Observed:
        result = sdk.COMM_RX_FAIL
        for _ in range(tries):
            result = self._asked(self._config.once)
            if result == sdk.COMM_SUCCESS and all(len(d) == _SPAN for d in self._reader.data_dict.values()):
                return self._measured()
            if not self._config.once:
                self._settle()
        raise RobotError(f"robot {self.spec.name!r} does not answer: {self._packets.getTxRxResult(result)}")

    def _asked(self, soon: bool) -> int:
        """Ask all servos; a control loop waits half a period for them, not the SDK's several, and asks anew."""
        with talking(self._port, self.spec.name):
            result = self._reader.txPacket()
            if result == sdk.COMM_SUCCESS and soon:
                self._port.setPacketTimeoutMillis(500 * self.spec.period)
            return int(self._reader.rxPacket() if result == sdk.COMM_SUCCESS else result)

    def _measured(self) -> Observed:
        def column(address: int, *, magnitude: bool) -> list[int]:
            values = [self._reader.getData(i, address, 2) for i in self._units.ids]
            return [signed(v, 2, magnitude=magnitude) for v in values]

        return Observed(
            time.monotonic(),
            self._units.radians(column(_MEASURED, magnitude=True)),
            self._units.speeds(column(_MEASURED + 2, magnitude=True), _SPEED),
            np.array(column(_MEASURED + 13, magnitude=True)) * _CURRENT,
        )

    def command(self, position: Float64[np.ndarray, " J"]) -> Float64[np.ndarray, " J"]:
        """One synchronous write to all servos."""
        steps = self._units.steps(position)
        writer = sdk.GroupSyncWrite(self._port, self._packets, _GOAL, 2)
        for i, step in zip(self._units.ids, steps, strict=True):
            writer.addParam(i, int(step).to_bytes(2, "little"))
        with talking(self._port, self.spec.name):
            result = writer.txPacket()
        if result != sdk.COMM_SUCCESS:
            raise RobotError(f"robot {self.spec.name!r} cannot be sent to: {self._packets.getTxRxResult(result)}")
        return self._units.radians([int(s) for s in steps])

    def stop(self) -> None:
        """Goals to where the joints are; torque stays on, for without it the arm falls."""
        try:
            self.command(self._read(self._config.tries).position)
        except RobotError:
            return

    def close(self) -> None:
        """Close the port."""
        if self._port is not None and self._port.is_open:
            self._port.closePort()
        if self._held is not None:
            os.close(self._held)
            self._held = None


def build(spec: RobotSpec, config: Config) -> Feetech:
    """A robot on a Feetech bus, not yet connected."""
    return Feetech(spec, config)
