"""Messages of the openpi protocol: MessagePack maps in which arrays are maps of bytes, dtype and shape. Never pickle.

Source of the format: Physical-Intelligence/openpi, packages/openpi-client and docs/remote_inference.md (Apache-2.0). A
server first sends what it is; then each message is an observation by key, each reply `{"actions": (H, A), ...}`. A
reply of text is an error. Keys that begin with `vlmrl/` are ours: see `policy/remote.py`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from vlmrl.errors import ConfigError, DataError

SEEDS = "vlmrl/seeds"
"""Of a request of several observations: a seed for each."""
SAMPLES = "vlmrl/samples"
"""Chunks wanted for each of them; 0: the one that the policy would execute."""
OURS = "vlmrl"
"""Of what a server of ours says that it is: what a client must know of the policy."""
LARGEST = 64 * 2**20
"""Bytes of a message."""
_AXES = 8
_KINDS = "biuf"
_DTYPE = re.compile(f"[<>|=]?[{_KINDS}][1248]")


def library(name: str) -> Any:
    """The module `msgpack` or one of `websockets`.

    Raises:
        ConfigError: if it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"policy servers need the package {error.name!r}: pip install 'vlmrl[remote]'") from error


def pack(content: Mapping[str, Any]) -> bytes:
    """A map of numbers, texts, arrays and further maps as one message."""
    return library("msgpack").packb(content, default=_packed)


def unpack(message: bytes | str) -> dict[str, Any]:
    """The map in a message.

    Raises:
        DataError: if it is none.
    """
    msgpack = library("msgpack")
    if isinstance(message, str):
        raise DataError(f"a binary message wanted, found text: {message[:200]!r}")
    try:
        found = msgpack.unpackb(message, object_hook=_unpacked)
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise DataError(f"no message of the openpi protocol: {type(error).__name__}: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in cast("dict[Any, Any]", found)):
        raise DataError(f"a map of observations by name wanted, found {type(cast('Any', found)).__name__}")
    return cast("dict[str, Any]", found)


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in _KINDS:
        raise DataError(f"arrays of numbers wanted, found dtype {value.dtype}")
    if isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, Any]", value)
        return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": array.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"cannot send a {type(value).__name__}")


def _unpacked(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" not in value and b"__npgeneric__" not in value:
        return value
    if missing := {b"dtype", b"data"} - set(value):
        raise ValueError(f"an array without {sorted(missing)}")
    if not isinstance(value[b"dtype"], str) or not _DTYPE.fullmatch(value[b"dtype"]):
        raise ValueError(f"arrays of numbers wanted, found dtype {value[b'dtype']!r}")
    dtype = np.dtype(value[b"dtype"])
    if b"__npgeneric__" in value:
        return dtype.type(value[b"data"])
    shape = tuple(value.get(b"shape", ()))
    if (
        len(shape) > _AXES
        or not all(isinstance(n, int) and 0 <= n < 2**31 for n in shape)
        or not isinstance(value[b"data"], bytes)
    ):
        raise ValueError(f"an array's bytes and shape wanted, found shape {shape[:_AXES]}")
    if math.prod(shape) * dtype.itemsize != len(value[b"data"]):
        raise ValueError(f"{len(value[b'data'])} bytes are no array of {dtype} and shape {shape}")
    return np.frombuffer(value[b"data"], dtype).reshape(shape)
