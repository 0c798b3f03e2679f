"""Durable writing and checksums: what is renamed into place has reached the disk before it is named."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmrl.errors import DataError

CHECKSUMS = "checksums.json"
"""In every part and column folder: each of its other files with size and sha256."""
_SYNCS = 16
NEW = ".new"
"""Suffix of a file about to replace another."""


def canonical(content: object) -> bytes:
    """Encode as JSON of which equal contents have equal bytes.

    Raises:
        DataError: if the content is not JSON (NaN included).
    """
    try:
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"attributes and meta must be JSON without NaN: {error}") from error


def digest(content: object) -> str:
    """Sha256 of the canonical JSON."""
    return hashlib.sha256(canonical(content)).hexdigest()


def file_digest(path: Path) -> str:
    """Sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Force every file and folder under `folder` to the disk."""
    found = [(Path(root), [Path(root, name) for name in names]) for root, _, names in os.walk(folder)]
    # file systems commit many waiting fsyncs at once, one after the other costs milliseconds each
    with ThreadPoolExecutor(_SYNCS) as pool:
        list(pool.map(sync, [file for _, inside in found for file in inside]))
        list(pool.map(sync, [root for root, _ in found]))


def publish(path: Path, content: bytes) -> None:
    """Replace a file so that readers see the old bytes or the new ones, whoever is killed."""
    temporary = path.with_name(path.name + NEW)
    temporary.write_bytes(content)
    temporary.replace(path)


def replace(path: Path, content: bytes) -> None:
    """As `publish`, and the new bytes survive a power cut."""
    temporary = path.with_name(path.name + NEW)
    temporary.write_bytes(content)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def files(folder: Path) -> Iterator[Path]:
    """Every file under a folder, relative to it, checksums left out, in a fixed order."""
    found = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
    yield from sorted(p for p in found if p != Path(CHECKSUMS))


def seal(folder: Path, known: Mapping[str, str] | None = None) -> str:
    """Write the checksums of a finished folder and return the sha256 of that list, which stands for all of it.

    `known` holds digests already computed, by relative path.
    """
    known = known or {}
    sums = {
        p.as_posix(): [(folder / p).stat().st_size, known.get(p.as_posix()) or file_digest(folder / p)]
        for p in files(folder)
    }
    content = canonical(sums)
    (folder / CHECKSUMS).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Sealed:
    """A folder whose checksums were written by `seal`."""

    folder: Path
    sha256: str
    """Of its checksum list."""
    what: str
    """How errors name it."""

    def sums(self) -> dict[str, tuple[int, str]]:
        """Size and sha256 by relative path.

        Raises:
            DataError: if the list is missing or is not the one that was committed.
        """
        path = self.folder / CHECKSUMS
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise DataError(f"{self.what} is damaged: {path} is missing") from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise DataError(f"{self.what} is damaged: {path} is not the list that was committed")
        listed: dict[str, Any] = json.loads(content)
        return {name: (int(size), str(sha)) for name, (size, sha) in listed.items()}

    def read(self, name: str) -> bytes:
        """Bytes of one file, checked.

        Raises:
            DataError: if it is missing or has changed.
        """
        path, listed = self.folder / name, self.sums().get(name)
        if listed is None:
            raise DataError(f"damaged: {self.what} was committed without {path}")
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise DataError(f"damaged: {self.what}: {path} is missing") from error
        if hashlib.sha256(content).hexdigest() != listed[1]:
            raise DataError(f"damaged: {self.what}: {path} has changed since it was written (checksum differs)")
        return content

    def size_problems(self) -> list[str]:
        """Files that are missing or have another size: quick, finds truncation."""
        lines: list[str] = []
        for name, (size, _) in self.sums().items():
            path = self.folder / name
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                lines.append(
                    f"{self.what}: {path} "
                    + ("is missing" if found is None else f"has {found} bytes, {size} were written")
                )
        return lines

    def content_problems(self) -> list[str]:
        """Files that are missing, changed, or were never committed: reads everything."""
        lines = self.size_problems()
        sums = self.sums()
        for name in files(self.folder):
            path, listed = self.folder / name, sums.get(name.as_posix())
            if listed is None:
                lines.append(f"{self.what}: {path} was never committed")
            elif path.stat().st_size == listed[0] and file_digest(path) != listed[1]:
                lines.append(f"{self.what}: {path} has changed since it was written (checksum differs)")
        return lines

    def check_sizes(self) -> None:
        """Raise DataError naming the first missing or truncated file."""
        if problems := self.size_problems():
            raise DataError(
                f"damaged: {problems[0]}" + (f" (and {len(problems) - 1} more files)" if problems[1:] else "")
            )
