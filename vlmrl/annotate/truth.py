"""What the scripted teacher knows and no judge does: the simulator's own progress at a frame or over a clip."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from vlmrl.errors import DataError
from vlmrl.store import Store
from vlmrl.types import Frame, Item


def true_rows(store: Store, key: str = "progress") -> Callable[[Item], Float64[np.ndarray, " T"]]:
    """Look up `truth/<key>` of the rows of an item; a frame is one row.

    Raises:
        DataError: if the store has no truth, as real logs have none.
    """
    if f"truth/{key}" not in store.columns():
        raise DataError(
            f"{store.path} has no true {key}: the scripted teacher needs simulated data; use another labeler"
        )
    progress, table = store.column(f"truth/{key}"), store.episodes

    def truth(item: Item) -> Float64[np.ndarray, " T"]:
        spans = (
            [(item.episode, item.row, item.row + 1)]
            if isinstance(item, Frame)
            else [(span.episode, span.start, span.stop) for span in item]
        )
        found = [progress[table.start[table.index(e)] :][start:stop] for e, start, stop in spans]
        return np.concatenate(found).astype(np.float64)

    return truth


def true_progress(store: Store, key: str = "progress", *, at_end: bool = False) -> Callable[[Item], float]:
    """Look up `truth/<key>` of a frame, the mean over a clip, or with `at_end` that of its last row.

    Raises:
        DataError: if the store has no truth, as real logs have none.
    """
    rows = true_rows(store, key)
    return lambda item: float(rows(item)[-1] if at_end else rows(item).mean())
