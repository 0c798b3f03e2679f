"""The labels that are made of an annotator's several answers to a pair: votes, both orders."""

from collections.abc import Sequence
from dataclasses import replace

from vlmrl.annotate.opinions import Judged, Opinion
from vlmrl.annotate.polls import join

BOTH = 0.5
"""Share of its pairs that an annotator must have been asked both ways round: a check of the order asks fewer."""


def join_answers(pairs: Sequence[Judged], labelers: Sequence[str], *, disagree: str) -> dict[str, str]:
    """Add to the pairs what each labeler's answers make together; return the names of these and of whom they are.

    Answers by `ask.votes` are joined, and those to both orders where at least half of the pairs were asked so, as the
    labeling job does by its rule of disagreement. Labelers that answered each pair once are left out.
    """
    found: dict[str, str] = {}
    for name in labelers:
        if made := _joined(pairs, name, disagree):
            found[f"{name}, joined"] = name
            for judged, opinion in made:
                judged.opinions.append(opinion)
    return found


def _joined(pairs: Sequence[Judged], name: str, disagree: str) -> list[tuple[Judged, Opinion]]:
    own = [(j, o) for j in pairs if (o := [o for o in j.opinions if o.annotator == name and not o.sighted])]
    both = sum(j.ways(name) is not None for j, _ in own) >= BOTH * len(own)
    answers = [(j, some[0], *_ways(some)) for j, some in own]
    if not both and all(len(forth) < 2 for _, _, forth, _ in answers):
        return []
    made: list[tuple[Judged, Opinion]] = []
    for judged, first, forth, back in answers:
        reply = join([o.reply for o in forth], [o.reply for o in back] if both else [], disagree=disagree)
        if reply is not None:
            made.append((judged, Opinion(first.shown, replace(reply, annotator=f"{name}, joined"), "")))
    return made


def _ways(opinions: Sequence[Opinion]) -> tuple[list[Opinion], list[Opinion]]:
    """Those shown as the first one was, and those shown the other way round."""
    forth = [o for o in opinions if o.shown.a == opinions[0].shown.a]
    return forth, [o for o in opinions if o.shown.a != opinions[0].shown.a]
