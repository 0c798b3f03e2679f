"""How a store's reward columns rise with true progress: where a reward goes flat, or falls, no policy learns more.

    python benchmarks/reward_by_progress.py STORE

One row a column: its correlation with the true progress of the next row, and its mean in bins of that progress.
"""

import sys
from itertools import pairwise

import numpy as np

from vlmrl.store import Store

EDGES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, np.inf)


def main() -> None:
    """Print the table."""
    store = Store.open(sys.argv[1])
    progress = np.append(store.column("truth/progress")[1:], np.nan)
    print("reward column, correlation |" + "".join(f"{edge:>9g}-" for edge in EDGES[:-1]))
    for name in store.rewards():
        reward = store.column(f"reward/{name}/mean")
        known = np.isfinite(reward) & np.isfinite(progress)
        if not known.any() or not reward[known].std():
            continue
        bins = [reward[known & (progress >= low) & (progress < high)] for low, high in pairwise(EDGES)]
        means = "".join(f"{found.mean():10.3f}" if len(found) else f"{'-':>10}" for found in bins)
        print(f"{name}, {np.corrcoef(reward[known], progress[known])[0, 1]:.3f} |{means}")


if __name__ == "__main__":
    main()
