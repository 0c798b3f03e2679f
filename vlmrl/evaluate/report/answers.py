"""What a labeler answered, beside what is true."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vlmrl.annotate.audit import DIGITS, Audit, label_accuracy
from vlmrl.interval import Interval
from vlmrl.types import Frame, Item, Preferences

TIE = 0.5

MOST_BINS, LEAST_PAIRS = 10, 10
"""Groups by difficulty, and pairs that each must hold."""


@dataclass(frozen=True)
class Answers:
    """Labelled pairs of pictures, in the order in which they were drawn."""

    a: tuple[Frame, ...]
    b: tuple[Frame, ...]
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
        """True progress of a minus that of b; NaN where it is not known."""
        if self.truth is None:
            return np.full(len(self), np.nan)
        return np.round(self.truth[:, 0] - self.truth[:, 1], DIGITS)

    def kinds(self) -> dict[str, Int64[np.ndarray, " _"]]:
        """Places of the answers of each kind; which kinds there are depends on whether the truth is known."""
        if self.truth is None:
            kinds = {"a": self.p_a > TIE, "b": self.p_a < TIE, "tie": self.tie}
        else:
            difference = self.difference()
            differs, agrees = difference != 0, (self.p_a > TIE) == (difference > 0)
            kinds = {
                "right": ~self.tie & differs & agrees,
                "wrong": ~self.tie & differs & ~agrees,
                "tie_missed": self.tie & differs,
                "tie_right": self.tie & ~differs,
                "invented": ~self.tie & ~differs,
            }
        return {kind: np.flatnonzero(mask) for kind, mask in kinds.items()}

    def audit(self) -> Audit | None:
        """How right the answers are, overall and by difficulty; None where that is not known."""
        if self.truth is None:
            return None
        differing = int((self.difference() != 0).sum())
        known = dict(zip(self.a + self.b, self.truth.T.ravel().tolist(), strict=True))

        def truth(item: Item) -> float:
            assert isinstance(item, Frame)
            return round(known[item], DIGITS)

        preferences = Preferences(self.a, self.b, self.p_a.astype(np.float32), "", "")
        return label_accuracy(preferences, truth, bins=max(1, min(MOST_BINS, differing // LEAST_PAIRS)))

    def accuracy(self) -> Interval | None:
        """Share of right ones among the answers that chose a side where the truth differs; None where there is none."""
        audit = self.audit()
        if audit is None or not audit.overall.decided:
            return None
        return Interval(audit.overall.rate, *audit.overall.interval())


def read(labels: Mapping[str, Any] | None, camera: str) -> Answers | None:
    """The answers of a run about pictures of one camera; None where none were asked for."""
    if not labels or not labels.get("pairs"):
        return None
    pairs, truth = labels["pairs"], labels.get("truth")
    known = truth is not None and len(truth) == len(pairs)
    return Answers(
        a=tuple(_shown(pair["a"], camera) for pair in pairs),
        b=tuple(_shown(pair["b"], camera) for pair in pairs),
        p_a=np.array([pair["p_a"] for pair in pairs], np.float64),
        truth=np.round(np.array(truth, np.float64), DIGITS) if known else None,
    )


def _shown(side: Sequence[Any], camera: str) -> Frame:
    """The frame of a side, the last one of a clip (episode, first row, last row exclusive; perhaps several spans)."""
    if len(side) == 2:
        return Frame(str(side[0]), int(side[1]), camera)
    return Frame(str(side[-3]), int(side[-1]) - 1, camera)
