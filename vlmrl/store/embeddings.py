"""Embedding columns: what a frozen encoder makes of each picture, added once and then only continued.

An encoder gives a picture the same vector for ever, so that parts which come later get theirs in a further piece
`columns/embedding/<encoder>/<camera>/<number>`; together the pieces read as one column.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlmrl.errors import DataError
from vlmrl.store import added, layout
from vlmrl.store.snapshot import Snapshot
from vlmrl.types import NO_FRAME


def add(store: Snapshot, name: str, values: np.ndarray, attributes: Mapping[str, Any]) -> None:
    """Commit the rows of those parts that the column does not cover yet."""
    encoder, _, camera = name.partition("/")
    layout.check_name("encoder", encoder)
    layout.check_name("camera", camera)
    _check(store, camera, values)
    pieces = store.pieces(f"embedding/{name}")
    covered = {part for piece in pieces for part in store.manifest.columns[piece].parts}
    parts = [entry for entry in store.manifest.parts if entry.id not in covered]
    if not parts:
        raise DataError(f"the store already has embedding/{name}: every part is covered")
    coverage = float(np.mean(~np.isnan(values[:, 0])))
    attributes = dict(attributes) | {"dim": values.shape[1]}
    full = f"embedding/{name}/{len(pieces)}"
    added.add(store, full, {"values": values}, parts, coverage=coverage, attributes=attributes)


def _check(store: Snapshot, camera: str, values: np.ndarray) -> None:
    if values.dtype != np.float16 or values.ndim != 2 or len(values) != store.rows or not values.shape[1]:
        wanted = f"float16 ({store.rows}, D) wanted: one vector a row"
        raise DataError(f"embedding is {values.dtype} {values.shape}, {wanted}")
    absent = np.isnan(values)
    if np.isinf(values).any() or (absent.any(1) != absent.all(1)).any():
        raise DataError("embedding has rows that are infinite or NaN in part: whole vectors, or NaN, wanted")
    if (blind := ~absent[:, 0] & (store.slots(camera) == NO_FRAME)).any():
        raise DataError(f"row {int(np.flatnonzero(blind)[0])} has no picture of {camera!r}: its embedding must be NaN")
    if absent.all():
        raise DataError("the embedding has no value on any row")
