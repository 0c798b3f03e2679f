"""The simulated servo bus: protocols byte for byte, vendors' own SDKs over a real pseudo-terminal, faults by name."""

import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlmrl.deploy.bus import Line, Plant, dynamixel, feetech
from vlmrl.deploy.bus.registers import TURN, Servo, radians, steps
from vlmrl.deploy.bus.rehearsal import perform
from vlmrl.deploy.drivers import driver, robot
from vlmrl.deploy.drivers.serial_bus import Config, Units
from vlmrl.errors import ConfigError, RobotError
from vlmrl.robot import Robot, load_robot

SPEC = load_robot("so101")


@pytest.fixture
def line() -> Iterator[Line]:
    """A bus that nobody serves."""
    made = Line(Plant(SPEC), "feetech")
    yield made
    made.close()


def test_feetech_packets_are_those_of_the_manual() -> None:
    servo = Servo(feetech.STS3215, Plant(SPEC), 0, 1)
    ping = bytes.fromhex("ffff010201fb")  # Feetech's communication manual, ping of servo 1
    assert [feetech.answer(p, {1: servo}) for p in feetech.packets(bytearray(ping))] == [
        [bytes.fromhex("ffff010200fc")]
    ]


def test_dynamixel_packets_are_those_of_the_manual() -> None:
    servo = Servo(dynamixel.XL430, Plant(SPEC), 0, 1)
    ping = bytes.fromhex("fffffd00010300011940"[:-4]) + dynamixel.crc(bytes.fromhex("fffffd000103000119")[:8]).to_bytes(
        2, "little"
    )
    # Robotis' e-manual, protocol 2.0, ping of id 1: FF FF FD 00 01 03 00 01 19 4E
    assert ping == bytes.fromhex("fffffd0001030001194e")
    (answer,) = dynamixel.answer(next(dynamixel.packets(bytearray(ping))), {1: servo})
    assert answer[:12] == bytes.fromhex("fffffd000107005500240 42a".replace(" ", ""))


@pytest.mark.parametrize("protocol", [feetech, dynamixel])
def test_damaged_and_cut_bytes_are_dropped_and_what_follows_is_understood(protocol: object) -> None:
    generator = np.random.default_rng(0)
    servo = Servo(feetech.STS3215 if protocol is feetech else dynamixel.XL430, Plant(SPEC), 0, 1)
    whole = bytes.fromhex("ffff0104020302f3") if protocol is feetech else bytes.fromhex("fffffd0001030001194e")
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[generator.integers(len(damaged))] ^= 1 << int(generator.integers(8))
        buffer = damaged[: generator.integers(1, len(damaged) + 1)] + generator.bytes(int(generator.integers(0, 9)))
        buffer = bytearray(buffer) + whole * 120
        found = list(protocol.packets(buffer))  # pyright: ignore[reportAttributeAccessIssue]
        assert any(protocol.answer(p, {1: servo}) for p in found)  # pyright: ignore[reportAttributeAccessIssue]
        assert len(buffer) < 1100


def test_stuffed_bytes_pass_unchanged() -> None:
    servo = Servo(dynamixel.XL430, Plant(SPEC), 0, 1)
    servo.memory[20:24] = b"\xff\xff\xfd\x07"
    (answer,) = dynamixel.answer(b"\x01\x02" + b"\x14\x00\x04\x00", {1: servo})
    assert b"\xff\xff\xfd\xfd\x07" in answer[8:]
    body = answer[:-2]
    assert dynamixel.crc(body) == int.from_bytes(answer[-2:], "little")


@pytest.mark.parametrize("layout", [feetech.STS3215, dynamixel.XL430])
def test_numbers_survive_the_table(layout: object) -> None:
    servo = Servo(layout, Plant(SPEC), 0, 1)  # pyright: ignore[reportArgumentType]
    for value in (0, 1, -1, 1234, -1234):
        servo.put(servo.layout.velocity, value)
        assert servo.get(servo.layout.velocity) == value
    assert radians(steps(1.0, TURN // 2), TURN // 2) == pytest.approx(1.0, abs=np.pi / TURN)


def test_a_servo_holds_moves_stalls_overheats_and_restarts(line: Line) -> None:
    plant, servo = line.plant, line.servos[1]
    servo.write(servo.layout.torque[0], b"\x01")
    servo.write(servo.layout.goal[0], steps(0.3, TURN // 2).to_bytes(2, "little"))
    plant.advance(1.0)
    assert plant.position(0) == pytest.approx(0.3, abs=0.02)
    perform(line, "stall shoulder_pan")
    servo.write(servo.layout.goal[0], steps(-0.3, TURN // 2).to_bytes(2, "little"))
    before = plant.position(0)
    plant.advance(0.5)
    assert abs(plant.position(0) - before) < 0.05
    assert abs(plant.load(0)) > 0.5
    perform(line, "heat shoulder_pan")
    assert not plant.torque[0]
    servo.write(servo.layout.torque[0], b"\x01")
    assert not plant.torque[0], "a hot servo stays off"
    assert servo.read(63, 1)[0] == 85


def test_what_is_typed_is_done_or_refused_with_what_can_be(line: Line) -> None:
    assert perform(line, "drop 0.25") == "done: drop 0.25"
    assert line.faults.drop == 0.25
    perform(line, "silent elbow_flex")
    assert line.faults.silent == {3}
    assert "shoulder_pan 0.0000 off" in perform(line, "state")
    perform(line, "lead shoulder_pan 0.4")
    line.plant.advance(2.0)
    assert line.plant.position(0) == pytest.approx(0.4, abs=0.02), "a hand moves what has no torque"
    assert not line.plant.torque[0]
    with pytest.raises(ConfigError, match=r"lead takes a number from -1.92 to 1.92, found '3'"):
        perform(line, "lead shoulder_pan 3")
    with pytest.raises(ConfigError, match=r"unknown joint 'nose'; have: elbow_flex"):
        perform(line, "lead nose 0")
    assert perform(line, "quit") == ""
    with pytest.raises(ConfigError, match=r"unknown joint 'nose'; have: elbow_flex"):
        perform(line, "stall nose")
    with pytest.raises(ConfigError, match=r"drop takes a number from 0 to 1, found 'much'"):
        perform(line, "drop much")
    with pytest.raises(ConfigError, match=r"cannot do 'explode'; can:"):
        perform(line, "explode")


def test_units_know_zero_direction_and_order() -> None:
    units = Units(SPEC, Config(zeros=(2048, 2000, 2048, 2048, 2048, 2048), reversed=("shoulder_lift",)))
    position = np.array([0.1, 0.2, 0.3, 0, 0, 0])
    assert units.steps(position)[1] == 2000 - round(0.2 / 2 / np.pi * TURN)
    np.testing.assert_allclose(units.radians([int(s) for s in units.steps(position)]), position, atol=np.pi / TURN)
    with pytest.raises(ConfigError, match="as many different ids"):
        Units(SPEC, Config(ids=(1, 2, 3)))
    with pytest.raises(ConfigError, match=r"reversed names \['nose'\]; have: shoulder_pan"):
        Units(SPEC, Config(reversed=("nose",)))


def test_a_port_that_is_missing_or_not_named_is_told() -> None:
    with pytest.raises(ConfigError, match="say which serial port"):
        robot(SPEC).connect()
    with pytest.raises(RobotError, match="no serial port /dev/none"):
        robot(SPEC, port="/dev/none").connect()
    with pytest.raises(ConfigError, match=r"unknown driver 'ros'; have: dynamixel, feetech, mujoco"):
        driver("ros")
    with pytest.raises(ConfigError, match=r"unknown key 'speed'; have: .*port"):
        robot(SPEC, speed=3)


def test_the_twin_in_lock_step_goes_where_it_is_sent() -> None:
    twin = robot(SPEC, name="mujoco", real_time=False)
    assert isinstance(twin, Robot)
    twin.connect()
    twin.enable()
    for _ in range(100):
        twin.command(SPEC.home + 0.1)
    seen = twin.observe()
    np.testing.assert_allclose(seen.position, SPEC.home + 0.1, atol=0.03)
    assert seen.time == pytest.approx(2.0)


@contextmanager
def simulated(make: str) -> Generator[tuple[str, "subprocess.Popen[str]"]]:
    """`vlmrl robot simulate` in a process of its own; its port and the process."""
    code = "from vlmrl.cli import main; main()"
    command = [sys.executable, "-c", code, "robot", "simulate", "so101", "--make", make]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[1], process
        finally:
            process.kill()


def say(process: "subprocess.Popen[str]", text: str) -> str:
    """Type one line, and read the answer."""
    assert process.stdin is not None and process.stdout is not None  # noqa: PT018
    process.stdin.write(text + "\n")
    process.stdin.flush()
    return process.stdout.readline()


@pytest.mark.parametrize("make", ["feetech", "dynamixel"])
def test_the_vendors_own_sdk_moves_the_simulated_arm(make: str) -> None:
    with simulated(make) as (port, process):
        arm = robot(SPEC, name=make, port=port, tries=40)
        assert isinstance(arm, Robot)
        arm.connect()
        arm.release()
        assert say(process, "state").count(" off") == 6
        arm.enable()
        target = SPEC.home + np.array([0.3, 0, 0, 0, 0, 0.2])
        sent, seen = arm.command(target), arm.observe()
        np.testing.assert_allclose(sent, target, atol=np.pi / TURN)
        deadline = 200
        while abs(seen.position[0] - 0.3) > 0.02 and (deadline := deadline - 1):
            seen = arm.observe()
        assert seen.position[0] == pytest.approx(0.3, abs=0.02)
        assert say(process, "drop 0.2") == "done: drop 0.2\n"
        assert say(process, "corrupt 0.2") == "done: corrupt 0.2\n"
        for _ in range(5):
            assert arm.observe().position[0] == pytest.approx(0.3, abs=0.05)
        say(process, "drop 0")
        say(process, "corrupt 0")
        say(process, "silent elbow_flex")
        arm.close()
        lost = robot(SPEC, name=make, port=port, tries=3)
        with pytest.raises(RobotError, match=r"no answer from .*elbow_flex \(id 3\)|no servo answers"):
            lost.connect()
        lost.close()


def test_a_bus_of_another_make_is_told_as_silence() -> None:
    with simulated("dynamixel") as (port, _):
        with pytest.raises(RobotError, match=r"no servo answers on .* at 1000000 baud: is it powered"):
            robot(replace(SPEC), port=port, tries=1).connect()
        assert Path(port).exists()


def test_zeros_with_which_a_joint_leaves_its_turn_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"with zero 700 the range of shoulder_lift is encoder steps -\d+ to"):
        Units(SPEC, Config(zeros=(2048, 700, 2048, 2048, 2048, 2048)))


@pytest.mark.parametrize("make", ["feetech", "dynamixel"])
def test_a_port_that_goes_away_is_an_error_of_the_robot_and_free_again(make: str) -> None:
    with simulated(make) as (port, process):
        arm = robot(SPEC, name=make, port=port, tries=40)
        arm.connect()
        arm.enable()
        with pytest.raises(RobotError, match="another process moves the robot"):
            robot(SPEC, name=make, port=port).connect()
        process.kill()
        process.wait()
        for _ in range(2):
            with pytest.raises(RobotError, match=r"its port is gone|does not answer"):
                arm.observe()
            with pytest.raises(RobotError, match=r"its port is gone|cannot be sent to"):
                arm.command(SPEC.home)
        arm.stop()
        arm.close()


@pytest.mark.parametrize("make", ["feetech", "dynamixel"])
def test_a_silent_bus_costs_a_control_loop_half_a_tick(make: str) -> None:
    with simulated(make) as (port, process):
        arm = robot(SPEC, name=make, port=port, once=True)
        arm.connect()
        assert say(process, "unplug") == "done: unplug\n"
        begin = time.monotonic()
        with pytest.raises(RobotError, match="does not answer"):
            arm.observe()
        # The SDK itself waits for 35 ms and more; some room for a machine that does other things.
        assert time.monotonic() - begin < 0.03
        assert say(process, "plug") == "done: plug\n"
        for _ in range(20):
            with suppress(RobotError):
                arm.observe()
                break
        else:
            pytest.fail("the bus answers no more")
        arm.close()
