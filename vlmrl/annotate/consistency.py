"""Whether answers fit together: the place of a picture must not matter, and what is better than better is better."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vlmrl.annotate.audit import wilson
from vlmrl.annotate.opinions import Judged
from vlmrl.annotate.question import canonical, item_to_json
from vlmrl.types import Verdict

_SIDES = (Verdict.A_BETTER, Verdict.B_BETTER)
_MOST = 200
"""Comparisons of one item among which triples are looked for: more would take the square of it."""


@dataclass(frozen=True)
class Position:
    """How often the side shown first was named."""

    named: int
    """Answers that name a side."""
    first: int
    both_ways: int
    """Pairs asked one way round and the other with a side named each time."""
    first_twice: int
    """Of those, the first named both times: nothing but the place can explain it."""
    second_twice: int

    def as_json(self) -> dict[str, Any]:
        """Return counts, and rates with Wilson intervals; null where there is nothing to count."""
        place = self.first_twice + self.second_twice
        return {
            "named": self.named,
            "first": rate(self.first, self.named),
            "both_ways": self.both_ways,
            "by_place_alone": rate(place, self.both_ways),
            "first_twice": self.first_twice,
            "second_twice": self.second_twice,
        }


def position(pairs: Sequence[Judged], annotator: str) -> Position:
    """Count what the place did to somebody's answers."""
    own = [o for j in pairs for o in j.opinions if o.annotator == annotator and not o.sighted and o.verdict in _SIDES]
    twice = [w for j in pairs if (w := j.ways(annotator)) and all(o.verdict in _SIDES for o in w)]
    return Position(
        named=len(own),
        first=sum(o.verdict is Verdict.A_BETTER for o in own),
        both_ways=len(twice),
        first_twice=sum(all(o.verdict is Verdict.A_BETTER for o in w) for w in twice),
        second_twice=sum(all(o.verdict is Verdict.B_BETTER for o in w) for w in twice),
    )


@dataclass(frozen=True)
class Transitivity:
    """Whether somebody's preferences can come from one order of all items."""

    edges: int
    """Pairs in which a side was named."""
    on_cycles: int
    """Of those, the ones that lie on a cycle (x over y over ... over x), however long."""
    triples: int
    """Triples of items compared all three ways."""
    cyclic: int
    """Of those, cycles."""

    def as_json(self) -> dict[str, Any]:
        """Return counts, and rates with Wilson intervals; null where there is nothing to count."""
        return {"edges": rate(self.on_cycles, self.edges), "triples": rate(self.cyclic, self.triples)}


def transitivity(pairs: Sequence[Judged], annotator: str) -> Transitivity:
    """Look for cycles in somebody's preferences; with random answers a quarter of all triples are cyclic.

    Of pairs asked both ways round the first answer counts.
    """
    better: dict[str, set[str]] = defaultdict(set)
    places: dict[str, int] = {}
    arcs: list[tuple[int, int]] = []
    for judged in pairs:
        opinion = judged.by(annotator)
        if opinion is None or opinion.verdict not in _SIDES:
            continue
        a, b = (f"{judged.pair.sentence}|{canonical(item_to_json(i))}" for i in (judged.pair.a, judged.pair.b))
        won, lost = (a, b) if opinion.verdict is Verdict.A_BETTER else (b, a)
        better[won].add(lost)
        arcs.append((places.setdefault(won, len(places)), places.setdefault(lost, len(places))))
    triples, cyclic = _triples(better)
    return Transitivity(len(arcs), _on_cycles(arcs, len(places)), triples, cyclic)


def _on_cycles(arcs: Sequence[tuple[int, int]], items: int) -> int:
    """An arc lies on a cycle exactly if its ends are in one strongly connected component."""
    if not arcs:
        return 0
    won, lost = np.array(arcs).T
    graph = coo_array((np.ones(len(arcs)), (won, lost)), shape=(items, items))
    _, part = connected_components(graph.tocsr(), connection="strong")
    return int((part[won] == part[lost]).sum())


def _triples(better: dict[str, set[str]]) -> tuple[int, int]:
    known: dict[str, set[str]] = defaultdict(set)
    for won, losers in list(better.items()):
        for lost in losers:
            known[won].add(lost)
            known[lost].add(won)
    total = cyclic = 0
    for x, around in known.items():
        for y, z in combinations(sorted(n for n in around if n > x)[:_MOST], 2):
            if z in known[y]:
                total += 1
                wins = [sum(other in better[one] for other in (x, y, z)) for one in (x, y, z)]
                cyclic += wins == [1, 1, 1]
    return total, cyclic


def rate(part: int, whole: int) -> dict[str, Any]:
    """A share with its Wilson interval; null where there is nothing to share."""
    if not whole:
        return {"part": part, "whole": whole, "rate": None, "interval": None}
    return {"part": part, "whole": whole, "rate": part / whole, "interval": list(wilson(part, whole))}
