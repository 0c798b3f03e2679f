"""Robotis' Dynamixel protocol 2.0: FF FF FD 00 id length instruction parameters CRC, with byte stuffing."""

from collections.abc import Iterator, Mapping

from vlmrl.deploy.bus.registers import Layout, Servo

XL430 = Layout(
    model=(0, 2),
    number=1060,
    id=(7, 1),
    torque=(64, 1),
    goal=(116, 4),
    position=(132, 4),
    velocity=(128, 4),
    load=(126, 2),
    voltage=(144, 2),
    temperature=(146, 1),
    current=(148, 2),
    size=160,
    velocity_unit=0.229 * 2 * 3.141592653589793 / 60,
    current_unit=1e-3,
    signed="two",
)
"""Addresses of Robotis' XL430-W250 control table; it measures load, not current: 148 is ours."""

_HEADER = b"\xff\xff\xfd\x00"
_STATUS, _BROADCAST = 0x55, 0xFE
_BAD_INSTRUCTION, _BAD_CRC, _ALERT = 0x02, 0x03, 0x80


def _table() -> list[int]:
    table: list[int] = []
    for k in range(256):
        value = k << 8
        for _ in range(8):
            value = (value << 1) ^ (0x8005 if value & 0x8000 else 0)
        table.append(value & 0xFFFF)
    return table


_CRC = _table()


def crc(data: bytes) -> int:
    """CRC-16 with polynomial 0x8005, most significant bit first, from zero."""
    value = 0
    for byte in data:
        value = (value << 8 & 0xFFFF) ^ _CRC[(value >> 8 ^ byte) & 0xFF]
    return value


def packets(buffer: bytearray) -> Iterator[bytes]:
    """Take the whole packets out of what has arrived: id, instruction, unstuffed parameters."""
    while (start := buffer.find(_HEADER)) >= 0:
        del buffer[:start]
        if len(buffer) < 7:
            return
        length = int.from_bytes(buffer[5:7], "little")
        if not 3 <= length <= 1024:
            del buffer[:4]
            continue
        if len(buffer) < 7 + length:
            return
        whole = bytes(buffer[: 7 + length])
        if crc(whole[:-2]) == int.from_bytes(whole[-2:], "little"):
            del buffer[: 7 + length]
            yield bytes([whole[4]]) + whole[7:-2].replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd")
        else:
            del buffer[:4]
    if len(buffer) > 3:
        del buffer[:-3]


def answer(packet: bytes, servos: Mapping[int, Servo]) -> list[bytes]:
    """What the bus says to one instruction: a packet a servo that answers."""
    address_to, instruction, data = packet[0], packet[1], packet[2:]
    address = int.from_bytes(data[:2], "little")
    if instruction == 0x82 and len(data) >= 4:
        length = int.from_bytes(data[2:4], "little")
        return [_status(servos[i], servos[i].read(address, length)) for i in data[4:] if i in servos]
    if instruction == 0x83 and len(data) >= 4:
        width = int.from_bytes(data[2:4], "little") + 1
        for k in range(4, len(data) - width + 1, width):
            if data[k] in servos:
                servos[data[k]].write(address, data[k + 1 : k + width])
        return []
    if instruction == 0x01 and address_to == _BROADCAST:
        return [_status(servo, _identity(servo)) for servo in servos.values()]
    if address_to not in servos:
        return []
    servo = servos[address_to]
    match instruction:
        case 0x01:
            return [_status(servo, _identity(servo))]
        case 0x02 if len(data) == 4:
            return [_status(servo, servo.read(address, int.from_bytes(data[2:4], "little")))]
        case 0x03 if len(data) > 2:
            servo.write(address, data[2:])
            return [_status(servo, b"")]
        case 0x08:
            servo.restart()
            return [_status(servo, b"")]
        case _:
            return [_status(servo, b"", _BAD_INSTRUCTION)]


def _identity(servo: Servo) -> bytes:
    return servo.layout.number.to_bytes(2, "little") + b"\x2a"


def _status(servo: Servo, data: bytes, error: int = 0) -> bytes:
    stuffed = (bytes([_STATUS, error | _ALERT * servo.hot]) + data).replace(b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")
    head = _HEADER + bytes([servo.id]) + (len(stuffed) + 2).to_bytes(2, "little") + stuffed
    return head + crc(head).to_bytes(2, "little")
