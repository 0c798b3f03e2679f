"""Errors that are the user's to mend: the command line prints the message without a traceback."""

from collections.abc import Iterable


class VlmrlError(Exception):
    """Base of every error whose message alone tells a user what to do."""


class ConfigError(VlmrlError):
    """A setting is unknown, mistyped or contradicts another."""


class DataError(VlmrlError):
    """A store, a data set or a checkpoint is damaged or not what was expected."""


class LabelerError(VlmrlError):
    """A labeler cannot go on: no server, wrong key, or budget spent."""


class RobotError(VlmrlError):
    """A robot does not answer, or is not the one that was expected."""


def unknown(kind: str, found: str, have: Iterable[str]) -> ConfigError:
    """Say which name was not found and which exist."""
    return ConfigError(f"unknown {kind} {found!r}; have: {', '.join(sorted(have))}")
