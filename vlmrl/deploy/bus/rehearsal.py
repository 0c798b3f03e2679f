"""What a person types to make simulated servos fail: a line, an effect, an answer."""

from collections.abc import Callable, Mapping

from vlmrl.deploy.bus.line import Line
from vlmrl.errors import ConfigError, unknown

HELP = """\
  stall JOINT | free JOINT     a joint that something blocks
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
        case (_, [name]) if verb in joints:
            names = line.plant.spec.names
            if name not in names:
                raise unknown("joint", name, names)
            joints[verb](names.index(name))
        case (_, [number]) if verb in numbers:
            setattr(line.faults, numbers[verb], amount(verb, number))
        case _:
            raise ConfigError(f"cannot do {said!r}; can:\n{HELP}")
    return f"done: {said}"


def amount(verb: str, number: str) -> float:
    """A number that makes sense for a fault.

    Raises:
        ConfigError: if it does not.
    """
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value <= (1 if verb != "delay" else 60):
        raise ConfigError(f"{verb} takes a number from 0 to {1 if verb != 'delay' else 60}, found {number!r}")
    return value


def state(line: Line) -> str:
    """Where the joints are."""
    plant = line.plant
    told = [
        f"{name} {plant.position(k):.4f}{'' if plant.torque[k] else ' off'}" for k, name in enumerate(plant.spec.names)
    ]
    return f"{', '.join(told)}; {line.handled} instructions"
