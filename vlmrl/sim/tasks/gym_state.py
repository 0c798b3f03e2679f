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
        self._optional: set[str] = set()

    @property
    def size(self) -> int:
        """Length of what `read` returns."""
        return sum(int(np.prod(shape)) for shape in self._shapes.values()) + _WORDS

    def notice(self, holder: object) -> None:
        """Add the attributes that are numbers now."""
        for name, value in vars(holder).items():
            array = _array(value)
            if array is not None:
                self._shapes[name], self._kinds[name] = array.shape, array.dtype
            elif value is None:
                self._shapes.setdefault(name, ())
                self._optional.add(name)

    def read(self, holder: object) -> Float64[np.ndarray, " N"]:
        """The numbers, one attribute after another; NaN for None."""
        held = vars(holder)
        parts = [self._read(name, held.get(name)) for name in self._shapes]
        return np.concatenate([*parts, _words(getattr(holder, "_np_random", None))])

    def write(self, holder: object, numbers: Float64[np.ndarray, " N"]) -> None:
        """Put them back; views are filled, so that what shares them sees it."""
        at, held = 0, vars(holder)
        for name, shape in self._shapes.items():
            count = int(np.prod(shape))
            self._write(holder, held.get(name), name, numbers[at : at + count].reshape(shape))
            at += count
        _wind(getattr(holder, "_np_random", None), numbers[at:])

    def _read(self, name: str, value: object) -> Float64[np.ndarray, " N"]:
        array, shape = _array(value), self._shapes[name]
        if array is None or array.shape != shape:
            return np.full(int(np.prod(shape)), np.nan)
        return array.astype(np.float64).ravel()

    def _write(self, holder: object, now: object, name: str, numbers: Float64[np.ndarray, "..."]) -> None:
        kind = self._kinds.get(name)
        if np.isnan(numbers).all() and (name in self._optional or kind is None or kind.kind != "f"):
            if _array(now) is not None and name in self._optional:
                setattr(holder, name, None)
        elif isinstance(now, np.ndarray) and not now.flags.owndata and now.flags.writeable:
            now[...] = numbers
        else:
            value = numbers.astype(kind or np.float64)
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
