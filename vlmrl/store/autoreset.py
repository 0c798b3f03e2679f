"""Finds transitions whose next observation belongs to another episode: what a vector environment's autoreset leaves.

Gymnasium's modes leave different traces in careless recordings. SAME_STEP: an episode's last observation is the first
of the next episode. NEXT_STEP: the next episode begins with the former's last observation, and its first action, which
the environment ignored, leads to the reset. Either way a learner bootstraps across two episodes.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float64, Int64

from vlmrl.store.store import Store

_JUMP = 5.0
"""How many times farther than nearly every other step a first or last step must go, in most episodes."""


def autoresets(store: Store) -> list[str]:
    """One line for each trace; none where there is no sign of any."""
    columns = [store.column(key) for key in sorted(store.columns()) if key.startswith("obs/")]
    vectors = [column for column in columns if column.ndim == 2]
    if not len(store) or not vectors:
        return []
    table, seen = store.episodes, np.concatenate(vectors, axis=1, dtype=np.float64)
    found = [*_backwards(store), *_shared(seen, table.start, table.stop, table.id)]
    return [*found, *_jumps(seen, table.start, table.stop)]


def _backwards(store: Store) -> Iterator[str]:
    """Time must go on within an episode."""
    time, table = store.column("time"), store.episodes
    later = np.diff(time) <= 0
    later[table.stop[:-1] - 1] = False
    for row in np.flatnonzero(later)[:1].tolist():
        episode = table.id[int(table.of_row(np.array([row]))[0])]
        yield f"episode {episode}: time goes back at row {row + 1} of the store: another episode begins inside it"


def _shared(
    seen: Float64[np.ndarray, "N D"], start: Int64[np.ndarray, " E"], stop: Int64[np.ndarray, " E"], ids: list[str]
) -> Iterator[str]:
    """An episode that went somewhere does not end, to the bit, where another one begins."""
    firsts: dict[bytes, list[int]] = {}
    for k, row in enumerate(start.tolist()):
        firsts.setdefault(seen[row].tobytes(), []).append(k)
    found = [
        (k, others[0])
        for k, row in enumerate((stop - 1).tolist())
        if (others := [o for o in firsts.get(seen[row].tobytes(), []) if o != k])
        and seen[row].tobytes() != seen[start[k]].tobytes()
    ]
    if found:
        k, other = found[0]
        yield (
            f"{len(found)} of {len(ids)} episodes end with an observation that another begins with, the first {ids[k]} "
            f"(as {ids[other]} begins): rows of an autoreset; record the final observation, or drop its row"
        )


def _jumps(
    seen: Float64[np.ndarray, "N D"], start: Int64[np.ndarray, " E"], stop: Int64[np.ndarray, " E"]
) -> Iterator[str]:
    """A reset jumps: at the same end of most episodes a step that is longer than nearly all others."""
    long = stop - start >= 4
    if long.sum() < 3:
        return
    length = _lengths(seen)
    ends = {"first": start[long], "last": stop[long] - 2}
    inner = np.ones(len(length), np.bool_)
    inner[stop[:-1] - 1] = False
    inner[start[start < len(length)]] = False
    inner[np.maximum(stop - 2, 0)] = False
    usual = float(np.quantile(length[inner], 0.999)) if inner.any() else 0.0
    for name, rows in ends.items():
        # The first episode of a recording has no autoreset before it.
        share = float((length[rows] > _JUMP * usual).mean())
        if usual > 0 and share > 0.5:
            yield (
                f"the {name} step of {share:.0%} of the episodes jumps more than {_JUMP:g} times as far as nearly all "
                "others: it leads to or from another episode (an autoreset), and is no transition"
            )


def _lengths(seen: Float64[np.ndarray, "N D"]) -> Float[np.ndarray, " M"]:
    """Length of each step, every dimension measured by its own median step."""
    step = np.abs(np.diff(seen, axis=0))
    moving = [np.median(column[column > 0]) if (column > 0).any() else np.inf for column in step.T]
    return np.sqrt(((step / np.array(moving)) ** 2).mean(1))
