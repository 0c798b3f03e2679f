"""How far a labeling job is, and what it did."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vlmrl.annotate.record import is_refusal
from vlmrl.types import Answer, Cost, Reply, Verdict


@dataclass(frozen=True)
class Tally:
    """How far a job is, counted in different questions."""

    total: int = 0
    """While the job goes on, queries that turn out to be the same question are still counted."""
    cached: int = 0
    """Answered before this run."""
    asked: int = 0
    """Replies received in this run."""
    unreadable: int = 0
    """Of those, replies that could not be read."""
    failed: int = 0
    """Of those, calls that gave no reply."""
    refused: int = 0
    """Of those, questions that the labeler will not answer: they are not asked again."""
    elsewhere: int = 0
    """Answered by other workers meanwhile."""
    given_up: int = 0
    """Not asked in this run: refused before, or too many replies could not be read."""
    cut: int = 0
    """Sent, but not waited for: the job was stopped, and its grace ran out."""
    cost: Cost = field(default_factory=Cost)
    seconds: float = 0.0
    answers: Mapping[str, int] = field(default_factory=dict[str, int])
    """What was answered in this run: verdicts by name, yes, no, numbers."""
    errors: Mapping[str, int] = field(default_factory=dict[str, int])
    """What failed in this run, by kind."""
    trouble: str = ""
    """Why the job waits, if it does."""

    @property
    def done(self) -> int:
        """Questions that need nothing more in this run."""
        return self.cached + self.asked + self.elsewhere + self.given_up


@dataclass(frozen=True)
class JobReport(Tally):
    """What a labeling job did."""

    verdicts: Mapping[str, int] = field(default_factory=dict[str, int])
    """How often each verdict stands, over all queries that have an answer."""
    stopped_by: str = ""
    """max_calls, max_tokens, max_cost_usd, max_seconds, interrupt, or empty when every question was asked."""
    labeler: str = ""
    keys: Sequence[str] = field(default=(), repr=False)
    """The ledger's key of each query, in the queries' order; NO_KEY where an interrupt or max_seconds came before."""


class Counts:
    """What a running job counts."""

    def __init__(self) -> None:
        self.number: Counter[str] = Counter()
        self._answers: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self.trouble = ""

    def reply(self, reply: Reply) -> None:
        """Count one reply."""
        self.number["asked"] += 1
        if reply.error:
            self.number["refused" if is_refusal(reply.error) else "failed"] += 1
            self._errors[error_kind(reply.error)] += 1
        elif reply.answer is None:
            self.number["unreadable"] += 1
            self._errors["unreadable"] += 1
        else:
            self._answers[answer_kind(reply.answer)] += 1

    def tally(self, cost: Cost, seconds: float) -> Tally:
        """Return a frozen copy."""
        return Tally(
            **self.number, cost=cost, seconds=seconds, answers=dict(self._answers), errors=dict(self._errors),
            trouble=self.trouble,
        )  # fmt: skip


def answer_kind(answer: Answer) -> str:
    """Return the name under which an answer is counted."""
    if isinstance(answer, Verdict):
        return answer.value
    return ("yes" if answer else "no") if isinstance(answer, bool) else "numbers"


def error_kind(error: str) -> str:
    """Return the part of an error that many share: its first words, without figures that differ."""
    if found := re.match(r"HTTP \d+", error):
        return found[0]
    return re.split(r" within |, |: | \(", error, maxsplit=1)[0][:40]
