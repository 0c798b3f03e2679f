"""Reward columns: a number for every row that has a next row, with coverage and provenance."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from vlmrl.errors import DataError, unknown
from vlmrl.store import added, layout
from vlmrl.store.snapshot import REWARD_KINDS, Snapshot


def add(store: Snapshot, name: str, mean: np.ndarray, std: np.ndarray, attributes: Mapping[str, Any]) -> None:
    """Commit a reward column."""
    layout.check_name("reward", name)
    arrays = {"mean": mean, "std": std}
    parts, coverage = store.manifest.parts, _check(store, mean, std)
    added.add(store, f"reward/{name}", arrays, parts, coverage=coverage, attributes=attributes)


def _check(store: Snapshot, mean: np.ndarray, std: np.ndarray) -> float:
    """Fraction of the rows with a next row that have a value."""
    for kind, values in zip(REWARD_KINDS, (mean, std), strict=True):
        if values.dtype != np.float32 or values.shape != (store.rows,):
            raise DataError(
                f"reward {kind} is {values.dtype} {values.shape}, float32 ({store.rows},) wanted: one value a row"
            )
        if np.isinf(values).any():
            raise DataError(f"reward {kind} is infinite at row {int(np.flatnonzero(np.isinf(values))[0])}")
    if not np.array_equal(np.isnan(mean), np.isnan(std)):
        raise DataError("reward mean and std are NaN at different rows")
    has_next = store.column("has_next")
    if (late := ~np.isnan(mean) & ~has_next).any():
        raise DataError(f"row {int(np.flatnonzero(late)[0])} has no next row to be judged on: its reward must be NaN")
    coverage = float(np.mean(~np.isnan(mean[has_next]))) if has_next.any() else 0.0
    if coverage == 0.0:
        raise DataError("the reward has no value on any row with a next row")
    return coverage


def on_rows(store: Snapshot, name: str | None, rows: Int64[np.ndarray, " N"]) -> Float32[np.ndarray, " N"]:
    """Reward of the given rows, zeros where `name` is None."""
    if name is None:
        return np.zeros(len(rows), np.float32)
    if f"reward/{name}" not in store.manifest.columns:
        raise unknown("reward", name, store.rewards())
    values = store.column(f"reward/{name}/mean")[rows]
    if missing := int(np.isnan(values).sum()):
        raise DataError(
            f"reward {name!r} covers {len(rows) - missing} of {len(rows)} transitions: relabel under a new name"
        )
    return values
