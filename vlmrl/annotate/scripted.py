"""A teacher that knows the simulator's true progress, with a stated share of wrong answers.

For tests and ablations only: it sees what no judge of pictures sees, so its name says what it is wherever it appears.
Its flaws are those of B-Pref's six teachers (Lee et al. 2021; reference: rll-research/BPref), fixed by seed and
question, and with `missed` and `invented` it can have the very confusion table of another judge. Of true values
r_1 ... r_H of the rows of a clip (a frame is one row), in this order:

1. skip: a pair of which neither sum is above the threshold `skip` is UNSURE, which is never trained on;
2. equal: sums that differ by no more than the threshold `equal` are a tie;
3. myopic: from here on rows are weighted by gamma^(H - t);
4. noisy: the better sum wins, or with `beta` a draw with P(a) = sigmoid(beta (sum_a - sum_b));
5. mistake: with chance `error_rate` the other side is named.

Unlike the reference we do not apply the share of a relative threshold twice after the first session.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from vlmrl.annotate.question import canonical, item_to_json
from vlmrl.errors import ConfigError, DataError
from vlmrl.types import Cost, Frame, Item, Kind, Query, Reply, Verdict

Truth = Callable[[Item], float | Float64[np.ndarray, " T"]]
"""True progress of a frame, or of each row of a clip."""


@dataclass(frozen=True)
class Config:
    """A teacher that knows the truth, for ablation only."""

    error_rate: float = 0.0
    """Of the answers to truly different pairs that name a side: share that names the wrong one."""
    missed: float = 0.0
    """Share of truly different pairs that it calls a tie."""
    invented: float = 0.0
    """Share of true ties for which it names a side, either with even chance."""
    equal: float = 0.0
    """Differences of true progress up to this are a tie."""
    skip: float | None = None
    """Pairs of which neither side has more than this are not answered; null: all are."""
    beta: float | None = None
    """How rational it is: P(a) = sigmoid(beta times the difference of true progress); null: entirely."""
    gamma: float = 1.0
    """Weight of a row of a clip, compared with the row after it: below 1 it looks at the end."""
    relative: bool = False
    """Whether equal and skip are shares of what a typical clip of the same length has (B-Pref)."""
    called: str = ""
    """Which of the known teachers it is; part of its name."""
    seed: int = 0
    """Decides which answers are wrong."""

    def __post_init__(self) -> None:
        for name in ("error_rate", "missed", "invented", "gamma"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"scripted: {name} {getattr(self, name)} given; wanted 0 to 1")
        for name in ("equal", "skip", "beta"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"scripted: {name} {getattr(self, name)} given; wanted at least 0")


def build(config: Config, *, truth: Truth, typical: float | None = None) -> "Scripted":
    """Return a teacher that asks `truth` for the true progress of an item; `typical` is that of a row of the data.

    Raises:
        ConfigError: if thresholds are relative and nobody says to what.
    """
    if config.relative and typical is None:
        raise ConfigError("scripted: relative thresholds need the typical progress of a row")
    return Scripted(config, truth, typical if config.relative and typical is not None else 1.0)


class Scripted:
    """Answers preference queries from the truth; the same question always gets the same answer."""

    needs_pictures = False
    calls_per_question = 1
    priced = True

    def __init__(self, config: Config, truth: Truth, typical: float) -> None:
        self._config, self._truth, self._typical = config, truth, typical
        self.name = f"scripted teacher ({', '.join(_flaws(config))})"

    def content(self, query: Query) -> Mapping[str, object]:
        """Return teacher, settings, items and their truth; no picture, for it sees none."""
        config = self._config
        # Left out where they are off, so that teachers without them keep the keys of their questions.
        flaws: dict[str, object] = {n: share for n in ("missed", "invented") if (share := getattr(config, n))}
        flaws |= {n: value for n in ("skip", "beta") if (value := getattr(config, n)) is not None}
        if config.gamma < 1:
            flaws |= {"gamma": config.gamma, "myopic": [self._myopic(item) for item in query.items]}
        flaws |= {"typical": self._typical} if config.relative else {}
        return flaws | {
            "labeler": "scripted",
            "version": 1,
            "kind": query.kind.value,
            "instruction": query.instruction,
            "error_rate": config.error_rate,
            "equal": config.equal,
            "seed": config.seed,
            "items": [item_to_json(item) for item in query.items],
            "truth": [float(self._rows(item).sum()) for item in query.items],
        }

    async def ask(self, query: Query) -> Reply:
        """Say which side has made more progress, wrong where the seed says so."""
        if query.kind is not Kind.PREFERENCE:
            raise ConfigError(f"the scripted teacher answers preference queries, not {query.kind.value}")
        verdict = self._judge(query, canonical(self.content(query)))
        return Reply(verdict, self.name, text=verdict.value, cost=Cost(calls=1))

    async def close(self) -> None:
        """Do nothing: it holds nothing."""

    def _rows(self, item: Item) -> Float64[np.ndarray, " T"]:
        found = np.atleast_1d(np.asarray(self._truth(item), np.float64))
        if not np.isfinite(found).all():
            raise DataError(f"the scripted teacher needs the true progress of {item}, found {found.tolist()}")
        if self._config.gamma < 1 and isinstance(item, Frame):
            raise ConfigError("scripted: gamma below 1 weighs the rows of clips: say ask.show=strip, or another clip")
        return found

    def _myopic(self, item: Item) -> float:
        rows = self._rows(item)
        return float(rows @ self._config.gamma ** np.arange(len(rows) - 1, -1, -1.0))

    def _judge(self, query: Query, question: str) -> Verdict:
        """Decide; `question` fixes all chance."""
        config = self._config
        a, b = (float(self._rows(item).sum()) for item in query.items)
        scale = self._typical * max(len(self._rows(item)) for item in query.items) if config.relative else 1.0
        if config.skip is not None and max(a, b) <= config.skip * scale:
            return Verdict.UNSURE
        if abs(a - b) <= config.equal * scale:
            if _draw(question, "invented") >= config.invented:
                return Verdict.TIE
            return Verdict.A_BETTER if _draw(question, "side") < 0.5 else Verdict.B_BETTER
        if _draw(question, "missed") < config.missed:
            return Verdict.TIE
        a, b = (self._myopic(item) for item in query.items)
        right = Verdict.A_BETTER if self._prefers_a(question, a - b) else Verdict.B_BETTER
        return right.swapped() if _draw(question, "scripted") < config.error_rate else right

    def _prefers_a(self, question: str, difference: float) -> bool:
        if self._config.beta is None:
            return difference > 0
        logit = min(max(self._config.beta * difference, -700.0), 700.0)
        return _draw(question, "noisy") < 1 / (1 + math.exp(-logit))


def _draw(question: str, purpose: str) -> float:
    """Return a uniform number in [0, 1) fixed by the question (its seed is part of the content)."""
    seed = hashlib.sha256(f"{purpose}:{question}".encode()).digest()
    return int.from_bytes(seed[:7], "big") / 2**56


def _flaws(config: Config) -> list[str]:
    said = [config.called] if config.called else []
    said += [f"{100 * config.error_rate:g}% wrong"]
    said += [f"{100 * config.missed:g}% of differences called a tie"] if config.missed else []
    said += [f"{100 * config.invented:g}% of ties given a side"] if config.invented else []
    said += [f"beta {config.beta:g}"] if config.beta is not None else []
    said += [f"gamma {config.gamma:g}"] if config.gamma < 1 else []
    of = " of the typical" if config.relative else ""
    said += [f"skips up to {config.skip:g}{of}"] if config.skip is not None else []
    said += [f"equal up to {config.equal:g}{of}"] if config.relative and config.equal else []
    return said
