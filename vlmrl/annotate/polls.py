"""One label of several answers to the same question: in both orders, and by votes.

The rule. Of one order, p is the mean over its votes (a side counts 1 or 0, or the labeler's own probability; a tie one
half; unsure and unreadable votes do not count). Of both orders p is the mean of the two. Where they name different
sides, the rule of disagreement decides: a tie, nothing (unsure), or that mean all the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from vlmrl.annotate.audit import TRAINED
from vlmrl.annotate.replies import Replies
from vlmrl.types import Reply, Verdict

Votes = Sequence[Sequence[Reply | None]]
"""The replies to all queries, a sequence a vote."""


def merged(votes: Votes, swapped: Votes, *, disagree: str) -> Replies:
    """Return a reply to each query, made of all that were given; `swapped` are those to the items turned round.

    Where a single reply was given, it is that one.
    """
    return Replies(
        join([v[i] for v in votes], [v[i] for v in swapped], disagree=disagree)
        for i in range(len(votes[0]) if votes else 0)
    )


def chance(reply: Reply | None) -> float | None:
    """Return the probability that a is better, as it counts in a vote; None where the reply does not count."""
    if reply is None or not isinstance(reply.answer, Verdict) or reply.answer is Verdict.UNSURE:
        return None
    if reply.answer is Verdict.TIE or reply.probability is None:
        return TRAINED[reply.answer]
    return reply.probability


def join(first: Sequence[Reply | None], second: Sequence[Reply | None], *, disagree: str) -> Reply | None:
    """Return the reply to one query, made of all that were given; `second` are those to its items turned round."""
    given = [reply for reply in (*first, *second) if reply is not None and reply.answer is not None]
    if len(given) < 2:
        return given[0] if given and given[0] in first else _turned(given[0]) if given else None
    orders = [p for p in (_mean(map(chance, first)), _turn(_mean(map(chance, second)))) if p is not None]
    p = _mean(orders)
    if p is None:
        verdict = Verdict.UNSURE
    elif len(orders) == 2 and (orders[0] - 0.5) * (orders[1] - 0.5) < 0 and disagree != "mean":
        verdict = Verdict.TIE if disagree == "tie" else Verdict.UNSURE
        p = None
    else:
        verdict = Verdict.A_BETTER if p > 0.5 else Verdict.B_BETTER if p < 0.5 else Verdict.TIE
    said = " / ".join(reply.answer.value for reply in given if isinstance(reply.answer, Verdict))
    return replace(given[0], answer=verdict, probability=p, text=f"{len(given)} answers: {said}")


def _turned(reply: Reply) -> Reply:
    verdict = reply.answer.swapped() if isinstance(reply.answer, Verdict) else reply.answer
    return replace(reply, answer=verdict, probability=_turn(reply.probability))


def _turn(p: float | None) -> float | None:
    return None if p is None else 1 - p


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
