"""Figures about everybody who answered: how right, how consistent, how honest, and at what price."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from vlmrl.annotate.agreement import alpha, kappa, share, shown_episodes
from vlmrl.annotate.audit import reliability
from vlmrl.annotate.consistency import position, rate, transitivity
from vlmrl.annotate.opinions import Judged, Opinion
from vlmrl.annotate.people.question import is_person
from vlmrl.types import Cost, Verdict

BINS = 10
FEWEST = 30
"""Pairs that a part and the rest must have before it is flagged: intervals of fewer say little."""
_SIDES = (Verdict.A_BETTER, Verdict.B_BETTER)


@dataclass(frozen=True)
class Reference:
    """What answers are compared with."""

    name: str
    gap: Callable[[Judged], float | None]
    """By how much a is better than b: negative where b is, 0 for a tie, None where it is not known."""
    graded: bool
    """Whether sizes of gaps mean something."""
    annotators: frozenset[str] = frozenset()
    """Who makes up the reference, and is therefore not compared with it."""


Slices = Mapping[str, Callable[[Judged], str]]
"""Name of a division to the part that a pair is in."""


def assess(
    pairs: Sequence[Judged],
    reference: Reference,
    slices: Slices,
    *,
    people: Sequence[str],
    paid: Mapping[str, Cost] | None = None,
    joined: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return all figures, JSON-ready; `people` are the annotators that are persons.

    `paid` is what the replies of each annotator took, those without an answer too; by default, what these answers did.
    `joined` are names under which several answers of another are made one: these agree with nobody by themselves.
    """
    joined = joined or {}
    names = sorted({o.annotator for j in pairs for o in j.opinions})
    single = [name for name in names if name not in joined]
    gaps = {j.pair.id: reference.gap(j) for j in pairs}
    episodes = [shown_episodes((j.pair.a, j.pair.b)) for j in pairs]
    said = {name: [_verdict(j, name) for j in pairs] for name in names}
    return {
        "pairs": len(pairs),
        "reference": reference.name,
        "annotators": [
            _annotator(
                name,
                pairs,
                gaps,
                slices,
                graded=reference.graded,
                compared=name not in reference.annotators,
                paid=(paid or {}).get(joined.get(name, name)),
            )
            for name in names
        ],
        "alpha": {
            "people": alpha(_together(said, people), episodes).as_json(),
            "everybody": alpha(_together(said, single), episodes).as_json(),
        },
        "agreement": [
            {"a": x, "b": y, **_agreement(said[x], said[y], episodes)}
            for x, y in combinations(single, 2)
            if any(p and q for p, q in zip(said[x], said[y], strict=True))
        ],
    }


def persons(names: Sequence[str], imported: Sequence[str]) -> list[str]:
    """The annotators that are people: at the page, or with comparisons that were imported under one of these names."""
    return [name for name in names if is_person(name) or name in imported]


def _annotator(
    name: str,
    pairs: Sequence[Judged],
    gaps: Mapping[str, float | None],
    slices: Slices,
    *,
    graded: bool,
    compared: bool,
    paid: Cost | None,
) -> dict[str, Any]:
    own = [(j, o) for j in pairs if (o := j.by(name))]
    everything = [o for j in pairs for o in j.opinions if o.annotator == name]
    counted = Counter(o.verdict.value for _, o in own)
    ways = [w for j in pairs if (w := j.ways(name))]
    found: dict[str, Any] = {
        "name": name,
        "pairs": len(own),
        "verdicts": {v.value: counted[v.value] for v in Verdict},
        "position": position(pairs, name).as_json(),
        "transitivity": transitivity(pairs, name).as_json(),
        "both_ways": rate(sum(x.verdict is y.verdict.swapped() for x, y in ways), len(ways)),
        "cost": _cost(everything, paid),
    }
    if compared:
        known = [(j, o, gap) for j, o in own if (gap := gaps[j.pair.id]) is not None]
        found["accuracy"] = _right(known)
        found["slices"] = {title: _sliced(known, part, graded=graded) for title, part in slices.items()}
        found["by_gap"] = _by_gap(known) if graded else []
        found["calibration"] = _calibration(known)
        correct = sum(_is_right(o, gap) for _, o, gap in known if gap and o.verdict in _SIDES)
        # All that was paid, but for the share of pairs whose label is neither right nor wrong.
        usd = found["cost"]["usd"] * sum(gap != 0 for *_, gap in known) / max(1, len(own))
        found["cost"] |= {"correct": correct, "usd_per_correct": usd / correct if correct else None}
    return found


Known = Sequence[tuple[Judged, Opinion, float]]


def _right(known: Known) -> dict[str, Any]:
    """Share of right answers where the reference differs and a side was named."""
    decided = [(j, _is_right(o, gap)) for j, o, gap in known if gap and o.verdict in _SIDES]
    episodes = [shown_episodes((j.pair.a, j.pair.b)) for j, _ in decided]
    return {
        "differ": sum(gap != 0 for *_, gap in known),
        "ties": sum(gap == 0 for *_, gap in known),
        "invented": sum(gap == 0 and o.verdict in _SIDES for _, o, gap in known),
        **share([right for _, right in decided], episodes).as_json(),
    }


def _sliced(known: Known, part: Callable[[Judged], str], *, graded: bool) -> list[dict[str, Any]]:
    """Accuracy by part, flagged where both have enough pairs and its interval lies wholly below that of the rest."""
    names = sorted({part(j) for j, *_ in known})
    rows: list[dict[str, Any]] = []
    for name in names:
        own = [k for k in known if part(k[0]) == name]
        row = _right(own)
        rest = _right([k for k in known if part(k[0]) != name])
        below = min(row["pairs"], rest["pairs"]) >= FEWEST and row["high"] < rest["low"]
        rows.append({"part": name, "flagged": bool(below), **row, "by_gap": _by_gap(own) if graded else []})
    return rows


def _by_gap(known: Known) -> list[dict[str, Any]]:
    """As RL-VLM-F's figure: equally many pairs from the closest in truth to the farthest; right, wrong, no side."""
    order = sorted((k for k in known if k[2]), key=lambda k: abs(k[2]))
    rows: list[dict[str, Any]] = []
    for places in np.array_split(np.arange(len(order)), BINS):
        if len(some := [order[i] for i in places.tolist()]):
            sides = [_is_right(o, gap) for _, o, gap in some if o.verdict in _SIDES]
            ends = {"closest": abs(some[0][2]), "farthest": abs(some[-1][2])}
            counts = {"right": sum(sides), "wrong": len(sides) - sum(sides), "no_side": len(some) - len(sides)}
            rows.append({"pairs": len(some), **ends, **counts})
    return rows


def _calibration(known: Known) -> dict[str, Any]:
    told = [(o.reply.probability, gap > 0) for _, o, gap in known if gap and o.reply.probability is not None]
    return reliability(np.array([p for p, _ in told], np.float64), np.array([a for _, a in told], np.bool_))


def _cost(opinions: Sequence[Opinion], paid: Cost | None) -> dict[str, Any]:
    """What was paid, by default for these opinions: one question that several pairs share counts once."""
    total = paid or sum({o.key or str(i): o.cost for i, o in enumerate(opinions)}.values(), Cost())
    times = sorted(o.cost.latency_s for o in opinions)
    return {
        "usd": total.usd,
        "calls": total.calls,
        "tokens": total.prompt_tokens + total.completion_tokens,
        "median_s": times[len(times) // 2] if times else None,
    }


def _agreement(
    x: Sequence[Verdict | None], y: Sequence[Verdict | None], episodes: Sequence[frozenset[str]]
) -> dict[str, Any]:
    both = [(p, q, e) for p, q, e in zip(x, y, episodes, strict=True) if p in _SIDES and q in _SIDES]
    same = share([p is q for p, q, _ in both], [e for *_, e in both])
    return {"kappa": kappa(x, y, episodes).as_json(), "same_side": same.as_json()}


def _together(said: Mapping[str, Sequence[Verdict | None]], names: Sequence[str]) -> list[list[Verdict | None]]:
    count = len(next(iter(said.values()), ()))
    return [[said[name][i] for name in names] for i in range(count)]


def _is_right(opinion: Opinion, gap: float) -> bool:
    return (opinion.verdict is Verdict.A_BETTER) == (gap > 0)


def _verdict(judged: Judged, name: str) -> Verdict | None:
    found = judged.by(name)
    return None if found is None else found.verdict
