"""A column of a store as a judge: the side with the larger sum is better."""

from collections.abc import Callable, Sequence

import numpy as np

from vlmrl.annotate.opinions import Judged, Opinion
from vlmrl.errors import unknown
from vlmrl.store import Store
from vlmrl.types import Frame, Item, Reply, Verdict


def column_value(store: Store, name: str) -> Callable[[Item], float]:
    """Return what sums a column over the steps of a clip; a single frame has the value of its row.

    A `reward/` column judges at row i what row i+1 shows, a `truth/` column what row i itself shows: of a clip from s
    to t the steps arrive at rows s+1 to t. Where an episode does not hold the row at which its last step arrives, its
    last value stands for it.

    Raises:
        ConfigError: if the store has no such column of single numbers.
    """
    have = [c for c in store.columns() if c.startswith(("truth/", "reward/"))]
    if name not in have:
        raise unknown("column", name, have)
    values, table = store.column(name).astype(np.float64), store.episodes

    def value(item: Item) -> float:
        if isinstance(item, Frame):
            return float(values[table.start[table.index(item.episode)] + item.row])
        total = 0.0
        for span in item:
            start, stop = table.start[table.index(span.episode)], table.stop[table.index(span.episode)]
            rows = np.arange(start + span.start, start + span.stop)
            rows = np.minimum(rows + 1, stop - 1) if name.startswith("truth/") else rows
            total += float(np.nansum(values[rows]))
        return total

    return value


def column_opinions(store: Store, name: str, pairs: Sequence[Judged]) -> list[Opinion]:
    """What a column says about pairs; pairs with a side whose value is not known are left out."""
    value, who = column_value(store, name), f"column {name}"
    found: list[Opinion] = []
    for judged in pairs:
        a, b = value(judged.pair.a), value(judged.pair.b)
        if np.isfinite(a - b):
            verdict = Verdict.A_BETTER if a > b else Verdict.B_BETTER if b > a else Verdict.TIE
            found.append(Opinion(judged.pair, Reply(verdict, who, text=f"{a:.6g} against {b:.6g}"), ""))
    return found
