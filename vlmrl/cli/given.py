"""Settings of the small commands, given as key=value."""

from collections.abc import Sequence
from typing import Any, TypeVar

from omegaconf import OmegaConf

from vlmrl import config as configuration
from vlmrl.errors import ConfigError

T = TypeVar("T")


def configured(cls: type[T], settings: list[str] | None, *, where: str) -> T:
    """Fill a dataclass from key=value.

    Raises:
        ConfigError: if a setting is unknown, mistyped or missing.
    """
    given = settings or []
    if wrong := [s for s in given if "=" not in s]:
        raise ConfigError(f"settings are key=value, found {wrong[0]!r}")
    content: Any = OmegaConf.to_container(OmegaConf.from_dotlist(given))
    return configuration.fill(cls, content, where=where)


def pairs(settings: Sequence[str]) -> dict[str, str | list[str]]:
    """Settings as a mapping; [a,b] is a list.

    Raises:
        ConfigError: if one is not key=value.
    """
    wrong = [s for s in settings if "=" not in s]
    if wrong:
        raise ConfigError(f"settings are key=value, found {wrong[0]!r}")
    return {key: _value(text) for key, text in (s.split("=", 1) for s in settings)}


def _value(text: str) -> str | list[str]:
    """A text, or the list that [a,b] means in a job's settings too."""
    if not (text.startswith("[") and text.endswith("]")):
        return text
    return [part.strip() for part in text[1:-1].split(",") if part.strip()]
