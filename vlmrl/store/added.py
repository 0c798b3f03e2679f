"""Columns added beside the parts: written as a draft, sealed, committed by the manifest, never overwritten."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmrl.errors import DataError
from vlmrl.store import disk, layout
from vlmrl.store.append import place
from vlmrl.store.lock import draft, locked, sweep
from vlmrl.store.manifest import ColumnEntry, PartEntry
from vlmrl.store.snapshot import Snapshot


def add(
    store: Snapshot,
    name: str,
    arrays: Mapping[str, np.ndarray],
    parts: Sequence[PartEntry],
    *,
    coverage: float,
    attributes: Mapping[str, Any],
) -> None:
    """Commit `columns/<name>` with `<part>/<key>` for each of some parts and each of `arrays`, given over all rows."""
    _refuse_taken(store, name)
    attributes = dict(attributes)
    disk.canonical(attributes)
    first = dict(zip((entry.id for entry in store.manifest.parts), store.part_start.tolist(), strict=True))
    with draft(store.path) as made:
        root = layout.create(made.folder)
        root.attrs.update(attributes)
        for part in parts:
            group = root.create_group(part.id)
            for key, values in arrays.items():
                layout.write_array(group, key, values[first[part.id] : first[part.id] + part.rows])
        covered = [part.id for part in parts]
        entry = ColumnEntry(f"columns/{name}", covered, coverage, attributes, disk.seal(made.folder))
        disk.sync_tree(made.folder)
        with locked(store.path):
            newest = store.refreshed()
            _refuse_taken(newest, name)
            sweep(store.path, newest.manifest.folders)
            place(store.path, made, entry.folder, newest.manifest.with_column(name, entry))


def _refuse_taken(store: Snapshot, name: str) -> None:
    if name in store.manifest.columns:
        raise DataError(f"the store already has {name}: columns are added, never overwritten; choose a new name")
