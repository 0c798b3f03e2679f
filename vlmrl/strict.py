"""YAML files as dataclasses: what a file says wrong is an error that lists what is wanted."""

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from vlmrl.errors import ConfigError, unknown

T = TypeVar("T")

FROM_PLACE = ("name", "folder")
"""Fields that follow from where a file lies, and that it may not hold."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same as `safe_load`, ten times as fast where PyYAML has libyaml."""


def read(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ConfigError: if it is not YAML, no mapping, or says its own name.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a mapping of keys wanted, found {type(content).__name__}")
    given = cast("dict[str, Any]", content)
    if set(FROM_PLACE) & set(given):
        raise ConfigError(f"{path}: keys 'name' and 'folder' follow from where the file lies; remove them")
    return given


def build(cls: type[T], given: Mapping[str, Any], where: str, *, hidden: Collection[str] = ()) -> T:
    """Make a dataclass from a mapping; `hidden` fields are not told to the user.

    Raises:
        ConfigError: if a key is unknown, missing or of the wrong type.
    """
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cast("Any", cls))}
    public = [k for k in known if k not in hidden]
    for key in given:
        if key not in known:
            raise ConfigError(f"{where}: {unknown('key', str(key), public)}")
    missing = [k for k, f in known.items() if k not in given and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise ConfigError(f"{where}: missing key {', '.join(map(repr, missing))}; have: {', '.join(sorted(public))}")
    return cls(**{k: _convert(hints[k], v, f"{where}: {k}") for k, v in given.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Check a YAML value against a type, or the first of a union with None; integers pass as floats."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        return _convert(next(a for a in arguments if a is not NoneType), value, where)
    if origin is Literal:
        if value not in arguments:
            raise unknown(where, str(value), map(str, arguments))
        return value
    if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__") and isinstance(value, Mapping):
        return build(hint, cast("Mapping[str, Any]", value), where)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(cast("list[Any]", value)))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        pairs = cast("Mapping[str, Any]", value).items()
        return {str(k): v if arguments[1] is Any else _convert(arguments[1], v, f"{where}.{k}") for k, v in pairs}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    wanted = getattr(hint, "__name__", str(hint)) if origin is None else str(hint).replace("typing.", "")
    raise ConfigError(f"{where}: {wanted} wanted, found {value!r}")
