"""Settings of the small commands, given as key=value."""

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
