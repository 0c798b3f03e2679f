"""Formats that can be imported: each a module with `Config` and `run(config) -> Report`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from vlmrl.errors import DataError, unknown
from vlmrl.store.store import Store
from vlmrl.types import Episode, Frames

IMPORTERS: Mapping[str, Callable[[], ModuleType]] = {
    "d4rl": lambda: import_module("vlmrl.store.d4rl"),
    "lerobot": lambda: import_module("vlmrl.store.lerobot"),
    "robomimic": lambda: import_module("vlmrl.store.robomimic"),
    "rlds": lambda: import_module("vlmrl.store.rlds"),
}

_BATCH_BYTES = 256 << 20

EXPORTERS = ("robomimic",)
"""Formats of which the module has `ExportConfig` and `export(config) -> str` too."""


def importer(format: str) -> ModuleType:
    """The module that imports a format."""
    if format not in IMPORTERS:
        raise unknown("format", format, IMPORTERS)
    return IMPORTERS[format]()


@dataclass(frozen=True)
class Report:
    """What an import did."""

    store: Store
    added: list[str]
    """Ids of new episodes."""
    known: int
    """Episodes that the store already had."""
    left_out: list[str]
    """Features that a store has no place for."""
    note: str = ""
    """What was assumed."""

    def __str__(self) -> str:
        left_out = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        known = f", {self.known:,} were there" if self.known else ""
        rows = f"{len(self.store.episodes):,} episodes, {len(self.store):,} rows"
        note = f"; {self.note}" if self.note else ""
        return f"{len(self.added):,} episodes imported{known}; {self.store.path} now holds {rows}{left_out}{note}"


def append_all(
    store: Store, episodes: Iterable[Episode], *, batch: int, progress: Callable[[int], None] | None = None
) -> list[str]:
    """Append episodes as they come, `batch` or 256 MiB of pictures at a time; returns their ids.

    Raises:
        DataError: that `episodes` raised; those before it are kept.
    """
    added: list[str] = []
    pending: list[Episode] = []

    def commit() -> None:
        added.extend(store.append(pending))
        pending.clear()
        if progress is not None:
            progress(len(added))

    try:
        for episode in episodes:
            pending.append(episode)
            if len(pending) >= batch or sum(map(_pixel_bytes, pending)) >= _BATCH_BYTES:
                commit()
    except DataError:
        commit()
        raise
    commit()
    return added


def _pixel_bytes(episode: Episode) -> int:
    return sum(image.pixels.nbytes for image in episode.images.values() if isinstance(image, Frames))
