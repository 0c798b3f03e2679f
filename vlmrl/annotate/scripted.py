"""Scripted teacher: answers from a simulator's true progress, with a stated share of wrong answers.

For tests and ablations: it sees what no judge of pictures sees, so its name says what it is wherever it appears. The
wrong answers are the mistakes of B-Pref's teachers (reference: rll-research/BPref), fixed by seed and question.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vlmrl.annotate.question import canonical, item_to_json
from vlmrl.errors import ConfigError, DataError
from vlmrl.types import Cost, Item, Kind, Query, Reply, Verdict


@dataclass(frozen=True)
class Config:
    """A teacher that knows the truth."""

    error_rate: float = 0.0
    """Share of answers that name the wrong side; ties are never wrong."""
    equal: float = 0.0
    """Differences of true progress up to this are a tie."""
    seed: int = 0
    """Decides which answers are wrong."""

    def __post_init__(self) -> None:
        if not 0 <= self.error_rate <= 1 or self.equal < 0:
            raise ConfigError(
                f"scripted: error_rate {self.error_rate} and equal {self.equal} given; wanted 0 to 1 and at least 0"
            )


def build(config: Config, *, truth: Callable[[Item], float]) -> "Scripted":
    """Return a teacher that asks `truth` for the true progress of an item."""
    return Scripted(config, truth)


class Scripted:
    """Answers preference queries from the truth; the same question always gets the same answer."""

    needs_pictures = False
    calls_per_question = 1
    priced = True

    def __init__(self, config: Config, truth: Callable[[Item], float]) -> None:
        self._config, self._truth = config, truth
        self.name = f"scripted teacher ({100 * config.error_rate:g}% wrong)"

    def content(self, query: Query) -> Mapping[str, object]:
        """Return teacher, settings, items and their truth; no picture, for it sees none."""
        config = self._config
        return {
            "labeler": "scripted",
            "version": 1,
            "kind": query.kind.value,
            "instruction": query.instruction,
            "error_rate": config.error_rate,
            "equal": config.equal,
            "seed": config.seed,
            "items": [item_to_json(item) for item in query.items],
            "truth": self._progress(query),
        }

    async def ask(self, query: Query) -> Reply:
        """Say which side has made more progress, wrong where the seed says so."""
        if query.kind is not Kind.PREFERENCE:
            raise ConfigError(f"the scripted teacher answers preference queries, not {query.kind.value}")
        a, b = self._progress(query)
        difference = a - b
        verdict = Verdict.A_BETTER if difference > 0 else Verdict.B_BETTER
        if abs(difference) <= self._config.equal:
            verdict = Verdict.TIE
        elif self._draw(query) < self._config.error_rate:
            verdict = verdict.swapped()
        return Reply(verdict, self.name, text=verdict.value, cost=Cost(calls=1))

    async def close(self) -> None:
        """Do nothing: it holds nothing."""

    def _progress(self, query: Query) -> list[float]:
        found = [float(self._truth(item)) for item in query.items]
        if not all(map(math.isfinite, found)):
            raise DataError(f"the scripted teacher needs the true progress of {query.items}, found {found}")
        return found

    def _draw(self, query: Query) -> float:
        """Return a uniform number in [0, 1) fixed by the question (its seed is part of the content)."""
        seed = hashlib.sha256(b"scripted:" + canonical(self.content(query)).encode()).digest()
        return int.from_bytes(seed[:7], "big") / 2**56
