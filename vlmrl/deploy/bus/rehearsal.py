"""What a person types to make simulated servos fail: a line, an effect, an answer."""

from collections.abc import Callable, Mapping

from vlmrl.deploy.bus.line import Line
from vlmrl.errors import ConfigError, unknown

HELP = """\
  stall JOINT | free JOINT     a joint that something blocks
  lead JOINT RAD               a hand that brings a joint somewhere, as on a limp leader arm
  heat JOINT                   a servo that switches itself off, too hot
  silent JOINT | heard JOINT   a servo whose cable is off
  restart JOINT                a servo that loses power for a moment
  drop P | corrupt P           share of answers that get lost, or arrive damaged
  delay S                      seconds before every answer
  unplug | plug                the whole bus
  state                        positions in rad, torque, instructions so far
  quit"""


def perform(line: Line, said: str) -> str:
    """Do what was said, and answer it; `quit` is answered with nothing.

    Raises:
        ConfigError: if it cannot be done; the message says what can.
    """
    verb, *rest = said.split()
    joints: Mapping[str, Callable[[int], None]] = {
        "stall": lambda k: line.plant.stall(k, True),
        "free": lambda k: line.plant.stall(k, False),
        "heat": lambda k: line.servos[k + 1].overheat(),
        "silent": lambda k: line.faults.silent.add(k + 1),
        "heard": lambda k: line.faults.silent.discard(k + 1),
        "restart": lambda k: line.servos[k + 1].restart(),
    }
    numbers = {"drop": "drop", "corrupt": "corrupt", "delay": "delay_s"}
    match verb, rest:
        case ("quit", []):
            return ""
        case ("help", []):
            return HELP
        case ("state", []):
            return state(line)
        case ("unplug" | "plug", []):
            line.faults.unplugged = verb == "unplug"
        case ("lead", [name, number]):
            k = numbered(line, name)
            joint = line.plant.spec.joints[k]
            line.plant.lead(k, amount(verb, number, joint.lower, joint.upper))
        case (_, [name]) if verb in joints:
            joints[verb](numbered(line, name))
        case (_, [number]) if verb in numbers:
            setattr(line.faults, numbers[verb], amount(verb, number, 0.0, 60.0 if verb == "delay" else 1.0))
        case _:
            raise ConfigError(f"cannot do {said!r}; can:\n{HELP}")
    return f"done: {said}"


def numbered(line: Line, name: str) -> int:
    """Which joint it is.

    Raises:
        ConfigError: if there is none of that name.
    """
    names = line.plant.spec.names
    if name not in names:
        raise unknown("joint", name, names)
    return names.index(name)


def amount(verb: str, number: str, least: float, most: float) -> float:
    """A number that makes sense.

    Raises:
        ConfigError: if it does not.
    """
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise ConfigError(f"{verb} takes a number from {least:g} to {most:g}, found {number!r}")
    return value


def state(line: Line) -> str:
    """Where the joints are."""
    plant = line.plant
    told = [
        f"{name} {plant.position(k):.4f}{'' if plant.torque[k] else ' off'}" for k, name in enumerate(plant.spec.names)
    ]
    return f"{', '.join(told)}; {line.handled} instructions"
