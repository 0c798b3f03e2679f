"""A servo's control table: bytes at addresses, some of which are the physics."""

from dataclasses import dataclass, field

import numpy as np

from vlmrl.deploy.bus.plant import Plant

TURN = 4096
"""Encoder steps of one turn, of both makes."""


def steps(radians: float, offset: int) -> int:
    """Encoder steps of an angle, as a servo with that zero counts them."""
    return round(radians / (2 * np.pi) * TURN) + offset


def radians(count: int, offset: int) -> float:
    """The angle of a number of encoder steps."""
    return (count - offset) / TURN * 2 * np.pi


@dataclass(frozen=True)
class Layout:
    """Where a make keeps what, as (address, bytes)."""

    model: tuple[int, int]
    number: int
    """Model number that a ping and a read tell."""
    id: tuple[int, int]
    torque: tuple[int, int]
    goal: tuple[int, int]
    position: tuple[int, int]
    velocity: tuple[int, int]
    load: tuple[int, int]
    voltage: tuple[int, int]
    temperature: tuple[int, int]
    current: tuple[int, int]
    size: int
    velocity_unit: float
    """rad/s of one count."""
    current_unit: float
    """A of one count."""
    signed: str
    """How negative numbers are told: `two` (two's complement) or `magnitude` (highest bit is the sign)."""


@dataclass
class Servo:
    """One servo of a bus."""

    layout: Layout
    plant: Plant
    joint: int
    id: int
    offset: int = TURN // 2
    temperature_c: int = 32
    stall_a: float = 2.7
    hot: bool = False
    memory: bytearray = field(init=False)

    def __post_init__(self) -> None:
        self.memory = bytearray(self.layout.size)
        self.put(self.layout.model, self.layout.number)
        self.put(self.layout.id, self.id)
        self.put(self.layout.voltage, 120)

    def read(self, address: int, length: int) -> bytes:
        """Bytes of the table, the measured ones as they are now."""
        layout, plant, joint = self.layout, self.plant, self.joint
        self.put(layout.position, steps(plant.position(joint), self.offset))
        self.put(layout.velocity, round(plant.velocity(joint) / layout.velocity_unit))
        load = plant.load(joint)
        self.put(layout.load, round(1000 * load))
        self.put(layout.current, round(load * self.stall_a / layout.current_unit))
        self.put(layout.temperature, 85 if self.hot else self.temperature_c)
        return bytes(self.memory[address : address + length])

    def write(self, address: int, data: bytes) -> None:
        """Write bytes; torque and goal act at once. A servo that is too hot has switched itself off."""
        self.memory[address : address + len(data)] = data
        touched = range(address, address + len(data))
        if self.layout.torque[0] in touched:
            self.plant.enable(self.joint, bool(self.get(self.layout.torque)) and not self.hot)
        if self.layout.goal[0] in touched and self.plant.torque[self.joint]:
            self.plant.goal(self.joint, radians(self.get(self.layout.goal), self.offset))

    def restart(self) -> None:
        """As after a brown-out: no torque, an empty volatile table."""
        self.plant.enable(self.joint, False)
        self.__post_init__()

    def overheat(self) -> None:
        """Switch off, and stay off until it restarts."""
        self.hot = True
        self.plant.enable(self.joint, False)

    def put(self, place: tuple[int, int], value: int) -> None:
        """Write a number as the make tells it."""
        address, length = place
        if value < 0 and self.layout.signed == "magnitude":
            value = -value | 1 << (8 * length - 1)
        self.memory[address : address + length] = (value & (1 << 8 * length) - 1).to_bytes(length, "little")

    def get(self, place: tuple[int, int]) -> int:
        """Read a number as the make tells it."""
        address, length = place
        value, top = int.from_bytes(self.memory[address : address + length], "little"), 1 << (8 * length - 1)
        if not value & top:
            return value
        return -(value ^ top) if self.layout.signed == "magnitude" else value - 2 * top
