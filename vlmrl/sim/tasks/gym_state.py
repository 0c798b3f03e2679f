"""The state of a foreign environment besides MuJoCo's own: what its resets move in the model, and its own numbers."""

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float64

_FIELDS = ("body_pos", "body_quat", "site_pos", "site_quat", "geom_rgba")
"""What resets move in a model."""
_WORDS = 10
"""32-bit words of a PCG64 generator: state and increment of 128 bits, and a number half used."""
_MASK = 2**32 - 1


class Moved:
    """Rows of the model that differ from one episode to another."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._first = {name: np.array(getattr(model, name)) for name in _FIELDS}
        self._rows = {name: np.zeros(len(first), bool) for name, first in self._first.items()}

    @property
    def size(self) -> int:
        """Length of what `read` returns."""
        return sum(int(rows.sum()) * self._first[name].shape[1] for name, rows in self._rows.items())

    def notice(self, model: mujoco.MjModel) -> None:
        """Compare an episode's model with the first."""
        for name, first in self._first.items():
            self._rows[name] |= (getattr(model, name) != first).any(axis=1)

    def read(self, model: mujoco.MjModel) -> Float64[np.ndarray, " N"]:
        """The rows, one after another."""
        parts = [getattr(model, name)[rows].ravel() for name, rows in self._rows.items()]
        return np.concatenate(parts).astype(np.float64)

    def write(self, model: mujoco.MjModel, numbers: Float64[np.ndarray, " N"]) -> None:
        """Put them back."""
        at = 0
        for name, rows in self._rows.items():
            field, count = getattr(model, name), int(rows.sum()) * self._first[name].shape[1]
            field[rows] = numbers[at : at + count].reshape(-1, self._first[name].shape[1])
            at += count


class Late:
    """Poses of the bodies as MuJoCo's last step left them: one substep behind the joints.

    Environments measure their next step from there (velocities, commanded poses), pictures and predicates must not.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._model, self._data = model, data
        self.keep()

    @property
    def size(self) -> int:
        """How many numbers."""
        return self.numbers.size

    def keep(self) -> None:
        """Remember the poses, and move what is drawn to where the joints are."""
        self.numbers = np.concatenate([field.ravel() for field in self._fields()])
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)

    def put_back(self) -> None:
        """Undo `keep`, for a step to start from."""
        at = 0
        for field in self._fields():
            field[:] = self.numbers[at : at + field.size].reshape(field.shape)
            at += field.size

    def _fields(self) -> tuple[np.ndarray, ...]:
        return self._data.xpos, self._data.xquat, self._data.xipos


class Attributes:
    """Every attribute of an object that is a number or an array of numbers, and its random generator.

    An attribute that is None counts as one number, for it may become one.
    """

    def __init__(self) -> None:
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._kinds: dict[str, np.dtype[Any]] = {}

    @property
    def size(self) -> int:
        """Length of what `read` returns."""
        return sum(1 + int(np.prod(shape)) for shape in self._shapes.values()) + _WORDS

    def notice(self, holder: object) -> None:
        """Add the attributes that are numbers now."""
        for name, value in vars(holder).items():
            array = _array(value)
            if array is not None:
                self._shapes[name], self._kinds[name] = array.shape, array.dtype
            elif value is None:
                self._shapes.setdefault(name, ())

    def read(self, holder: object) -> Float64[np.ndarray, " N"]:
        """The attributes, one after another, each after a mark.

        A mark is 1 before numbers, 0 for None, -1 for something else, 2 + i for the very array of the i-th attribute.
        """
        held, seen, parts = vars(holder), dict[int, int](), list[np.ndarray]()
        for i, (name, shape) in enumerate(self._shapes.items()):
            value = held.get(name)
            array, count = _array(value), int(np.prod(shape))
            if array is None or array.shape != shape:
                parts.append(np.array([0.0 if value is None else -1.0, *np.zeros(count)]))
                continue
            first = seen.setdefault(id(value), i) if isinstance(value, np.ndarray) else i
            parts.append(np.array([1.0 if first == i else 2.0 + first, *array.ravel()], np.float64))
        return np.concatenate([*parts, _words(getattr(holder, "_np_random", None))])

    def write(self, holder: object, numbers: Float64[np.ndarray, " N"]) -> None:
        """Put them back."""
        at, names = 0, list(self._shapes)
        for name, shape in self._shapes.items():
            mark, count = int(numbers[at]), int(np.prod(shape))
            if mark >= 2:
                setattr(holder, name, getattr(holder, names[mark - 2]))
            elif mark == 1:
                self._write(holder, name, numbers[at + 1 : at + 1 + count].reshape(shape))
            elif mark == 0 and _array(getattr(holder, name, None)) is not None:
                setattr(holder, name, None)
            at += 1 + count
        _wind(getattr(holder, "_np_random", None), numbers[at:])

    def _write(self, holder: object, name: str, numbers: Float64[np.ndarray, "..."]) -> None:
        now = getattr(holder, name, None)
        # Views, of MuJoCo's state for example, are filled: what they show must be the same afterwards.
        if isinstance(now, np.ndarray) and not now.flags.owndata and now.shape == numbers.shape and now.flags.writeable:
            now[...] = numbers
        else:
            value = numbers.astype(self._kinds.get(name, np.float64))
            setattr(holder, name, value.copy() if self._shapes[name] else value.item())


def _array(value: object) -> np.ndarray | None:
    """The value as numbers, if it is some."""
    if isinstance(value, (bool, int, float, np.generic, np.ndarray)) or (isinstance(value, (tuple, list)) and value):
        try:
            array = np.asarray(value)
        except ValueError:
            return None
        return array if array.dtype.kind in "biuf" else None
    return None


def _words(generator: np.random.Generator | None) -> Float64[np.ndarray, " W"]:
    state = _state(generator)
    if state is None:
        return np.zeros(_WORDS)
    inner: Mapping[str, int] = state["state"]
    long = [(inner[key] >> shift) & _MASK for key in ("state", "inc") for shift in (0, 32, 64, 96)]
    return np.array([*long, state["has_uint32"], state["uinteger"]], np.float64)


def _wind(generator: np.random.Generator | None, words: Float64[np.ndarray, " W"]) -> None:
    state = _state(generator)
    if generator is None or state is None or not words.any():
        return
    whole = [int(w) for w in words]
    first, second = (
        sum(w << s for w, s in zip(part, (0, 32, 64, 96), strict=True)) for part in (whole[:4], whole[4:8])
    )
    state["state"] = {"state": first, "inc": second}
    state["has_uint32"], state["uinteger"] = whole[8], whole[9]
    generator.bit_generator.state = state


def _state(generator: np.random.Generator | None) -> dict[str, Any] | None:
    state: Any = None if generator is None else generator.bit_generator.state
    return state if state is not None and state["bit_generator"] == "PCG64" else None
