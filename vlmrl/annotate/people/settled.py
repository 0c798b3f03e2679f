"""What people say about pairs that labelers were asked about: it stands above the labelers' answers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from vlmrl.annotate.audit import TRAINED
from vlmrl.annotate.keys import NO_KEY
from vlmrl.annotate.ledger import Ledger
from vlmrl.annotate.people.question import Pair
from vlmrl.annotate.people.state import Given, Reader
from vlmrl.types import Query, Reply, Verdict


def people_above(ledger: Ledger, queries: Sequence[Query], keys: Sequence[str]) -> dict[str, Reply]:
    """Return people's common answer to each question whose pair they judged, by the question's key.

    Queries that were not looked at have no key of their own, and get none.
    """
    by_pair: defaultdict[str, list[Given]] = defaultdict(list)
    for one in Reader(ledger).read().given:
        by_pair[one.question.pair].append(one)
    found: dict[str, Reply] = {}
    for query, key in zip(queries, keys, strict=True) if by_pair else ():
        pair = Pair(query.items[0], query.items[1], query.instruction)
        if key != NO_KEY and (given := by_pair.get(pair.id)):
            found[key] = common(pair, given)
    return found


def common(pair: Pair, given: Sequence[Given]) -> Reply:
    """Join people's answers to one pair: each person's last one counts, their mean is the probability.

    Who is unsure abstains; where everybody is, so is the answer.
    """
    last = votes(pair, given)
    who, named = ", ".join(sorted(last)), [TRAINED[v] for v in last.values() if v in TRAINED]
    if not named:
        return Reply(Verdict.UNSURE, who)
    mean = float(np.mean(named))
    verdict = Verdict.TIE if mean == 0.5 else Verdict.A_BETTER if mean > 0.5 else Verdict.B_BETTER
    return Reply(verdict, who, mean)


def seen_from(pair: Pair, given: Given) -> Verdict:
    """Return an answer as it reads with the pair's a first."""
    verdict = given.reply.answer
    assert isinstance(verdict, Verdict)
    return verdict if given.question.shown.a == pair.a else verdict.swapped()


def votes(pair: Pair, given: Sequence[Given]) -> Mapping[str, Verdict]:
    """Each person's last answer, as it reads with the pair's a first."""
    return {one.reply.annotator: seen_from(pair, one) for one in given}
