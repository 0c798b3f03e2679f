"""`vlmrl robot`: what robots there are, whether one is all right, and one that needs no hardware."""

import sys
import time
from typing import Annotated, Any

import typer

from vlmrl.cli.given import pairs
from vlmrl.errors import ConfigError, VlmrlError

app = typer.Typer(help="Robots: list them, check one, bring it home, simulate its servo bus.", no_args_is_help=True)

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
    from vlmrl.deploy.drivers import robot
    from vlmrl.deploy.homing import go_home
    from vlmrl.robot import load_robot

    spec = load_robot(name)
    connected = robot(spec, name=driver, **options(settings))
    connected.connect()
    try:
        seconds = go_home(connected)
    finally:
        connected.close()
    typer.echo(f"at home after {seconds:.1f} s")


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
    from vlmrl.robot import load_robot

    spec = load_robot(name)
    line = Line(Plant(spec, clock=time.monotonic), make or spec.driver, seed=seed)

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
