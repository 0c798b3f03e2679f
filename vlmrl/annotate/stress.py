"""A labeler under stress: the same pairs with pictures or sentence spoilt, and the rules by which it is exposed.

Whoever looks must change the answer when the pictures change. So for every spoilt question is counted how often the
same place is named as for the question as it is, among pairs of which a side was named there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from vlmrl.annotate.alter import alter
from vlmrl.annotate.audit import wilson
from vlmrl.annotate.consistency import rate
from vlmrl.types import Frame, Item, Query, Reply, Verdict

CONDITIONS = ("images swapped", "images shuffled", "blank images", "low resolution", "wrong sentence")
PICTURES_GONE = ("images swapped", "images shuffled", "blank images")
"""What was to be seen is elsewhere or nowhere: the same answer again cannot come from looking."""

STUBBORN = 0.75
"""Share of same answers above which, with the whole interval, a labeler does not mind what was spoilt."""

RULES = (
    "A labeler ignores the pictures if, with the images swapped, shuffled or blank, it names the same place as before "
    f"in more than {STUBBORN:.0%} of the pairs (lower end of the Wilson interval); it ignores the sentence if it does "
    "so with a wrong sentence; it cannot be told from a coin if the interval of its accuracy on the pairs as they are "
    "holds 50 %, and is worse than one if all of it lies below."
)
_SIDES = (Verdict.A_BETTER, Verdict.B_BETTER)


@dataclass(frozen=True)
class Spoilt:
    """How the questions of one condition come about."""

    query: Callable[[Query], Query]
    """The question that is asked instead."""
    item: Callable[[Item], Item]
    """Whose picture stands for an item."""
    how: str = ""
    """How pictures are altered, as `alter` knows it."""
    mark: str = ""
    """Joined to the camera's name in the ledger, so that nobody takes an answer for one about the pair as it is."""
    swapped: bool = False
    """Whether sides are exchanged, so that a right answer is the other one."""


def spoil(condition: str, queries: Sequence[Query], generator: np.random.Generator, *, wrong: str) -> Spoilt:
    """Return how to spoil pairs of single frames; `wrong` is a sentence about something else.

    Shuffled, the picture of every frame is that of another frame of these pairs.
    """
    match condition:
        case "images swapped":
            return Spoilt(lambda q: Query(q.kind, q.items[::-1], q.instruction, q.images[::-1]), _same, swapped=True)
        case "images shuffled":
            frames = sorted({i for q in queries for i in q.items if isinstance(i, Frame)})
            order = generator.permutation(len(frames))
            # Along a cycle through all of them no frame keeps its own picture.
            other = {frames[order[k]]: frames[order[(k + 1) % len(order)]] for k in range(len(order))}
            return Spoilt(_query, lambda i: other.get(i, i) if isinstance(i, Frame) else i, mark=condition)
        case "blank images":
            return Spoilt(_query, _same, "blank", mark=condition)
        case "low resolution":
            return Spoilt(_query, _same, "low resolution", mark=condition)
        case "wrong sentence":
            return Spoilt(lambda q: Query(q.kind, q.items, wrong, q.images), _same, mark=condition)
        case _:
            return Spoilt(_query, _same)


def pictured(spoilt: Spoilt, queries: Sequence[Query], fill: Callable[[Sequence[Query]], list[Query]]) -> list[Query]:
    """The spoilt questions with the pictures that are to be shown."""
    asked = [spoilt.query(query) for query in queries]
    looked = fill([Query(q.kind, tuple(map(spoilt.item, q.items)), q.instruction) for q in asked])
    shown = [tuple(alter(image[None], spoilt.how)[0] for image in q.images) for q in looked]
    return [
        Query(q.kind, tuple(marked(i, spoilt.mark) for i in q.items), q.instruction, images)
        for q, images in zip(asked, shown, strict=True)
    ]


def marked(item: Item, mark: str) -> Item:
    """An item under a camera that no store has."""
    return Frame(item.episode, item.row, f"{item.camera} ({mark})") if mark and isinstance(item, Frame) else item


def unmarked(item: Item, mark: str) -> Item:
    """The item that was marked."""
    return Frame(item.episode, item.row, item.camera.removesuffix(f" ({mark})")) if isinstance(item, Frame) else item


def compare(
    condition: str,
    plain: Sequence[Reply | None],
    stressed: Sequence[Reply | None],
    difference: Float64[np.ndarray, " Q"],
    *,
    swapped: bool,
) -> dict[str, Any]:
    """Return what a condition did: sides named, the same place named again, and right answers."""
    named = [(p, s, g) for p, s, g in zip(plain, stressed, difference.tolist(), strict=True) if s is not None]
    before = [(p.answer, s.answer) for p, s, _ in named if p is not None and p.answer in _SIDES]
    decided = [(s.answer, -g if swapped else g) for _, s, g in named if s.answer in _SIDES and g]
    return {
        "condition": condition,
        "asked": len(stressed),
        "named": rate(sum(s.answer in _SIDES for _, s, _ in named), len(named)),
        "same": rate(sum(x is y for x, y in before), len(before)),
        "right": rate(sum((answer is Verdict.A_BETTER) == (g > 0) for answer, g in decided), len(decided)),
    }


def exposed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the rules say about a labeler; `rows` begin with the questions as they are."""
    said: list[str] = []
    stubborn = [row["condition"] for row in rows[1:] if _stubborn(row["same"])]
    if gone := [name for name in stubborn if name in PICTURES_GONE]:
        said.append(f"ignores the pictures: names the same place with {', '.join(gone)}")
    if "wrong sentence" in stubborn:
        said.append("ignores the sentence: names the same place with a wrong one")
    right = rows[0]["right"]
    if right["whole"]:
        low, high = wilson(right["part"], right["whole"])
        if high < 0.5:
            said.append("is worse than a coin on these pairs: its sides may be exchanged")
        elif low <= 0.5:
            said.append("cannot be told from a coin on these pairs")
    return said


def _stubborn(same: Mapping[str, Any]) -> bool:
    return bool(same["whole"]) and same["interval"][0] > STUBBORN


def _query(query: Query) -> Query:
    return query


def _same(item: Item) -> Item:
    return item
