"""The queue of questions to people: who gets which pair next, and their answers into the ledger."""

import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmrl.annotate.leases import check as check_lease
from vlmrl.annotate.ledger import Ledger
from vlmrl.annotate.people.clips import Clips
from vlmrl.annotate.people.question import LABELER, Pair, PersonQuestion, ask
from vlmrl.annotate.people.state import Given, Reader, State, withdraw
from vlmrl.errors import ConfigError, DataError
from vlmrl.types import Cost, Reply, Verdict


@dataclass(frozen=True)
class Rules:
    """How the queue is dealt out."""

    overlap: int = 1
    """People who answer each pair."""
    relabel: float = 0.1
    """Share of questions about pairs that a labeler has answered; the page does not tell which."""
    repeat: float = 0.05
    """Share of questions that the same person has answered before, now with sides swapped; the page does not tell."""
    gap: int = 10
    """Answers of a person between a question and its repetition, at least."""
    lease_s: float = 600.0
    """How long a pair is kept for the person who got it."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("relabel", "repeat"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"rules: {name} is {getattr(self, name)}; wanted 0 to 1")
        if self.overlap < 1 or self.gap < 0:
            raise ConfigError(f"rules: {self}; wanted overlap of at least 1, gap of at least 0")
        check_lease(self.lease_s)


class Queue:
    """Deals out questions; any number of processes may do so on one ledger."""

    def __init__(self, ledger: Ledger, clips: Clips, rules: Rules) -> None:
        """Remember where questions and pictures are."""
        self.ledger, self.clips, self.rules = ledger, clips, rules
        self._reader = Reader(ledger)
        self._visible: dict[str, bool] = {}
        self._labelled: Sequence[Pair] = ()

    def add(self, pairs: Sequence[Pair], *, drawn: bool = False) -> int:
        """Put pairs on the queue, first come first; return how many of them can be shown and are on it now.

        `drawn` are those that nobody chose for their doubt.
        """
        fit, known = [pair for pair in pairs if self.shows(pair)], self.asked()
        for pair in fit:
            if pair.id not in known:
                self._register(pair, drawn=drawn)
                known.add(pair.id)
        return len(fit)

    def offer(self, labelled: Sequence[Pair]) -> None:
        """Say which pairs have a labeler's answer: people are asked about some of them, in either order."""
        self._labelled = tuple(labelled)

    def next(self, person: str) -> PersonQuestion | None:
        """Return the question that a person holds, or reserve another; None where nothing is left for them."""
        state = self.state()
        for key in self._reader.held(person):
            if key in state.open and (held := self._lease(state.open[key], person)):
                return held
        mine = [g for g in state.given if g.reply.annotator == person]
        generator = np.random.default_rng([self.rules.seed, zlib.crc32(person.encode()), len(mine)])
        luck = generator.random()
        if luck < self.rules.repeat and (again := self._repeated(person, mine, state, generator)):
            return again
        if luck >= 1 - self.rules.relabel and (other := self._relabelled(person, state, generator)):
            return other
        return self._queued(person, state) or self._relabelled(person, state, generator)

    def answer(self, key: str, person: str, verdict: Verdict, *, seconds: float = 0.0) -> bool:
        """Write an answer down; False, and it counts for nothing, where the question has another one already.

        Raises:
            DataError: if there is no such question to this person.
        """
        state = self.state()
        if key not in state.open:
            before = next((g for g in state.given if g.question.key == key), None)
            if before is None:
                raise DataError(f"unknown question {key[:12]}")
            return before.reply.annotator == person and before.reply.answer is verdict
        if state.open[key].sighted or state.open[key].repeat not in ("", person):
            raise DataError(f"question {key[:12]} is not for {person}")
        reply = Reply(verdict, person, text=verdict.value, cost=Cost(latency_s=seconds))
        return not self.ledger.record([(key, reply)], owner=person)

    def take_back(self, person: str) -> PersonQuestion | None:
        """Let a person's last answer count no more and give them that question again; None where there is none."""
        mine = [g for g in self.state().given if g.reply.annotator == person and not g.question.sighted]
        if not mine:
            return None
        withdraw(self.ledger, mine[-1])
        self.ledger.release(person)
        return self._lease(mine[-1].question, person)

    def correct(self, pair: Pair, person: str, verdict: Verdict) -> None:
        """Write down what a person says who saw the others' answers, in place of what they said so before.

        Raises:
            DataError: if the pair cannot be shown, or the same person corrects it elsewhere at this moment.
        """
        if not self.shows(pair):
            raise DataError("this pair has no pictures in the store, so nobody can correct it")
        asked = self._register(pair, sighted=person)
        self.restore(pair, person)
        if self.ledger.record([(asked.key, Reply(verdict, person, text=verdict.value))], owner=person):
            raise DataError("this pair was corrected in another window at the same moment: look again")

    def restore(self, pair: Pair, person: str) -> bool:
        """Take a correction back; whether there was one."""
        mine = [g for g in self.state().given if g.question.sighted == person and g.question.pair == pair.id]
        for one in mine:
            withdraw(self.ledger, one)
        return bool(mine)

    def state(self) -> State:
        """Return what the ledger knows now."""
        return self._reader.read()

    def asked(self) -> set[str]:
        """Return the pairs that people were or are to be asked about blind."""
        return {question.pair for question in self._blind()}

    def routed(self) -> set[str]:
        """Return those that the page did not draw itself; ledgers from before it told them apart count all."""
        return {question.pair for question in self._blind() if not question.drawn}

    def _blind(self) -> list[PersonQuestion]:
        state = self.state()
        every = [*state.open.values(), *(g.question for g in state.given)]
        return [question for question in every if not question.repeat and not question.sighted]

    def waiting(self, state: State) -> int:
        """Answers that the queue still wants, whoever gives them; pairs that cannot be shown are left out."""
        people = state.people_of()
        return sum(max(0, self.rules.overlap - len(people.get(pair, ()))) for pair in self._draws(state))

    def shows(self, pair: Pair) -> bool:
        """Whether both sides have pictures in the store."""
        if pair.id not in self._visible:
            self._visible[pair.id] = self.clips.shows(pair.a) and self.clips.shows(pair.b)
        return self._visible[pair.id]

    def _draws(self, state: State) -> dict[str, list[PersonQuestion]]:
        """The blind questions of each pair that can be shown, in the queue's order."""
        found: defaultdict[str, list[PersonQuestion]] = defaultdict(list)
        for one in [*state.open.values(), *(g.question for g in state.given)]:
            if not one.repeat and not one.sighted and self.shows(one.shown):
                found[one.pair].append(one)
        return found

    def _queued(self, person: str, state: State) -> PersonQuestion | None:
        people = state.people_of()
        for pair, draws in self._draws(state).items():
            answered = people.get(pair, set())
            if person in answered or len(answered) >= self.rules.overlap:
                continue
            free = (self._lease(draw, person) for draw in draws if draw.key in state.open)
            if found := next((draw for draw in free if draw), None):
                return found
            if len(draws) < self.rules.overlap:
                new = max(draw.draw for draw in draws) + 1
                if found := self._lease(self._register(draws[0].shown, draw=new, drawn=draws[0].drawn), person):
                    return found
        return None

    def _repeated(
        self, person: str, mine: Sequence[Given], state: State, generator: np.random.Generator
    ) -> PersonQuestion | None:
        if pending := [q for q in state.open.values() if q.repeat == person]:
            return self._lease(pending[0], person)
        done = {g.question.pair for g in mine if g.question.repeat or g.question.sighted}
        old = [g.question for g in mine[: max(0, len(mine) - self.rules.gap)] if g.question.pair not in done]
        if not old:
            return None
        chosen = old[int(generator.integers(len(old)))].shown.swapped
        return self._lease(self._register(chosen, repeat=person), person) if self.shows(chosen) else None

    def _relabelled(self, person: str, state: State, generator: np.random.Generator) -> PersonQuestion | None:
        if not self.rules.relabel:
            return None
        known = {g.question.pair for g in state.given} | {q.pair for q in state.open.values()}
        left = [pair for pair in self._labelled if pair.id not in known]
        order = generator.permutation(len(left)).tolist()
        chosen = next((left[i] for i in order if self.shows(left[i])), None)
        if chosen is None:
            return None
        shown = chosen if generator.random() < 0.5 else chosen.swapped
        return self._lease(self._register(shown, drawn=True), person)

    def _register(
        self, shown: Pair, *, draw: int = 0, repeat: str = "", sighted: str = "", drawn: bool = False
    ) -> PersonQuestion:
        seen = (self.clips.digest(shown.a), self.clips.digest(shown.b))
        asked, question = ask(shown, seen, draw=draw, repeat=repeat, sighted=sighted, drawn=drawn)
        self.ledger.register([asked], labeler=LABELER)
        return question

    def _lease(self, question: PersonQuestion, person: str) -> PersonQuestion | None:
        granted = self.ledger.lease([question.key], owner=person, seconds=self.rules.lease_s).granted
        return question if granted else None
