"""`vlmrl robot`: what robots there are, whether one is all right, and one that needs no hardware."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmrl.cli.given import pairs
from vlmrl.errors import ConfigError, RobotError, VlmrlError

if TYPE_CHECKING:
    from vlmrl.robot import RobotSpec

app = typer.Typer(help="Robots: list, check, calibrate and move them, simulate a servo bus.", no_args_is_help=True)

Settings = Annotated[list[str] | None, typer.Argument(help="key=value: the driver's options, as port=/dev/ttyACM0")]


@app.command("list")
def list_() -> None:
    """Name the robots, yours (./robots) and the installed ones; needs no hardware."""
    from vlmrl.robot import load_robot, robot_names

    for name in robot_names():
        spec = load_robot(name)
        typer.echo(f"{name:12}{len(spec.joints)} joints, {spec.control_hz:g} commands/s, driver {spec.driver}")


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A robot, as `vlmrl robot list` names it")],
    settings: Settings = None,
    driver: Annotated[str, typer.Option(help="Another driver than the robot's own")] = "",
) -> None:
    """Connect, read every joint, and say whether it stands within its limits; nothing moves.

    Example: vlmrl robot check so101 port=/dev/ttyACM0
    """
    from vlmrl.deploy.drivers import robot
    from vlmrl.robot import load_robot
    from vlmrl.safety import SafetyChain

    spec = load_robot(name)
    connected = robot(spec, name=driver, **options(settings))
    connected.connect()
    try:
        seen = connected.observe()
    finally:
        connected.close()
    for joint, position in zip(spec.joints, seen.position, strict=True):
        mark = "" if joint.lower <= position <= joint.upper else "   OUTSIDE"
        typer.echo(f"{joint.name:16}{position:8.3f} rad of {joint.lower:.3f} to {joint.upper:.3f}{mark}")
    told = SafetyChain(spec).begin(seen.position)
    typer.echo("within its limits" if not told else f"not within its limits: {'; '.join(told.values())}")


@app.command()
def home(
    name: Annotated[str, typer.Argument(help="A robot, as `vlmrl robot list` names it")],
    settings: Settings = None,
    driver: Annotated[str, typer.Option(help="Another driver than the robot's own")] = "",
) -> None:
    """Bring the robot to its home pose, through the safety chain.

    Example: vlmrl robot home so101 port=/dev/ttyACM0
    """
    spec, seconds = _go(name, settings, driver, lambda seen: load_home(name))
    typer.echo(f"{spec.name} is at home after {seconds:.1f} s")


@app.command()
def jog(
    name: Annotated[str, typer.Argument(help="A robot, as `vlmrl robot list` names it")],
    joint: Annotated[str, typer.Argument(help="One of its joints")],
    by: Annotated[float, typer.Argument(help="rad; `-- -0.1` for a negative number")],
    settings: Settings = None,
    driver: Annotated[str, typer.Option(help="Another driver than the robot's own")] = "",
) -> None:
    """Move one joint by an amount, slowly and through the safety chain, and hold there.

    Example: vlmrl robot jog so101 wrist_roll 0.2 port=/dev/ttyACM0
    """
    from vlmrl.errors import unknown
    from vlmrl.robot import load_robot

    spec = load_robot(name)
    if joint not in spec.names:
        raise unknown("joint", joint, spec.names)
    k = spec.names.index(joint)
    limit = spec.joints[k]

    def goal(seen: Any) -> Any:
        target = seen.copy()
        target[k] = min(max(target[k] + by, limit.lower), limit.upper)
        return target

    _go(name, settings, driver, goal)
    typer.echo(f"{joint} moved")


@app.command()
def calibrate(
    name: Annotated[str, typer.Argument(help="A robot on a servo bus")],
    settings: Settings = None,
    out: Annotated[str, typer.Option(help="File that receives it")] = "calibration.yaml",
) -> None:
    """Measure where this unit's joints have their zeros: its servos are limp, and you put it into the home pose.

    Give the file to every command as calibration=FILE. Example: vlmrl robot calibrate so101 port=/dev/ttyACM0
    """
    import numpy as np
    import yaml

    from vlmrl.deploy.drivers import robot
    from vlmrl.deploy.drivers.serial_bus import Config, zeros_at
    from vlmrl.robot import load_robot
    from vlmrl.strict import build

    spec, given = load_robot(name), options(settings)
    connected = robot(spec, **given)
    connected.connect()
    try:
        pose = ", ".join(f"{joint.name} {joint.home:.2f}" for joint in spec.joints)
        typer.prompt(f"put the arm into its home pose ({pose} rad) and press Enter", default="", show_default=False)
        read = np.array([connected.observe().position for _ in range(20)])
    finally:
        connected.close()
    if (moved := float(np.ptp(read, axis=0).max())) > 0.02:
        raise ConfigError(f"the arm moved by {moved:.3f} rad while it was read: hold it still and try again")
    config = build(Config, given, f"robot {name!r}")
    found = {"robot": spec.name, "zeros": zeros_at(read.mean(0), spec, config)}
    Path(out).write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")
    typer.echo(f"{out}: zeros at encoder steps {found['zeros']}; give it to other commands: calibration={out}")


def load_home(name: str) -> Any:
    """The robot's home pose, rad."""
    from vlmrl.robot import load_robot

    return load_robot(name).home


def _go(name: str, settings: list[str] | None, driver: str, goal: Callable[[Any], Any]) -> "tuple[RobotSpec, float]":
    """Bring a robot to a pose that depends on where it is; how long it took, s.

    Raises:
        RobotError: if the chain or a signal stops it, or it does not answer.
    """
    from vlmrl.cli.deploy import signals
    from vlmrl.deploy.drivers import robot
    from vlmrl.deploy.node import Node
    from vlmrl.deploy.state import Settings as NodeSettings
    from vlmrl.deploy.state import State
    from vlmrl.robot import load_robot
    from vlmrl.safety import SafetyChain

    spec = load_robot(name)
    connected = robot(spec, name=driver, **options(settings))
    node = Node(connected, chain=SafetyChain(spec), settings=NodeSettings(auto=False), tell=typer.echo)
    node.goal_from = goal
    node.say("home")
    begin = time.monotonic()
    with signals(node):
        node.run(until=lambda made: made.state in (State.ARMED, State.STOPPED, State.FAULT))
    if node.chain.latched is not None:
        raise RobotError(f"stopped on the way: {node.chain.latched[1]}")
    if node.ended:
        raise RobotError(f"{node.ended} on the way")
    return spec, time.monotonic() - begin


@app.command()
def simulate(
    name: Annotated[str, typer.Argument(help="A robot, as `vlmrl robot list` names it")],
    make: Annotated[str, typer.Option(help="Servos of the bus: feetech or dynamixel; by default the robot's own")] = "",
    seed: Annotated[int, typer.Option(help="Of lost and damaged answers")] = 0,
) -> None:
    """A serial port with the robot's servos on it and MuJoCo behind them: the vendor's own SDK talks to it.

    Faults are typed while it runs: `help` lists them. End with `quit` or Ctrl-D.
    """
    from vlmrl.deploy.bus import Line, Plant
    from vlmrl.deploy.bus.rehearsal import HELP, perform
    from vlmrl.deploy.clock import raise_priority
    from vlmrl.robot import load_robot

    spec = load_robot(name)
    # It stands for hardware, which is not slowed down by what else a computer does.
    raise_priority(60)
    line = Line(Plant(spec, clock=time.monotonic), make or spec.driver, seed=seed)
    for servo in line.servos.values():
        # As a robot that was used before: without torque it would have fallen by the time that somebody connects.
        servo.write(servo.layout.torque[0], b"\x01")

    def hear(said: str) -> bool:
        if not said:
            return True
        try:
            answer = perform(line, said)
        except VlmrlError as error:
            answer = str(error)
        if answer:
            typer.echo(answer)
            sys.stdout.flush()
        return bool(answer)

    typer.echo(f"port {line.port}")
    typer.echo(f"try: vlmrl robot check {name} port={line.port}\nfaults:\n{HELP}", err=True)
    sys.stdout.flush()
    try:
        line.serve(sys.stdin.fileno(), hear)
    except KeyboardInterrupt:
        typer.echo("ended", err=True)
    finally:
        line.close()


def options(settings: list[str] | None) -> dict[str, Any]:
    """The driver's options from a command line, as YAML reads them."""
    import yaml

    given = pairs(settings or [])
    try:
        return {key: yaml.safe_load(value) if isinstance(value, str) else value for key, value in given.items()}
    except yaml.YAMLError as error:
        raise ConfigError(f"settings are key=value, found {settings}: {error}") from error
