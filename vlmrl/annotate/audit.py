"""How far to trust labels: accuracy where the truth is known, as RL-VLM-F's figure draws it, and consistency always."""

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from scipy.stats import binomtest

from vlmrl.errors import DataError
from vlmrl.types import Item, Preferences, Reply, Verdict

DIGITS = 3
"""Of true progress: differences below a thousandth of the task are none, for no picture shows them."""

TRAINED = {Verdict.A_BETTER: 1.0, Verdict.B_BETTER: 0.0, Verdict.TIE: 0.5}
"""Probability that a is better which a verdict trains at."""

_SIDES = (Verdict.A_BETTER, Verdict.B_BETTER)
ANSWERS = (Verdict.A_BETTER, Verdict.B_BETTER, Verdict.TIE, Verdict.UNSURE)


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a rate; pairs of one episode depend on each other, which it ignores."""
    if not trials:
        return 0.0, 1.0
    found = binomtest(successes, trials).proportion_ci(confidence_level=confidence, method="wilson")
    return float(found.low), float(found.high)


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
        """Return the Wilson interval of the rate."""
        return wilson(self.correct, self.decided, confidence)


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


@dataclass(frozen=True)
class Confusion:
    """How often each answer was given to each kind of pair."""

    counts: Int64[np.ndarray, "3 4"]
    """Rows: truly a, b, equal. Columns: answered a, b, tie, unsure."""

    @property
    def correct(self) -> int:
        """Pairs whose truth differs and whose better side was named."""
        return int(self.counts[0, 0] + self.counts[1, 1])

    @property
    def decided(self) -> int:
        """Pairs whose truth differs and of which a side was named."""
        return int(self.counts[:2, :2].sum())

    @property
    def rate(self) -> float:
        """Share of correct among decided; NaN where none was."""
        return self.correct / self.decided if self.decided else float("nan")

    def interval(self) -> tuple[float, float]:
        """Return the Wilson interval of the rate."""
        return wilson(self.correct, self.decided)


def confusion(replies: Sequence[Reply | None], difference: Float64[np.ndarray, " Q"]) -> Confusion:
    """Count answers by truth; `difference` is the truth of a minus that of b, exactly 0 for a true tie.

    Pairs without a readable answer or with a difference that is NaN are left out.
    """
    counts = np.zeros((3, 4), np.int64)
    for reply, gap in zip(replies, difference.tolist(), strict=True):
        if reply is not None and isinstance(reply.answer, Verdict) and gap == gap:
            counts[0 if gap > 0 else 1 if gap < 0 else 2, ANSWERS.index(reply.answer)] += 1
    return Confusion(counts)


@dataclass(frozen=True)
class Consistency:
    """Whether the same answers come when the sides are swapped; it needs no truth."""

    pairs: int
    """Answered both ways round."""
    same: int
    """Of those, the answer named the same picture, or was a tie or unsure both times."""
    gap: float
    """Mean of |p + p_swapped - 1|, 0 for a labeler that does not care about the order; NaN where nobody gave a p."""
    sided: int = 0
    """Pairs of which a side was named both ways round."""
    first: int = 0
    """Of those, the side that was shown first both times: the place decided, not the picture."""
    second: int = 0
    """Of those, the side that was shown second both times."""

    @property
    def bias(self) -> float:
        """Share of named sides that were shown first, one half unless the place counts; NaN where none was named."""
        return 0.5 + (self.first - self.second) / (2 * self.sided) if self.sided else float("nan")

    def bias_interval(self) -> tuple[float, float]:
        """Return an interval of the bias from Wilson's of both shares, a little wider than it need be."""
        (first_low, first_high), (low, high) = (wilson(n, self.sided) for n in (self.first, self.second))
        return max(0.0, 0.5 + (first_low - high) / 2), min(1.0, 0.5 + (first_high - low) / 2)

    @property
    def rate(self) -> float:
        """Share of the same; NaN where no pair was answered both ways."""
        return self.same / self.pairs if self.pairs else float("nan")

    def interval(self) -> tuple[float, float]:
        """Return the Wilson interval of the rate."""
        return wilson(self.same, self.pairs)


def order_consistency(replies: Sequence[Reply | None], swapped: Sequence[Reply | None]) -> Consistency:
    """Compare the replies to pairs with those to the same pairs, sides swapped; unanswered ones are left out."""
    both, gaps = Counter[tuple[Verdict, Verdict]](), array("d")
    for x, y in zip(replies, swapped, strict=True):
        if x is None or y is None or not isinstance(x.answer, Verdict) or not isinstance(y.answer, Verdict):
            continue
        both[x.answer, y.answer] += 1
        if (p := _probability(x)) is not None and (q := _probability(y)) is not None:
            gaps.append(abs(p + q - 1))
    return Consistency(
        pairs=both.total(),
        same=sum(count for (x, y), count in both.items() if x is y.swapped()),
        gap=float(np.mean(gaps)) if gaps else float("nan"),
        sided=sum(count for (x, y), count in both.items() if x in _SIDES and y in _SIDES),
        first=both[Verdict.A_BETTER, Verdict.A_BETTER],
        second=both[Verdict.B_BETTER, Verdict.B_BETTER],
    )


def _probability(reply: Reply) -> float | None:
    if reply.probability is not None or not isinstance(reply.answer, Verdict):
        return reply.probability
    return TRAINED.get(reply.answer)


@dataclass(frozen=True)
class Calibration:
    """How honest a labeler's probabilities are, over pairs whose truth differs, whatever the verdict was."""

    pairs: int
    """With a probability."""
    error: float
    """Expected calibration error; NaN without pairs."""
    log_loss: float
    """Mean, natural; NaN without pairs."""


def calibration(replies: Sequence[Reply | None], difference: Float64[np.ndarray, " Q"]) -> Calibration:
    """Compare the labeler's own probabilities with the truth, verdicts without one being left out."""
    told, a_better = array("d"), array("b")
    for reply, gap in zip(replies, difference.tolist(), strict=True):
        if reply is not None and reply.probability is not None and gap == gap and gap != 0:
            told.append(reply.probability)
            a_better.append(gap > 0)
    if not told:
        return Calibration(0, float("nan"), float("nan"))
    found = reliability(np.array(told, np.float64), np.array(a_better, np.bool_))
    return Calibration(found["pairs"], found["error"], found["log_loss"])


def calibration_error(confidence: Float[np.ndarray, " Q"], right: np.ndarray, *, bins: int = 10) -> float:
    """Expected calibration error: |accuracy - confidence| over equal bins of [0.5, 1], weighted by their counts."""
    rows = _reliability_rows(confidence, right, bins)
    return float(sum(r["pairs"] * abs(r["right"] - r["sure"]) for r in rows) / max(1, len(confidence)))


def reliability(p: Float[np.ndarray, " Q"], a_better: Bool[np.ndarray, " Q"]) -> dict[str, Any]:
    """Return the reliability table, the calibration error and the mean log-loss of probabilities that a is better.

    One half names neither side and is half right. Figures are null without probabilities.
    """
    if not len(p):
        return {"pairs": 0, "error": None, "log_loss": None, "table": []}
    given = np.where(a_better, p, 1 - p)
    right, sure = np.where(p == 0.5, 0.5, given > 0.5), np.maximum(p, 1 - p)
    loss = float(-np.log(np.maximum(given, 1e-9)).mean())
    table = _reliability_rows(sure, right, 10)
    return {"pairs": len(p), "error": calibration_error(sure, right), "log_loss": loss, "table": table}


def _reliability_rows(confidence: Float[np.ndarray, " Q"], right: np.ndarray, bins: int) -> list[dict[str, Any]]:
    """One row a bin that holds anything: its ends, how sure, how often right, how many."""
    place = np.clip(((confidence - 0.5) * 2 * bins).astype(int), 0, bins - 1)
    return [
        {
            "low": 0.5 + k / (2 * bins),
            "high": 0.5 + (k + 1) / (2 * bins),
            "sure": float(confidence[place == k].mean()),
            "right": float(right[place == k].mean()),
            "pairs": int((place == k).sum()),
        }
        for k in range(bins)
        if (place == k).any()
    ]
