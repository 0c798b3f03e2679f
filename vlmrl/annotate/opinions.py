"""All answers of a ledger about pairs, side by side: who said what about which pair, whichever way round."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select

from vlmrl.annotate import schema
from vlmrl.annotate.audit import TRAINED
from vlmrl.annotate.ledger import Ledger
from vlmrl.annotate.people.question import Pair
from vlmrl.annotate.record import reply_from_row
from vlmrl.annotate.recorded import Record, answered
from vlmrl.store import Store
from vlmrl.types import Cost, Frame, Kind, Reply, Span, Verdict


@dataclass(frozen=True)
class Opinion:
    """One answer that counts, as its pair was shown."""

    shown: Pair
    reply: Reply
    key: str
    """Of the question."""
    sighted: bool = False
    """A person who saw what others answered."""
    repeat: bool = False
    """A person who was asked again."""

    @property
    def annotator(self) -> str:
        """Who answered."""
        return self.reply.annotator

    @property
    def verdict(self) -> Verdict:
        """What was answered."""
        assert isinstance(self.reply.answer, Verdict)
        return self.reply.answer

    @property
    def probability(self) -> float | None:
        """That a is better, as told or as the verdict trains; None for unsure without one."""
        return TRAINED.get(self.verdict) if self.reply.probability is None else self.reply.probability

    @property
    def cost(self) -> Cost:
        """What it took."""
        return self.reply.cost

    def swapped(self) -> "Opinion":
        """The same opinion with the sides exchanged."""
        p, told = self.reply.probability, self.reply
        turned = Reply(self.verdict.swapped(), told.annotator, None if p is None else 1 - p, told.text, told.cost)
        return Opinion(self.shown.swapped, turned, self.key, self.sighted, self.repeat)


@dataclass
class Judged:
    """A pair and everything said about it."""

    pair: Pair
    """As it was shown first."""
    opinions: list[Opinion] = field(default_factory=list)
    """As they were shown."""

    def read(self, opinion: Opinion) -> Opinion:
        """An opinion as it reads with the pair's a first."""
        return opinion if opinion.shown.a == self.pair.a else opinion.swapped()

    def by(self, annotator: str, *, blind: bool = True) -> Opinion | None:
        """Somebody's first opinion, as it reads with the pair's a first; blind ones alone, or all."""
        own = (o for o in self.opinions if o.annotator == annotator and not (blind and o.sighted))
        first = next(own, None)
        return None if first is None else self.read(first)

    def ways(self, annotator: str) -> tuple[Opinion, Opinion] | None:
        """Somebody's opinions asked one way round and the other, as they were shown; None unless there are both."""
        own = [o for o in self.opinions if o.annotator == annotator and not o.sighted]
        forth = next((o for o in own if o.shown.a == self.pair.a), None)
        back = next((o for o in own if o.shown.a != self.pair.a), None)
        return (forth, back) if forth and back else None


def gather(opinions: Sequence[Opinion]) -> list[Judged]:
    """Opinions by pair, in the order of the pairs' first ones."""
    found: dict[str, Judged] = {}
    for one in opinions:
        found.setdefault(one.shown.id, Judged(one.shown)).opinions.append(one)
    return list(found.values())


def read_opinions(ledger: Ledger, store: Store, *, sentences: Collection[str] = ()) -> list[Opinion]:
    """Return the opinions of a ledger about pairs of a store.

    `sentences` are those that questions may have been about, beside the store's own: prompts hold theirs among other
    words. Answers about spoilt pictures (`stress`) lie under cameras that no store has, and are left out.
    """
    known, own = [*sentences, *sorted({*store.episodes.instruction} - {"", *sentences})], set(store.episodes.id)
    cameras = {*store.cameras, ""}
    records = (r for r in answered(ledger) if r.kind is Kind.PREFERENCE and isinstance(r.reply.answer, Verdict))
    here = (r for r in records if all(p.episode in own and p.camera in cameras for p in _places(r)))
    return [one for record in here if (one := _opinion(record, known)) is not None]


def spent(ledger: Ledger, store: Store, *, sentence: str | None = None) -> dict[str, Cost]:
    """Return what each annotator's replies about pairs of a store took, each once, unreadable and failed ones too."""
    own, cameras = set(store.episodes.id), {*store.cameras, ""}
    question, subject = schema.question.c, schema.subject.c
    about, found = set[str](), dict[str, Cost]()
    with ledger.transaction(writes=False) as connection:
        places = connection.execute(select(subject.question, subject.episode, subject.camera).distinct()).all()
        here = {key for key, episode, camera in places if episode in own and camera in cameras}
        for row in connection.execute(select(question.key, question.content).where(question.kind == "preference")):
            record = Record((), Kind.PREFERENCE, json.loads(row.content), Reply(None, ""))
            if row.key in here and (sentence is None or record.asks(sentence)):
                about.add(row.key)
        for row in connection.execute(select(schema.reply)):
            if row.question in about:
                found[row.annotator] = found.get(row.annotator, Cost()) + reply_from_row(row).cost
    return found


def _opinion(record: Record, sentences: Collection[str]) -> Opinion | None:
    sentence = record.sentence or next((s for s in sentences if record.asks(s)), None)
    if sentence is None or len(record.items) != 2:
        return None
    flags: Mapping[str, object] = record.content
    shown = Pair(record.items[0], record.items[1], sentence)
    return Opinion(shown, record.reply, record.key, bool(flags.get("sighted")), bool(flags.get("repeat")))


def _places(record: Record) -> list[Frame | Span]:
    return [place for item in record.items for place in (item if isinstance(item, tuple) else (item,))]
