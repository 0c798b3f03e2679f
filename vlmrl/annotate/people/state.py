"""What the ledger knows of the questions to people at one moment."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select, update

from vlmrl.annotate import schema
from vlmrl.annotate.database import chunks
from vlmrl.annotate.ledger import Ledger
from vlmrl.annotate.people.question import LABELER, PersonQuestion, parsed
from vlmrl.annotate.record import reply_from_row
from vlmrl.types import Reply

_WITHDRAWN = "taken back by {}"


@dataclass(frozen=True)
class Given:
    """One answer that counts."""

    question: PersonQuestion
    reply: Reply
    id: int
    """Of the reply: later ones are larger."""
    time: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class State:
    """Questions to people, in the order in which they came."""

    open: Mapping[str, PersonQuestion]
    """Those without an answer that counts, by key."""
    given: Sequence[Given]
    """Answers that count, oldest first."""

    def people_of(self) -> Mapping[str, set[str]]:
        """Who has answered each pair."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for one in self.given:
            found[one.question.pair].add(one.reply.annotator)
        return found


class Reader:
    """Reads states; what never changes, the questions' contents, is read once."""

    def __init__(self, ledger: Ledger) -> None:
        """Remember the ledger."""
        self._ledger = ledger
        self._known: dict[str, PersonQuestion] = {}

    def read(self) -> State:
        """Return the state now."""
        question, reply = schema.question.c, schema.reply.c
        keys = select(question.key).where(question.labeler == LABELER).order_by(question.created, question.key)
        answered = (
            select(schema.reply)
            .join(schema.question)
            .where(question.labeler == LABELER, reply.answer_type != "none")
            .order_by(reply.id)
        )
        with self._ledger.transaction(writes=False) as connection:
            order = list(connection.execute(keys).scalars())
            for some in chunks([key for key in order if key not in self._known]):
                content = select(question.key, question.content).where(question.key.in_(some))
                self._known |= {k: parsed(k, json.loads(text)) for k, text in connection.execute(content)}
            first: dict[str, Given] = {}
            for row in connection.execute(answered):
                if row.question in self._known:
                    given = Given(self._known[row.question], reply_from_row(row), row.id, row.time)
                    first.setdefault(row.question, given)
        unanswered = {key: self._known[key] for key in order if key not in first}
        return State(unanswered, tuple(first.values()))

    def held(self, person: str) -> list[str]:
        """Return the questions that a person has reserved and not answered."""
        with self._ledger.transaction(writes=False) as connection:
            mine = select(schema.lease.c.question).where(schema.lease.c.owner == person)
            return list(connection.execute(mine).scalars())


def withdraw(ledger: Ledger, given: Given) -> None:
    """Let an answer count no more; what was said stays in its text."""
    note = _WITHDRAWN.format(given.reply.annotator)
    gone = update(schema.reply).where(schema.reply.c.id == given.id).values(answer_type="none", answer="", error=note)
    with ledger.transaction(writes=True) as connection:
        connection.execute(gone)
