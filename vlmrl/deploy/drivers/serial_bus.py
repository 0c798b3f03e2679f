"""What servo drivers share: zeros and directions, checks at connection, and reading again what got lost."""

import fcntl
import os
import termios
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import serial
from jaxtyping import Float64, Int64

from vlmrl.errors import ConfigError, RobotError
from vlmrl.robot import Observed, RobotSpec

TURN = 4096
"""Encoder steps of one turn."""
SLICE_S = 0.002
"""How long one read of the port waits, s: the SDKs read in a loop without waiting, and would take the time of who is to
answer."""
LATE_S = 0.01
"""How long late answers are waited for after a failure, s."""


@dataclass(frozen=True)
class Config:
    """Settings of a servo bus."""

    port: str = ""
    """Serial port, as /dev/ttyACM0."""
    baud: int = 1_000_000
    ids: tuple[int, ...] = ()
    """Of the servos, in the order of the joints; empty: 1, 2, 3, ..."""
    zeros: tuple[int, ...] = ()
    """Encoder step at zero of each joint; empty: 2048 for all."""
    reversed: tuple[str, ...] = ()
    """Joints that turn the other way."""
    tries: int = 3
    """How often a servo is asked or told something at the start, and the joints are read, before that has failed."""
    once: bool = False
    """Read the joints only once a time: a control loop has its next tick, and no time to wait."""


class Units:
    """Between rad and encoder steps of each joint."""

    def __init__(self, spec: RobotSpec, config: Config) -> None:
        count = len(spec.joints)
        self.ids = config.ids or tuple(range(1, count + 1))
        zeros = config.zeros or (TURN // 2,) * count
        if len(self.ids) != count or len(set(self.ids)) != count or len(zeros) != count:
            raise ConfigError(
                f"robot {spec.name!r} has {count} joints: as many different ids and as many zeros wanted, "
                f"found ids {list(self.ids)}, zeros {list(zeros)}"
            )
        if wrong := set(config.reversed) - set(spec.names):
            raise ConfigError(f"robot {spec.name!r}: reversed names {sorted(wrong)}; have: {', '.join(spec.names)}")
        self._zeros = np.array(zeros)
        self._sign = np.array([-1 if name in config.reversed else 1 for name in spec.names])
        ends = [self.steps(np.array([getattr(j, end) for j in spec.joints])) for end in ("lower", "upper")]
        for joint, zero, *found in zip(spec.joints, zeros, *ends, strict=True):
            if min(found) < 0 or max(found) >= TURN:
                raise ConfigError(
                    f"robot {spec.name!r}: with zero {zero} the range of {joint.name} is encoder steps {min(found)} to "
                    f"{max(found)}, beyond the {TURN} of a turn: set its horn, or the servo's own offset, anew"
                )

    def steps(self, position: Float64[np.ndarray, " J"]) -> Int64[np.ndarray, " J"]:
        """Encoder steps of positions in rad."""
        return np.round(self._sign * position / (2 * np.pi) * TURN).astype(np.int64) + self._zeros

    def radians(self, steps: Sequence[int]) -> Float64[np.ndarray, " J"]:
        """Positions in rad."""
        return self._sign * (np.array(steps) - self._zeros) / TURN * 2 * np.pi

    def speeds(self, counts: Sequence[int], unit: float) -> Float64[np.ndarray, " J"]:
        """Speeds in rad/s."""
        return self._sign * np.array(counts) * unit


@contextmanager
def talking(port: Any, robot: str) -> Generator[None]:
    """What is said on a port, which may be gone: the SDKs and pyserial raise whatever they like.

    Raises:
        RobotError: if it is gone.
    """
    try:
        yield
    except (serial.SerialException, termios.error, OSError) as error:
        raise RobotError(f"robot {robot!r}: its port is gone: {error}") from error
    finally:
        # Else the SDKs take the port for busy ever after.
        port.is_using = False


def zeros_at(measured: Float64[np.ndarray, " J"], spec: RobotSpec, config: Config) -> list[int]:
    """Encoder steps of the joints' zeros, given what they measured with the present ones in the home pose."""
    units = Units(spec, config)
    before = units.steps(np.zeros(len(spec.joints)))
    return [int(z) for z in before + units.steps(measured) - units.steps(spec.home)]


def signed(value: int, length: int, *, magnitude: bool = False) -> int:
    """A register's number: two's complement, or a sign bit and a magnitude."""
    top = 1 << (8 * length - 1)
    if not value & top:
        return value
    return -(value ^ top) if magnitude else value - 2 * top


def check_port(config: Config, robot: str) -> None:
    """Refuse a port that is not there, naming those there are.

    Raises:
        ConfigError: if no port is named.
        RobotError: if it does not exist.
    """
    from serial.tools.list_ports import comports

    have = ", ".join(p.device for p in comports()) or "none"
    if not config.port:
        raise ConfigError(f"robot {robot!r}: say which serial port it is on: port=/dev/ttyACM0; have: {have}")
    if not Path(config.port).exists():
        raise RobotError(f"robot {robot!r}: no serial port {config.port}; have: {have}")


def reserve(path: str, robot: str) -> int:
    """Keep a port for this process alone, before opening it would disturb who has it; close this to give it back.

    Raises:
        RobotError: if another process has it, or it cannot be opened.
    """
    try:
        held = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise RobotError(f"robot {robot!r}: {path} cannot be opened: {error}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        raise RobotError(f"robot {robot!r}: another process moves the robot on {path}; end it first") from error
    return held


def check_servos(found: dict[int, int | None], *, wanted: int, spec: RobotSpec, config: Config) -> None:
    """Refuse a bus on which a servo does not answer or is another model.

    Raises:
        RobotError: naming the joints.
    """
    silent = [f"{name} (id {i})" for name, (i, model) in zip(spec.names, found.items(), strict=True) if model is None]
    if len(silent) == len(found):
        raise RobotError(
            f"robot {spec.name!r}: no servo answers on {config.port} at {config.baud} baud: is it powered, is this "
            "its port, is this its baud rate?"
        )
    if silent:
        raise RobotError(
            f"robot {spec.name!r}: no answer from {', '.join(silent)} on {config.port}: check cable and id"
        )
    other = {i: model for i, model in found.items() if model != wanted}
    if other:
        raise RobotError(f"robot {spec.name!r}: servo model {wanted} wanted, found (id: model) {other}")


@dataclass(frozen=True)
class Table:
    """What of a make's control table is used, as addresses and bytes."""

    model: int
    """Model number of the servos."""
    torque: int
    goal: int
    goal_bytes: int
    measured: int
    """Where the measured numbers begin, and how many bytes they are."""
    span: int


class ServoBus:
    """Servos on one serial bus through their vendor's SDK: both vendors' are alike in all that is used here."""

    def __init__(self, spec: RobotSpec, config: Config, sdk: Any, packets: Any, table: Table) -> None:
        self.spec, self._config, self._units = spec, config, Units(spec, config)
        self._sdk, self._packets, self._table = sdk, packets, table
        self._port: Any = None
        self._reader: Any = None
        self._held: int | None = None

    def _ping(self, servo: int) -> int | None:
        """A servo's model number; None where it does not answer."""
        raise NotImplementedError

    def _measured(self) -> Observed:
        """What the last reading says."""
        raise NotImplementedError

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
        self._port = self._sdk.PortHandler(self._config.port)
        try:
            opened = self._port.setBaudRate(self._config.baud)
        except serial.SerialException as error:
            raise RobotError(f"robot {self.spec.name!r}: {self._config.port} cannot be opened: {error}") from error
        if not opened:
            raise RobotError(f"robot {self.spec.name!r}: {self._config.baud} is no baud rate of this bus")
        self._port.ser.timeout = SLICE_S
        found = {i: self._model(i) for i in self._units.ids}
        check_servos(found, wanted=self._table.model, spec=self.spec, config=self._config)
        self._reader = self._sdk.GroupSyncRead(self._port, self._packets, self._table.measured, self._table.span)
        for i in self._units.ids:
            self._reader.addParam(i)

    def _model(self, servo: int) -> int | None:
        for _ in range(self._config.tries):
            with talking(self._port, self.spec.name):
                model = self._ping(servo)
            if model is not None:
                return model
            self._settle()
        return None

    def _settle(self) -> None:
        """Wait for answers that come late and throw them away: they would be taken for those of the next question."""
        time.sleep(LATE_S)
        # A bus that is gone says so when it is asked again.
        with suppress(termios.error, OSError):
            self._port.ser.reset_input_buffer()

    def release(self) -> None:
        """Torque off."""
        for i in self._units.ids:
            self._switch(i, 0)

    def _switch(self, servo: int, torque: int) -> None:
        result = self._sdk.COMM_RX_FAIL
        for _ in range(self._config.tries):
            with talking(self._port, self.spec.name):
                result, error = self._packets.write1ByteTxRx(self._port, servo, self._table.torque, torque)
            if result == self._sdk.COMM_SUCCESS and not error:
                return
            if result == self._sdk.COMM_SUCCESS:
                raise RobotError(f"servo {servo} reports {self._packets.getRxPacketError(error)}")
            self._settle()
        raise RobotError(f"servo {servo} does not take a command: {self._packets.getTxRxResult(result)}")

    def observe(self) -> Observed:
        """One synchronous reading of all servos, tried again where an answer got lost."""
        return self._read(1 if self._config.once else self._config.tries)

    def _read(self, tries: int) -> Observed:
        result = self._sdk.COMM_RX_FAIL
        for _ in range(tries):
            result = self._asked(self._config.once)
            whole = all(len(data) == self._table.span for data in self._reader.data_dict.values())
            if result == self._sdk.COMM_SUCCESS and whole:
                return self._measured()
            if not self._config.once:
                self._settle()
        raise RobotError(f"robot {self.spec.name!r} does not answer: {self._packets.getTxRxResult(result)}")

    def _asked(self, soon: bool) -> int:
        """Ask all servos; a control loop waits half a period for them, not the SDK's several, and asks anew."""
        with talking(self._port, self.spec.name):
            result = self._reader.txPacket()
            if result == self._sdk.COMM_SUCCESS and soon:
                self._port.setPacketTimeoutMillis(500 * self.spec.period)
            return int(self._reader.rxPacket() if result == self._sdk.COMM_SUCCESS else result)

    def _column(self, address: int, length: int, *, magnitude: bool) -> list[int]:
        values = [self._reader.getData(i, address, length) for i in self._units.ids]
        return [signed(value, length, magnitude=magnitude) for value in values]

    def command(self, position: Float64[np.ndarray, " J"]) -> Float64[np.ndarray, " J"]:
        """One synchronous write to all servos."""
        # A joint that was found outside its range may still be on its way in: a servo has no goal beyond its turn.
        steps = self._units.steps(position).clip(0, TURN - 1)
        writer = self._sdk.GroupSyncWrite(self._port, self._packets, self._table.goal, self._table.goal_bytes)
        for i, step in zip(self._units.ids, steps, strict=True):
            writer.addParam(i, int(step).to_bytes(self._table.goal_bytes, "little"))
        with talking(self._port, self.spec.name):
            result = writer.txPacket()
        if result != self._sdk.COMM_SUCCESS:
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
