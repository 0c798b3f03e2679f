"""Scripted teacher: answers from a simulator's true progress, with a stated share of wrong answers.

For tests and ablations: it sees what no judge of pictures sees, so its name says what it is wherever it appears. The
wrong answers are the mistakes of B-Pref's teachers (reference: rll-research/BPref), fixed by seed and question. With
`missed` and `invented` it can have the very confusion table of another judge.
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
    """Of the answers to truly different pairs that name a side: share that names the wrong one."""
    missed: float = 0.0
    """Share of truly different pairs that it calls a tie."""
    invented: float = 0.0
    """Share of true ties for which it names a side, either with even chance."""
    equal: float = 0.0
    """Differences of true progress up to this are a tie."""
    seed: int = 0
    """Decides which answers are wrong."""

    def __post_init__(self) -> None:
        for name in ("error_rate", "missed", "invented"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"scripted: {name} {getattr(self, name)} given; wanted 0 to 1")
        if self.equal < 0:
            raise ConfigError(f"scripted: equal {self.equal} given; wanted at least 0")


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
        said = [f"{100 * config.error_rate:g}% wrong"]
        said += [f"{100 * config.missed:g}% of differences called a tie"] if config.missed else []
        said += [f"{100 * config.invented:g}% of ties given a side"] if config.invented else []
        self.name = f"scripted teacher ({', '.join(said)})"

    def content(self, query: Query) -> Mapping[str, object]:
        """Return teacher, settings, items and their truth; no picture, for it sees none."""
        config = self._config
        # Left out where zero, so that teachers without them keep the keys of their questions.
        ties = {name: share for name in ("missed", "invented") if (share := getattr(config, name))}
        return ties | {
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
        verdict = self._judge(query, a - b)
        return Reply(verdict, self.name, text=verdict.value, cost=Cost(calls=1))

    async def close(self) -> None:
        """Do nothing: it holds nothing."""

    def _progress(self, query: Query) -> list[float]:
        found = [float(self._truth(item)) for item in query.items]
        if not all(map(math.isfinite, found)):
            raise DataError(f"the scripted teacher needs the true progress of {query.items}, found {found}")
        return found

    def _judge(self, query: Query, difference: float) -> Verdict:
        config = self._config
        if abs(difference) <= config.equal:
            if self._draw(query, "invented") >= config.invented:
                return Verdict.TIE
            return Verdict.A_BETTER if self._draw(query, "side") < 0.5 else Verdict.B_BETTER
        if self._draw(query, "missed") < config.missed:
            return Verdict.TIE
        right = Verdict.A_BETTER if difference > 0 else Verdict.B_BETTER
        return right.swapped() if self._draw(query, "scripted") < config.error_rate else right

    def _draw(self, query: Query, purpose: str) -> float:
        """Return a uniform number in [0, 1) fixed by the question (its seed is part of the content)."""
        seed = hashlib.sha256(f"{purpose}:{canonical(self.content(query))}".encode()).digest()
        return int.from_bytes(seed[:7], "big") / 2**56
