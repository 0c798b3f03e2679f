"""The manifest: the one file that says what a store holds, replaced atomically by whoever holds the lock."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vlmrl.errors import DataError
from vlmrl.store import disk

NAME = "manifest.json"
FORMAT = "vlmrl-store"
SCHEMA = 1

Migration = Callable[[dict[str, Any]], dict[str, Any]]
MIGRATIONS: Mapping[int, Migration] = {}
"""From the schema version that a migration reads; each returns the next version's content."""


@dataclass(frozen=True)
class PartEntry:
    """What the manifest knows of a part."""

    id: str
    rows: int
    episodes: int
    bytes: int
    columns: dict[str, list[int]]
    """Shape of one row, by column name."""
    cameras: dict[str, dict[str, Any]]
    """`form` (pixels or video), `height`, `width` and `frames` of each."""
    sha256: str
    """Of the part's checksum list."""

    @property
    def folder(self) -> str:
        """Relative to the store."""
        return f"parts/{self.id}"


@dataclass(frozen=True)
class ColumnEntry:
    """What the manifest knows of a column that was added beside the parts."""

    folder: str
    parts: list[str]
    """Which it covers, in order."""
    coverage: float
    """Fraction of the rows that have a value: of a reward's rows with a next row, of all rows for an embedding."""
    attributes: dict[str, Any]
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of a store, by reference and checksum."""

    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By column: `names` of its entries, `units`."""
    meta: dict[str, Any] = field(default_factory=dict)
    parts: tuple[PartEntry, ...] = ()
    columns: dict[str, ColumnEntry] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"format": FORMAT, "schema": SCHEMA, **asdict(self), "parts": [asdict(p) for p in self.parts]}

    @property
    def hash(self) -> str:
        """Changes exactly when the content of the store does."""
        return disk.digest(self.content())

    @property
    def folders(self) -> set[str]:
        """Every committed folder, relative to the store."""
        return {p.folder for p in self.parts} | {c.folder for c in self.columns.values()}

    def with_part(self, part: PartEntry) -> "Manifest":
        """This and one more part."""
        return replace(self, parts=(*self.parts, part))

    def with_column(self, name: str, column: ColumnEntry) -> "Manifest":
        """This and one more column."""
        return replace(self, columns=self.columns | {name: column})


def encode(manifest: Manifest) -> bytes:
    """The file's bytes: the content and its own checksum, to be read by people too."""
    return json.dumps({"sha256": manifest.hash, "content": manifest.content()}, indent=1, ensure_ascii=False).encode()


def commit(store: Path, manifest: Manifest) -> None:
    """Make `manifest` the store's; the caller holds the lock."""
    disk.replace(store / NAME, encode(manifest))


def load(store: Path) -> Manifest:
    """Read and check the manifest.

    Raises:
        DataError: if it is missing, damaged, or of a newer version than this code.
    """
    path = store / NAME
    try:
        whole = json.loads(path.read_bytes())
        content, expected = whole["content"], whole["sha256"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"no store at {store}: {path} is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if disk.digest(content) != expected:
        raise DataError(f"{path} is damaged: its content does not match its checksum {str(expected)[:12]}")
    return decode(migrate(content, path=path))


def migrate(
    content: dict[str, Any], *, path: Path, migrations: Mapping[int, Migration] = MIGRATIONS, schema: int = SCHEMA
) -> dict[str, Any]:
    """Bring the content of an older version up to `schema`."""
    if content.get("format") != FORMAT:
        raise DataError(f"{path} is not a {FORMAT} manifest but {content.get('format')!r}")
    version = int(content["schema"])
    if version > schema:
        raise DataError(f"{path} has schema {version}, this vlmrl reads up to {schema}: upgrade vlmrl")
    while version < schema:
        if version not in migrations:
            raise DataError(f"{path} has schema {version}, which nothing migrates; have: {sorted(migrations)}")
        content = migrations[version](content)
        version = int(content["schema"])
    return content


def decode(content: Mapping[str, Any]) -> Manifest:
    """The manifest in a content of the current schema."""
    return Manifest(
        attributes=content["attributes"],
        meta=content["meta"],
        parts=tuple(PartEntry(**p) for p in content["parts"]),
        columns={name: ColumnEntry(**c) for name, c in content["columns"].items()},
    )
