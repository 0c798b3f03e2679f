"""The review: what labelers and people said about each pair, beside the clips, filtered; nothing here is blind."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import func, select

from vlmrl.annotate import schema
from vlmrl.annotate.agreement import shown_episodes
from vlmrl.annotate.opinions import Judged, Opinion, gather, read_opinions
from vlmrl.annotate.people.question import PREFIX, Pair, is_person
from vlmrl.annotate.people.queue import Queue
from vlmrl.errors import ConfigError, DataError, unknown
from vlmrl.types import Item, Verdict

SHOWN = 12
"""Pairs of a page."""

DISAGREEMENTS = {
    "any": "anybody disagrees",
    "people": "a person and a labeler disagree",
    "labelers": "labelers disagree",
    "order": "another answer with sides swapped",
}
CONFIDENCES = {
    "low": ("below 60 %", 0.5, 0.6),
    "fair": ("60 to 80 %", 0.6, 0.8),
    "high": ("80 to 95 %", 0.8, 0.95),
    "sure": ("95 % and more", 0.95, 1.01),
}
QUALITIES = ("both succeeded", "one succeeded", "none succeeded", "not known")


@dataclass(frozen=True)
class Filter:
    """Which pairs are shown; empty: all."""

    labeler: str = ""
    disagreement: str = ""
    confidence: str = ""
    sentence: str = ""
    task: str = ""
    quality: str = ""
    corrected: str = ""
    """yes: by anybody; no."""

    @staticmethod
    def of(given: Mapping[str, str]) -> "Filter":
        """Read what the page sends.

        Raises:
            ConfigError: if there is no such filter or choice.
        """
        have = [f.name for f in fields(Filter)]
        if wrong := [name for name in given if name not in have]:
            raise unknown("filter", wrong[0], have)
        found = Filter(**given)
        for name, choices in (("disagreement", DISAGREEMENTS), ("confidence", CONFIDENCES), ("quality", QUALITIES)):
            if getattr(found, name) and getattr(found, name) not in choices:
                raise unknown(name, getattr(found, name), choices)
        if found.corrected not in ("", "yes", "no"):
            raise ConfigError(f"corrected is {found.corrected!r}; wanted yes or no")
        return found


class Review:
    """Looks pairs up; safe for threads."""

    def __init__(self, queue: Queue, *, sentences: Sequence[str], truth: Callable[[Item], float] | None = None) -> None:
        """`sentences` are those that questions may be about; `truth` is shown beside the answers where it is known."""
        self._queue, self._sentences, self._truth = queue, sentences, truth
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._judged: Sequence[Judged] = ()
        self._pairs: dict[str, Pair] = {}

    def judged(self) -> list[Judged]:
        """Return all pairs that anybody judged, read anew when the ledger has changed."""
        with self._lock:
            stamp = self._changed()
            if stamp != self._stamp:
                opinions = read_opinions(self._queue.ledger, self._queue.clips.store, sentences=self._sentences)
                self._judged = gather(opinions)
                # Both ways round: a pair turns when the answer by which it was shown is taken back.
                self._pairs = {p.way: p for j in self._judged for p in (j.pair, j.pair.swapped)}
                self._stamp = stamp
            return list(self._judged)

    def pair(self, way: str) -> Pair:
        """Return a pair the way round in which it was shown, whatever has been answered or taken back since.

        Raises:
            DataError: if nobody judged such a pair.
        """
        self.judged()
        if way not in self._pairs:
            raise DataError(f"no pair {way[:12]} in the review: nobody's answer to it counts")
        return self._pairs[way]

    def item(self, key: str, side: int) -> Item | None:
        """Return a side of a pair of the review, or of a question to people, by way or key, or None."""
        state = self._queue.state()
        asked = state.open.get(key) or next((g.question for g in state.given if g.question.key == key), None)
        if asked is None and key not in self._pairs:
            self.judged()
        shown = asked.shown if asked else self._pairs.get(key)
        return None if shown is None else (shown.a, shown.b)[side]

    def choices(self) -> dict[str, Any]:
        """What can be filtered by."""
        pairs = self.judged()
        who = sorted({o.annotator for j in pairs for o in j.opinions})
        tasks = sorted({task for j in pairs for task in self._tasks(j.pair)})
        return {
            "labeler": {name: name.removeprefix(PREFIX) for name in who},
            "disagreement": DISAGREEMENTS,
            "confidence": {name: text for name, (text, *_) in CONFIDENCES.items()},
            "quality": {name: name for name in QUALITIES},
            "task": {name: name for name in tasks},
            "sentence": {s: s for s in sorted({j.pair.sentence for j in pairs})},
            "corrected": {"no": "not corrected", "yes": "corrected"},
        }

    def page(self, wanted: Filter, start: int, *, person: str) -> dict[str, Any]:
        """Return some pairs that pass the filter, the most doubtful first."""
        found = [judged for judged in self.judged() if self._passes(judged, wanted)]
        found.sort(key=lambda j: (-self._doubt(j), j.pair.id))
        return {
            "total": len(found),
            "start": start,
            "pairs": [self._entry(judged, person) for judged in found[start : start + SHOWN]],
        }

    def _changed(self) -> tuple[int, int]:
        reply = schema.reply.c
        with self._queue.ledger.transaction(writes=False) as connection:
            last = select(func.coalesce(func.max(reply.id), 0), func.count()).where(reply.answer_type != "none")
            top, count = connection.execute(last).one()
        return int(top), int(count)

    def _passes(self, judged: Judged, wanted: Filter) -> bool:
        own = [o for o in judged.opinions if wanted.labeler in ("", o.annotator)]
        if not own or wanted.sentence not in ("", judged.pair.sentence):
            return False
        if wanted.task and wanted.task not in self._tasks(judged.pair):
            return False
        if wanted.quality and wanted.quality != self._quality(judged.pair):
            return False
        if wanted.corrected and (wanted.corrected == "yes") != any(o.sighted for o in judged.opinions):
            return False
        if wanted.confidence and not _confident(own, wanted.confidence):
            return False
        return not wanted.disagreement or wanted.disagreement in disagreements(judged)

    def _entry(self, judged: Judged, person: str) -> dict[str, Any]:
        read = [judged.read(o) for o in judged.opinions]
        yours = next((o.verdict.value for o in read if o.annotator == person and o.sighted), None)
        pair, truth = judged.pair, self._truths(judged.pair)
        said = [
            {
                "who": o.annotator.removeprefix(PREFIX),
                "person": is_person(o.annotator),
                "answer": o.verdict.value,
                "probability": o.reply.probability,
                "text": "" if is_person(o.annotator) else o.reply.text,
                "sighted": o.sighted,
                "swapped": raw.shown.a != pair.a,
            }
            for raw, o in zip(judged.opinions, read, strict=True)
        ]
        return {
            "pair": pair.way,
            "sentence": pair.sentence,
            "task": ", ".join(sorted(self._tasks(pair))),
            "quality": self._quality(pair),
            "crossing": any(isinstance(i, tuple) and len(i) > 1 for i in (pair.a, pair.b)),
            "disagree": sorted(disagreements(judged)),
            "truth": truth,
            "yours": yours,
            "said": said,
            "items": [pair.a, pair.b],
        }

    def _tasks(self, pair: Pair) -> set[str]:
        table = self._queue.clips.store.episodes
        return {table.task[table.index(e)] for e in shown_episodes((pair.a, pair.b))}

    def _quality(self, pair: Pair) -> str:
        table = self._queue.clips.store.episodes
        return quality([int(table.success[table.index(e)]) for e in shown_episodes((pair.a, pair.b))])

    def _truths(self, pair: Pair) -> list[float] | None:
        if self._truth is None or isinstance(pair.a, tuple) or isinstance(pair.b, tuple):
            return None
        return [round(float(self._truth(item)), 3) for item in (pair.a, pair.b)]

    @staticmethod
    def _doubt(judged: Judged) -> float:
        """1 for a labeler at one half, 0 for one that is sure, of a tie too; disagreements come before all."""
        own = [o for o in judged.opinions if not is_person(o.annotator) and o.verdict is not Verdict.TIE]
        p = [o.probability for o in own if o.probability is not None]
        return len(disagreements(judged)) + max((1 - 2 * abs(q - 0.5) for q in p), default=0.0)


def disagreements(judged: Judged) -> set[str]:
    """Which of DISAGREEMENTS a pair has; unsure disagrees with nobody."""
    read = [judged.read(o) for o in judged.opinions if o.verdict is not Verdict.UNSURE]
    people = {o.verdict for o in read if is_person(o.annotator)}
    labelers = {o.annotator: o.verdict for o in reversed(read) if not is_person(o.annotator)}
    found: set[str] = set()
    if people and labelers and (len(people) > 1 or set(labelers.values()) != people):
        found.add("people")
    if len(set(labelers.values())) > 1:
        found.add("labelers")
    both = [w for name in {o.annotator for o in judged.opinions} if (w := judged.ways(name))]
    if any(x.verdict is not y.verdict.swapped() for x, y in both):
        found.add("order")
    return found | ({"any"} if found or len(people) > 1 else set())


def quality(success: Sequence[int]) -> str:
    """The quality of the episodes that a pair shows: 1 succeeded, 0 failed, -1 unknown."""
    counts = Counter(success)
    if counts[-1]:
        return "not known"
    return "both succeeded" if not counts[0] else "one succeeded" if counts[1] else "none succeeded"


def _confident(opinions: Sequence[Opinion], name: str) -> bool:
    _, low, high = CONFIDENCES[name]
    told = [o.reply.probability for o in opinions if o.reply.probability is not None and not is_person(o.annotator)]
    return any(low <= max(p, 1 - p) < high for p in told)
