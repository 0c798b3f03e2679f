"""Formats that can be imported: each a module with `Config` and `run(config) -> Report`."""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType

from vlmrl.errors import unknown

IMPORTERS: Mapping[str, Callable[[], ModuleType]] = {
    "lerobot": lambda: import_module("vlmrl.store.lerobot"),
}


def importer(format: str) -> ModuleType:
    """The module that imports a format."""
    if format not in IMPORTERS:
        raise unknown("format", format, IMPORTERS)
    return IMPORTERS[format]()
