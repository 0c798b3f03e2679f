"""What the scripted teacher knows and no judge does: the simulator's own progress at a frame."""

from collections.abc import Callable

from vlmrl.errors import ConfigError, DataError
from vlmrl.store import Store
from vlmrl.types import Frame, Item


def true_progress(store: Store, key: str = "progress") -> Callable[[Item], float]:
    """Look up `truth/<key>` of single frames.

    Raises:
        DataError: if the store has no truth, as real logs have none.
    """
    if f"truth/{key}" not in store.columns():
        raise DataError(
            f"{store.path} has no true {key}: the scripted teacher needs simulated data; use another labeler"
        )
    progress, table = store.column(f"truth/{key}"), store.episodes

    def truth(item: Item) -> float:
        if not isinstance(item, Frame):
            raise ConfigError("the scripted teacher judges single frames so far")
        return float(progress[table.start[table.index(item.episode)] + item.row])

    return truth
