"""Named success predicates and progress measures over a scene: the vocabulary of `task.yaml`.

A scene is what a family of dynamics moves: a MuJoCo model, its data, and the signals that the family names.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from vlmrl.errors import ConfigError, unknown

if TYPE_CHECKING:
    import mujoco


@runtime_checkable
class Scene(Protocol):
    """What predicates look at."""

    @property
    def model(self) -> "mujoco.MjModel":
        """The loaded scene."""
        ...

    @property
    def data(self) -> "mujoco.MjData":
        """Its present state."""
        ...

    def signals(self) -> Mapping[str, float]:
        """Named numbers of the present state that the family computes."""
        ...


def joint_value(scene: Scene, joint: str) -> float:
    """Position of a slide (m) or hinge (rad) joint."""
    return float(scene.data.qpos[scene.model.joint(joint).qposadr[0]])


def joint_beyond(scene: Scene, *, joint: str, value: float) -> bool:
    """The joint has gone from zero as far as `value` or farther, on the side of its sign."""
    return math.copysign(1.0, value) * (joint_value(scene, joint) - value) >= 0


def joint_within(scene: Scene, *, joint: str, limit: float) -> bool:
    """The joint is nearer to zero than `limit`."""
    return abs(joint_value(scene, joint)) < limit


def joint_travel(scene: Scene, *, joint: str, start: float, end: float) -> float:
    """How far the joint has gone from `start` (0) to `end` (1)."""
    return min(max((joint_value(scene, joint) - start) / (end - start), 0.0), 1.0)


def joint_centred(scene: Scene, *, joint: str, limit: float) -> float:
    """1 where the joint is at zero, 0 where it is `limit` away or farther."""
    return max(1 - abs(joint_value(scene, joint)) / limit, 0.0)


def signal_value(scene: Scene, signal: str) -> float:
    """A number that the family computes.

    Raises:
        ConfigError: if it computes none of this name.
    """
    signals = scene.signals()
    if signal not in signals:
        raise unknown("signal", signal, signals)
    return float(signals[signal])


def signal_above(scene: Scene, *, signal: str, value: float) -> bool:
    """The signal is at `value` or above."""
    return signal_value(scene, signal) >= value


def signal_below(scene: Scene, *, signal: str, value: float) -> bool:
    """The signal is at `value` or below."""
    return signal_value(scene, signal) <= value


def signal_travel(scene: Scene, *, signal: str, start: float, end: float) -> float:
    """How far the signal has gone from `start` (0) to `end` (1)."""
    return min(max((signal_value(scene, signal) - start) / (end - start), 0.0), 1.0)


PREDICATES: Mapping[str, Callable[..., bool]] = {
    "joint_beyond": joint_beyond,
    "joint_within": joint_within,
    "signal_above": signal_above,
    "signal_below": signal_below,
}
MEASURES: Mapping[str, Callable[..., float]] = {
    "joint_travel": joint_travel,
    "joint_centred": joint_centred,
    "signal_travel": signal_travel,
}


def check_parameters(
    table: Mapping[str, Callable[..., object]], given: Mapping[str, Any], kind: str, where: str
) -> None:
    """Check that `given[kind]` names a function of the table and the other keys are exactly its parameters.

    Raises:
        ConfigError: if not; the message lists what is wanted.
    """
    name = given.get(kind)
    if name not in table:
        raise ConfigError(f"{where}: {unknown(kind, str(name), table)}")
    signature = inspect.signature(table[str(name)])
    wanted = {k: p.annotation for k, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}
    found = {k: v for k, v in given.items() if k != kind}
    if set(found) != set(wanted):
        raise ConfigError(f"{where}: {name} takes {', '.join(wanted)}; found {', '.join(found) or 'nothing'}")
    for key, value in found.items():
        if not isinstance(value, str if wanted[key] is str else (int, float)) or isinstance(value, bool):
            raise ConfigError(f"{where}: {key}: {wanted[key].__name__} wanted, found {value!r}")


def bind(table: Mapping[str, Callable[..., Any]], given: Mapping[str, Any], kind: str) -> Callable[[Scene], Any]:
    """Return the named function with its parameters filled in."""
    function = table[given[kind]]
    parameters = {k: v if isinstance(v, str) else float(v) for k, v in given.items() if k != kind}
    return lambda scene: function(scene, **parameters)
