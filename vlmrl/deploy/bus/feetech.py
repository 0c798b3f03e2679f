"""Feetech's serial protocol (STS and SMS series): FF FF id length instruction parameters checksum."""

from collections.abc import Iterator, Mapping

from vlmrl.deploy.bus.registers import Layout, Servo

STS3215 = Layout(
    model=(3, 2),
    number=777,
    id=(5, 1),
    torque=(40, 1),
    goal=(42, 2),
    position=(56, 2),
    velocity=(58, 2),
    load=(60, 2),
    voltage=(62, 1),
    temperature=(63, 1),
    current=(69, 2),
    size=96,
    velocity_unit=2 * 3.141592653589793 / 4096,
    current_unit=6.5e-3,
    signed="magnitude",
)
"""Addresses of Feetech's STS3215 memory table."""

PING, READ, WRITE, SYNC_READ, SYNC_WRITE = 0x01, 0x02, 0x03, 0x82, 0x83
_BROADCAST, _OVERHEAT = 0xFE, 0x04
_LONGEST = 250


def packets(buffer: bytearray) -> Iterator[bytes]:
    """Take the whole packets out of what has arrived, without header and checksum; damaged bytes are dropped."""
    while (start := buffer.find(b"\xff\xff")) >= 0:
        del buffer[:start]
        if len(buffer) > 2 and buffer[2] == 0xFF:
            del buffer[0]
            continue
        if len(buffer) < 4:
            return
        length = buffer[3]
        if not 2 <= length <= _LONGEST:
            del buffer[:2]
            continue
        if len(buffer) < 4 + length:
            return
        body, told = bytes(buffer[2 : 3 + length]), buffer[3 + length]
        if checksum(body) == told:
            del buffer[: 4 + length]
            yield body
        else:
            del buffer[:2]
    if len(buffer) > 1:
        del buffer[:-1]


def answer(packet: bytes, servos: Mapping[int, Servo]) -> list[bytes]:
    """What the bus says to one instruction: a packet a servo that answers."""
    address_to, instruction, data = packet[0], packet[2], packet[3:]
    if instruction == SYNC_READ and len(data) >= 2:
        return [_status(servos[i], servos[i].read(data[0], data[1])) for i in data[2:] if i in servos]
    if instruction == SYNC_WRITE and len(data) >= 2:
        width = data[1] + 1
        for k in range(2, len(data) - width + 1, width):
            if data[k] in servos:
                servos[data[k]].write(data[0], data[k + 1 : k + width])
        return []
    if address_to not in servos:
        return []
    servo = servos[address_to]
    match instruction:
        case 0x01:
            return [_status(servo, b"")]
        case 0x02 if len(data) == 2:
            return [_status(servo, servo.read(data[0], data[1]))]
        case 0x03 if data:
            servo.write(data[0], data[1:])
            return [_status(servo, b"")]
        case _:
            return []


def _status(servo: Servo, data: bytes) -> bytes:
    body = bytes([servo.id, len(data) + 2, _OVERHEAT * servo.hot]) + data
    return b"\xff\xff" + body + bytes([checksum(body)])


def checksum(body: bytes) -> int:
    """The complement of the sum, low byte."""
    return ~sum(body) & 0xFF
