"""How right labels are where the truth is known: accuracy by difficulty, as RL-VLM-F's figure draws it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.stats import binomtest

from vlmrl.errors import DataError
from vlmrl.types import Item, Preferences


@dataclass(frozen=True)
class Accuracy:
    """How often labels named the side that is truly better, over pairs whose truth differs."""

    pairs: int
    correct: int
    ties: int
    """Pairs labelled one half; they are neither right nor wrong."""
    closest: float
    """Smallest absolute difference of truth among these pairs."""
    farthest: float

    @property
    def decided(self) -> int:
        """Pairs in which a side was named."""
        return self.pairs - self.ties

    @property
    def rate(self) -> float:
        """Share of correct among decided pairs; NaN where none was."""
        return self.correct / self.decided if self.decided else float("nan")

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the Wilson interval of the rate; pairs of one episode depend on each other, which it ignores."""
        if not self.decided:
            return 0.0, 1.0
        found = binomtest(self.correct, self.decided).proportion_ci(confidence_level=confidence, method="wilson")
        return float(found.low), float(found.high)


@dataclass(frozen=True)
class Audit:
    """Labels against the truth."""

    overall: Accuracy
    by_difficulty: tuple[Accuracy, ...]
    """Equally many pairs each, from the closest in truth to the farthest."""
    equal: int
    """Pairs left out because their truth is the same."""


def label_accuracy(labels: Preferences, truth: Callable[[Item], float], *, bins: int = 10) -> Audit:
    """Compare labels with a truth in which more is better.

    Raises:
        DataError: if the truth of an item is not a finite number.
    """
    a = np.array([truth(item) for item in labels.a], dtype=np.float64)
    b = np.array([truth(item) for item in labels.b], dtype=np.float64)
    if not np.isfinite(a - b).all():
        row = int(np.flatnonzero(~np.isfinite(a - b))[0])
        raise DataError(f"no truth to compare with: {labels.a[row]} has {a[row]}, {labels.b[row]} has {b[row]}")
    difference, lean = a - b, labels.p_a.astype(np.float64) - 0.5
    order = np.argsort(np.abs(difference), kind="stable")
    order = order[difference[order] != 0]
    right, tie, size = (difference > 0) == (lean > 0), lean == 0, np.abs(difference)
    parts = [p for p in np.array_split(order, bins) if len(p)]
    return Audit(
        overall=_accuracy(right[order], tie[order], size[order]),
        by_difficulty=tuple(_accuracy(right[p], tie[p], size[p]) for p in parts),
        equal=len(a) - len(order),
    )


def _accuracy(right: Bool[np.ndarray, " n"], tie: Bool[np.ndarray, " n"], size: Float64[np.ndarray, " n"]) -> Accuracy:
    closest, farthest = (float(size.min()), float(size.max())) if len(size) else (0.0, 0.0)
    return Accuracy(len(size), int((right & ~tie).sum()), int(tie.sum()), closest, farthest)
