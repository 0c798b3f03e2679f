"""What a labeler answered, beside what is true."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vlmrl.evaluate.statistics import Interval, wilson

EQUAL = 1e-3
"""Differences of true progress up to this, a thousandth of the task, are none: no picture shows them."""

TIE = 0.5


@dataclass(frozen=True)
class Answers:
    """Labelled pairs of pictures, in the order in which they were drawn."""

    a: Sequence[tuple[str, int]]
    """Episode and row within it."""
    b: Sequence[tuple[str, int]]
    p_a: Float64[np.ndarray, " Q"]
    truth: Float64[np.ndarray, "Q 2"] | None
    """True progress of both sides, where a simulator knows it."""

    def __len__(self) -> int:
        return len(self.a)

    @property
    def tie(self) -> Bool[np.ndarray, " Q"]:
        """No side was chosen."""
        return self.p_a == TIE

    def difference(self) -> Float64[np.ndarray, " Q"]:
        """True progress of a minus that of b."""
        if self.truth is None:
            return np.full(len(self), np.nan)
        return self.truth[:, 0] - self.truth[:, 1]

    def kinds(self) -> dict[str, Int64[np.ndarray, " _"]]:
        """Places of the answers of each kind, kinds that cannot occur left out."""
        if self.truth is None:
            kinds = {"a": self.p_a > TIE, "b": self.p_a < TIE, "tie": self.tie}
        else:
            difference = self.difference()
            differs = np.abs(difference) > EQUAL
            agrees = (self.p_a > TIE) == (difference > 0)
            kinds = {
                "right": ~self.tie & differs & agrees,
                "wrong": ~self.tie & differs & ~agrees,
                "tie_missed": self.tie & differs,
                "tie_right": self.tie & ~differs,
                "invented": ~self.tie & ~differs,
            }
        return {kind: np.flatnonzero(mask) for kind, mask in kinds.items()}

    def accuracy(self) -> Interval | None:
        """Share of right ones among the answers that chose a side where the truth differs; None where there is none."""
        kinds = self.kinds()
        right, wrong = (len(kinds.get(kind, ())) for kind in ("right", "wrong"))
        return wilson(right, right + wrong) if right + wrong else None


@dataclass(frozen=True)
class Bin:
    """Pairs of about equal true difference."""

    low: float
    high: float
    right: int
    tie: int
    wrong: int

    @property
    def total(self) -> int:
        """Pairs in it."""
        return self.right + self.tie + self.wrong


def by_difference(answers: Answers, *, bins: int = 10, least: int = 10) -> list[Bin]:
    """The pairs whose truth differs, in bins of equal count by how far it does; fewer bins where pairs are few."""
    size = np.abs(answers.difference())
    kinds = answers.kinds()
    which = np.flatnonzero(size > EQUAL)
    order = which[np.argsort(size[which], kind="stable")]
    count = min(bins, len(order) // least)
    found = []
    for part in np.array_split(order, count) if count else []:
        right, tie, wrong = (int(np.isin(part, kinds[kind]).sum()) for kind in ("right", "tie_missed", "wrong"))
        found.append(Bin(float(size[part[0]]), float(size[part[-1]]), right, tie, wrong))
    return found


def read(labels: Mapping[str, Any] | None) -> Answers | None:
    """The answers of a run; None where none were asked for."""
    if not labels or not labels.get("pairs"):
        return None
    pairs, truth = labels["pairs"], labels.get("truth")
    known = truth is not None and len(truth) == len(pairs)
    return Answers(
        a=[(str(pair["a"][0]), int(pair["a"][1])) for pair in pairs],
        b=[(str(pair["b"][0]), int(pair["b"][1])) for pair in pairs],
        p_a=np.array([pair["p_a"] for pair in pairs], np.float64),
        truth=np.array(truth, np.float64) if known else None,
    )
