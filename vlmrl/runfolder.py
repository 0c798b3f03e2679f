"""The run folder: what produced a number lies beside the number."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import vlmrl
from vlmrl.errors import DataError

PACKAGES = ("torch", "numpy", "mujoco", "gymnasium", "metaworld", "transformers", "zarr")


@dataclass(frozen=True)
class Metrics:
    """Appends one JSON line a record to `metrics.jsonl`."""

    path: Path

    def write(self, name: str, step: int, values: Mapping[str, float]) -> None:
        """Record `values` of the series `name` at `step`."""
        with self.path.open("a") as file:
            file.write(json.dumps({"name": name, "step": step, **values}) + "\n")

    def cut(self, step: int) -> None:
        """Forget what was recorded after `step`, and half a line that a full disk or a killed process left."""
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        self.path.write_text(
            "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step)
        )

    def read(self, name: str) -> list[dict[str, Any]]:
        """The records of one series, in the order written."""
        if not self.path.exists():
            return []
        with self.path.open() as file:
            return [record for line in file if (record := json.loads(line))["name"] == name]


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file whole, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:  # piece by piece: the text of many labels is larger than they are
        json.dump(content, file, indent=1, sort_keys=True)
        file.write("\n")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: if it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged ({error}); remove it, and what it describes is made again") from error


def masked(content: Any) -> Any:
    """The same settings or text with the passwords of URLs blotted out: run folders and reports are passed on."""
    if isinstance(content, Mapping):
        return {key: masked(value) for key, value in cast("Mapping[str, Any]", content).items()}
    if isinstance(content, list):
        return [masked(value) for value in cast("list[Any]", content)]
    if not isinstance(content, str):
        return content
    return re.sub(r"([?&]password=)[^&\s]+", r"\1***", re.sub(r"(\w+://[^\s:/@]+):[^\s@]+@", r"\1:***@", content))


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def provenance() -> dict[str, Any]:
    """Commit, versions and command line of this process."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "vlmrl": vlmrl.__version__,
        "commit": commit(),
        "python": sys.version.split()[0],
        "packages": versions,
        "command": masked(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
    }


def commit() -> str:
    """The checkout's commit, `-dirty` where files differ; empty outside a checkout."""
    root = Path(vlmrl.__file__).parent.parent
    if not (root / ".git").exists():
        return ""
    done = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()
