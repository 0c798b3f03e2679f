"""How far to trust a labeler on these very pairs: accuracy where the truth is known, consistency always."""

import dataclasses
import math
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from vlmrl.annotate.audit import (
    ANSWERS,
    DIGITS,
    Calibration,
    Confusion,
    Consistency,
    calibration,
    confusion,
    order_consistency,
)
from vlmrl.annotate.budget import Limits
from vlmrl.annotate.job import Fill, JobReport, run_job
from vlmrl.annotate.ledger import Ledger
from vlmrl.annotate.query import Queries
from vlmrl.annotate.replies import Replies
from vlmrl.types import Item, Labeler, Query, Reply, Verdict


@runtime_checkable
class Described(Protocol):
    """What a labeler may tell reports about itself, JSON-ready."""

    facts: Mapping[str, object]


@dataclass(frozen=True)
class Trust:
    """What was measured."""

    asked: int
    """Pairs."""
    verdicts: Mapping[str, int]
    confusion: Confusion | None
    """None, as the next, where the truth is not known."""
    calibration: Calibration | None
    order: Consistency

    @property
    def decided(self) -> float:
        """Share of the pairs of which a side was named."""
        return (self.verdicts["a"] + self.verdicts["b"]) / self.asked if self.asked else math.nan

    def as_json(self) -> dict[str, Any]:
        """Return all figures; null where there is none."""
        found, order = self.confusion, self.order
        return _without_nan(
            {
                "asked": self.asked,
                "verdicts": dict(self.verdicts),
                "decided": self.decided,
                "accuracy": None if found is None else _rate(found.correct, found.decided, found.interval()),
                "confusion": None if found is None else found.counts.tolist(),
                "calibration": None if self.calibration is None else dataclasses.asdict(self.calibration),
                "order": _rate(order.same, order.pairs, order.interval()) | {"gap": order.gap, "first": _bias(order)},
            }
        )

    def __str__(self) -> str:
        return "; ".join([self._accuracy(), *self._probabilities(), self._order()])

    def _accuracy(self) -> str:
        found = self.confusion
        if found is None:
            return "no truth to measure these answers against"
        if not found.decided:
            return "no side was named where the truth differs"
        low, high = found.interval()
        share = f"{100 * found.rate:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        return f"right in {share} of {found.decided} pairs that differ and got a side"

    def _probabilities(self) -> list[str]:
        found = self.calibration
        return [f"calibration error {found.error:.3f} of {found.pairs} pairs"] if found and found.pairs else []

    def _order(self) -> str:
        found = self.order
        if not found.pairs:
            return "order of the sides not checked"
        low, high = found.interval()
        same = f"{100 * found.rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}] of {found.pairs} pairs"
        gap = "" if math.isnan(found.gap) else f" (mean |p + p swapped - 1| {found.gap:.3f})"
        place = ""
        if found.sided:
            low, high = found.bias_interval()
            place = f", {100 * found.bias:.0f} % [{100 * low:.0f}, {100 * high:.0f}] of the named sides shown first"
        return f"with sides swapped the same answer in {same}{gap}{place}"


def differences(queries: Sequence[Query], truth: Callable[[Item], float]) -> Float64[np.ndarray, " Q"]:
    """Return the truth of a minus that of b, both rounded to DIGITS, so that no difference is exactly 0."""
    values = (truth(item) for query in queries for item in query.items)
    known = np.round(np.fromiter(values, np.float64).reshape(-1, 2), DIGITS)
    return np.round(known[:, 0] - known[:, 1], DIGITS)


def measure(
    replies: Sequence[Reply | None],
    swapped: Sequence[Reply | None],
    *,
    difference: Float64[np.ndarray, " Q"] | None,
    first: Sequence[Reply | None] | None = None,
) -> Trust:
    """Judge the replies to all pairs, and those to the first answered ones with their sides swapped.

    `swapped` is as long as `replies`, None where the pair was not asked again. `first` are the replies that it is
    compared with, where `replies` are made of several.
    """
    given = Counter(r.answer for r in replies if r is not None and isinstance(r.answer, Verdict))
    return Trust(
        asked=len(replies),
        verdicts={v.value: given[v] for v in ANSWERS},
        confusion=None if difference is None else confusion(replies, difference),
        calibration=None if difference is None else calibration(replies, difference),
        order=order_consistency(replies if first is None else first, swapped),
    )


def ask_swapped(
    queries: Sequence[Query],
    report: JobReport,
    labeler: Labeler,
    *,
    ledger: Ledger,
    limits: Limits,
    pictures: Fill | None,
    count: int,
) -> tuple[Replies, JobReport]:
    """Ask the first `count` answered pairs again with their sides swapped, within the limits.

    Returns a reply a query, None where it was not asked, and what that took.

    Raises:
        LabelerError: if the labeler cannot go on.
    """
    answered = array("q", (i for i, reply in enumerate(ledger.standing(report.keys)) if reply is not None))[:count]
    again = Queries(answered, lambda place: queries[place].swapped())
    found = run_job(again, labeler, ledger=ledger, limits=limits, pictures=pictures)
    replies, rest = Replies(), iter(zip(answered, ledger.standing(found.keys), strict=True))
    place, reply = next(rest, (-1, None))
    for i in range(len(queries)):
        replies.append(reply if i == place else None)
        if i == place:
            place, reply = next(rest, (-1, None))
    return replies, found


def rest(limits: Limits, spent: JobReport) -> Limits:
    """Return what a job leaves of its limits for the next."""

    def less(limit: float | None, used: float) -> float | None:
        return None if limit is None else max(0, limit - used)

    cost, tokens = spent.cost, spent.cost.prompt_tokens + spent.cost.completion_tokens
    calls = None if limits.max_calls is None else max(0, limits.max_calls - cost.calls)
    tokens = None if limits.max_tokens is None else max(0, limits.max_tokens - tokens)
    usd, seconds = less(limits.max_cost_usd, cost.usd), less(limits.max_seconds, spent.seconds)
    return replace(limits, max_calls=calls, max_tokens=tokens, max_cost_usd=usd, max_seconds=seconds)


def _rate(part: int, whole: int, interval: tuple[float, float]) -> dict[str, Any]:
    return {"part": part, "whole": whole, "rate": part / whole if whole else math.nan, "interval": list(interval)}


def _bias(order: Consistency) -> dict[str, Any]:
    return {
        "pairs": order.sided,
        "first_twice": order.first,
        "second_twice": order.second,
        "rate": order.bias,
        "interval": list(order.bias_interval()),
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return None if isinstance(value, float) and math.isnan(value) else value
