"""What produced the numbers: provenance, and every setting."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmrl.evaluate.report.folder import Run
from vlmrl.page.markup import escape, missing, section
from vlmrl.store import Store


def html(run: Run, store: Store) -> str:
    """The section about settings and provenance."""
    parts = ["<h3>Provenance</h3>", _table(_provenance(run, store))]
    if run.config:
        flat = list(_flat(run.config))
        parts += [
            f"<details><summary>All {len(flat)} settings, as resolved</summary>{_table(flat)}</details>",
            "<p class='what'>The same, machine-readable: config.json beside this page.</p>",
        ]
    else:
        parts.append(missing("The run folder holds no config.json."))
    return section("settings", "Every setting", *parts)


def _provenance(run: Run, store: Store) -> list[tuple[str, str]]:
    meta, labels = run.meta, run.labels or {}
    packages: Mapping[str, Any] = meta.get("packages") or {}
    found = [
        ("command", meta.get("command")),
        ("commit", meta.get("commit")),
        ("vlmrl", meta.get("vlmrl")),
        ("python", meta.get("python")),
        ("packages", ", ".join(f"{name} {version}" for name, version in packages.items())),
        ("training seeds", ", ".join(map(str, meta.get("seeds", ())))),
        ("store", _near(store.path)),
        ("store hash, as the run began", meta.get("store")),
        ("store hash, with the rewards of this run", store.hash),
        ("labeler", labels.get("labeler")),
        ("ledger", run.config.get("ledger") if labels else None),
        ("ledger snapshot", labels.get("snapshot")),
    ]
    return [(name, str(value)) for name, value in found if value not in (None, "")]


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(
        f"<tr><th scope='row'>{escape(key)}</th><td><code>{escape(value)}</code></td></tr>" for key, value in rows
    )
    return f"<table class='settings'><tbody>{body}</tbody></table>"


def _near(path: Path) -> Path:
    """The path as seen from the working folder where it lies below it: reports are passed on."""
    path, here = path.resolve(), Path.cwd().resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path
