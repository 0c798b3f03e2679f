"""Which pairs a person should look at: those about whose label the labelers leave the most doubt."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vlmrl.annotate.audit import TRAINED
from vlmrl.annotate.opinions import Judged, Opinion
from vlmrl.annotate.people.question import is_person
from vlmrl.types import Verdict


def soft(judged: Judged) -> float:
    """1 where the mean of the labelers' probabilities is one half, 0 where it is sure; a tie that was told is sure."""
    own = _machines(judged)
    if own and all(o.verdict is Verdict.TIE for o in own):
        return 0.0
    return 1 - 2 * abs(_mean(own) - 0.5)


def order(judged: Judged) -> float:
    """1 where a labeler's answer turned with the sides, 0 where none did; below one, how much a probability moved."""
    both = [w for name in {o.annotator for o in _machines(judged)} if (w := judged.ways(name))]
    return max((_turned(forth, back) for forth, back in both), default=0.0)


def ensemble(judged: Judged) -> float:
    """How far the labelers' probabilities lie apart: 0 where they agree, 1 where two are sure of opposite sides."""
    each = {o.annotator: _probability(o) for o in reversed(_machines(judged))}
    return max(each.values()) - min(each.values()) if each else 0.0


def doubt(judged: Judged) -> float:
    """Labelers apart or turned with the sides come first, probabilities near one half after them.

    Measured so (`benchmarks/routing.py`): many pairs near one half are alike in truth, and a person's answer to them
    changes nothing.
    """
    return max(order(judged), ensemble(judged), soft(judged) / 10)


def chance(judged: Judged) -> float:
    """The same number for a pair whenever it is asked, and else any: routing without a reason, to compare with."""
    return int(hashlib.sha256(judged.pair.id.encode()).hexdigest()[:12], 16) / 16**12


BY: Mapping[str, Callable[[Judged], float]] = {
    "doubt": doubt,
    "soft": soft,
    "order": order,
    "ensemble": ensemble,
    "random": chance,
}
"""Name of a rule to how much a pair wants a person."""


def route(pairs: Sequence[Judged], by: str, budget: int) -> list[Judged]:
    """Return at most `budget` pairs without a person's answer, those that want one most first.

    Only `random` returns pairs about which there is no doubt at all.
    """
    free = [j for j in pairs if _machines(j) and not any(is_person(o.annotator) for o in j.opinions)]
    wanted = sorted(((BY[by](judged), chance(judged), judged) for judged in free), key=lambda w: (-w[0], w[1]))
    return [judged for want, _, judged in wanted[:budget] if want > 0]


def _machines(judged: Judged) -> list[Opinion]:
    return [judged.read(o) for o in judged.opinions if not is_person(o.annotator)]


def _mean(opinions: Sequence[Opinion]) -> float:
    return float(np.mean([_probability(o) for o in opinions])) if opinions else 0.5


def _probability(opinion: Opinion) -> float:
    """That a is better; unsure without a probability is one half."""
    p = opinion.probability
    return TRAINED[Verdict.TIE] if p is None else p


def _turned(forth: Opinion, back: Opinion) -> float:
    """How much an answer moved when its sides were exchanged."""
    return 1.0 if forth.verdict is not back.verdict.swapped() else abs(_probability(forth) + _probability(back) - 1)
