"""What is said of a reward column that was just written, and when its name is taken."""

from collections.abc import Mapping

import numpy as np

from vlmrl.errors import ConfigError
from vlmrl.reward.metrics import spearman
from vlmrl.store import Store


def refuse_other(store: Store, name: str, wanted: Mapping[str, object]) -> None:
    """Check that a column which is there already holds these very scores.

    Raises:
        ConfigError: if it holds others.
    """
    have = store.rewards()[name]
    if other := [key for key, value in wanted.items() if have.get(key) != value]:
        found = ", ".join(f"{key} {have.get(key)!r}" for key in other)
        raise ConfigError(f"the store already has a reward {name!r} with {found}: choose another name=")


def describe(store: Store, name: str) -> str:
    """The spread of a reward, and how it goes with the simulator's progress, or with time where that is not known.

    A score of people's successful episodes should rise with time (GVL's value-order correlation, Ma et al. 2024).
    """
    mean = store.column(f"reward/{name}/mean").astype(np.float64)
    text = f"{np.nanmin(mean):.3f} to {np.nanmax(mean):.3f}, deviation {np.nanstd(mean):.3f}"
    known = "truth/progress" in store.columns()
    other, table = store.column("truth/progress" if known else "time"), store.episodes
    found: list[float] = []
    for start, stop in zip(table.start.tolist(), table.stop.tolist(), strict=True):
        rows = start + np.flatnonzero(~np.isnan(mean[start:stop]))
        found.append(spearman(mean[rows], other[rows + 1].astype(np.float64)))
    clear = np.array(found)[~np.isnan(found)]
    if not len(clear):
        return text
    against = "true progress" if known else "time"
    return f"{text}; rank correlation with {against} {np.median(clear):.2f} (median of {len(clear)} episodes)"
