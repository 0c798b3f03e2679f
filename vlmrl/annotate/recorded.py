"""Earlier answers as a labeler: replays a file or ledger of them, and never guesses about what is not in there.

Read are the Parquet files of `annotate/exchange.py`, ledgers, and JSON lines that people write by hand:
`{"a": ["frame", "EPISODE", 12, "CAMERA"], "b": [...], "instruction": "...", "answer": "a", "probability": 0.9}`.
"""

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from sqlalchemy import select

from vlmrl.annotate import schema
from vlmrl.annotate.exchange import import_parquet
from vlmrl.annotate.ledger import Ledger
from vlmrl.annotate.question import canonical, digest, item_from_json, item_to_json
from vlmrl.annotate.record import reply_from_row, reply_to_row
from vlmrl.errors import ConfigError, DataError
from vlmrl.types import Cost, Frame, Item, Kind, Query, Reply, Span, Verdict


@dataclass(frozen=True)
class Config:
    """Answers that were given before."""

    file: str = ""
    """Labels as .parquet or .jsonl, or a ledger: a file, or its URL."""
    annotator: str = ""
    """Whose answers, as the file names them; empty: whoever answered, where that was one."""


@dataclass(frozen=True)
class Record:
    """One question about one pair, and the answer that counts."""

    items: tuple[Item, ...]
    kind: Kind
    content: Mapping[str, Any]
    """As it was sent."""
    reply: Reply
    key: str = ""
    """Of the question in the ledger; empty where it comes from a file that people wrote."""

    @property
    def sentence(self) -> str | None:
        """What was asked for, where the question spells it."""
        goals = self.content.get("goals", ())
        return self.content.get("instruction") or (goals[0] if len(goals) == 1 else None)

    def asks(self, sentence: str) -> bool:
        """Whether the question was about this sentence, which prompts hold behind a colon or in brackets."""
        if self.sentence is not None:
            return self.sentence == sentence
        goal = re.compile(rf"[:(\"“'\n]\s*{re.escape(sentence.strip().rstrip('.'))}[.)\"”'\n]")
        return bool(goal.search(str(self.content.get("messages", ""))))


def build(config: Config) -> "Recorded":
    """Return the labeler; the file is read now.

    Raises:
        ConfigError: if no file is named.
        DataError: if it cannot be read, or holds no answer of that annotator.
    """
    if not config.file:
        raise ConfigError("recorded: file is empty; set labeler.file to labels as .parquet, .jsonl, or to a ledger")
    records = read(config.file)
    have = sorted({record.reply.annotator for record in records})
    if config.annotator and config.annotator not in have:
        raise DataError(f"{config.file} holds no answers of {config.annotator!r}; have: {', '.join(have) or 'none'}")
    wanted = [record for record in records if config.annotator in ("", record.reply.annotator)]
    return Recorded(Path(config.file).name, wanted)


class Recorded:
    """Answers exactly what was answered before."""

    needs_pictures = False
    calls_per_question = 1
    priced = True

    def __init__(self, place: str, records: list[Record]) -> None:
        self._place, self._known = place, defaultdict[str, list[Record]](list)
        for record in records:
            self._known[_about(record.kind, record.items)].append(record)
        who = sorted({record.reply.annotator for record in records})
        self.name = f"recorded answers of {who[0] if len(who) == 1 else f'{len(who)} labelers'} ({place})"

    def content(self, query: Query) -> Mapping[str, object]:
        """Return the pair and the recorded answers to it, so that a file that has grown is asked anew."""
        found = [[canonical(r.content), *map(str, reply_to_row(r.reply).values())] for r in self._found(query)]
        return {
            "labeler": "recorded",
            "kind": query.kind.value,
            "instruction": query.instruction,
            "items": [item_to_json(item) for item in query.items],
            "recorded": sorted(digest(one) for one in found),
        }

    async def ask(self, query: Query) -> Reply:
        """Return the recorded answer; one that is missing or ambiguous cannot be read, and the text says why."""
        if query.kind is not Kind.PREFERENCE:
            raise ConfigError(f"recorded answers are to preference queries, not {query.kind.value}")
        found = self._found(query)
        if len(found) != 1:
            return Reply(None, self.name, text=self._why(query, found), cost=Cost(calls=1))
        reply = found[0].reply
        text = reply.text or (reply.answer.value if isinstance(reply.answer, Verdict) else "")
        return Reply(reply.answer, self.name, reply.probability, text, Cost(calls=1))

    async def close(self) -> None:
        """Do nothing: it holds nothing."""

    def _found(self, query: Query) -> list[Record]:
        known = self._known.get(_about(query.kind, query.items), [])
        return [record for record in known if record.asks(query.instruction)]

    def _why(self, query: Query, found: list[Record]) -> str:
        pair = " and ".join(map(str, query.items))
        if not found:
            return f"{self._place} holds no answer about {pair} in this order for {query.instruction!r}"
        who = ", ".join(sorted({record.reply.annotator for record in found}))
        return f"{self._place} holds {len(found)} answers about {pair}, by {who}: name one with labeler.annotator"


def read(location: str) -> list[Record]:
    """Return every readable answer of a file or ledger, the first one of each question.

    Raises:
        DataError: if there is nothing, or something else.
    """
    if "://" not in location and not Path(location).is_file():
        raise DataError(f"no recorded answers at {location}; wanted a .parquet, a .jsonl or a ledger")
    if location.endswith(".jsonl"):
        return _lines(Path(location))
    if not location.endswith(".parquet"):
        with Ledger(location) as ledger:
            return list(answered(ledger))
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "labels.db") as ledger:
        import_parquet(ledger, Path(location))
        return list(answered(ledger))


def answered(ledger: Ledger) -> Iterator[Record]:
    """Yield every pair or clip of a ledger with the first readable answer to its question, oldest answers first.

    Its cost is that of all replies to the question: those that could not be read, failed or came late were paid too.
    """
    question, reply, subject = schema.question, schema.reply, schema.subject
    with ledger.transaction(writes=False) as connection:
        first: dict[str, Reply] = {}
        paid: defaultdict[str, Cost] = defaultdict(Cost)
        for row in connection.execute(select(reply).order_by(reply.c.id)):
            one = reply_from_row(row)
            paid[row.question] += one.cost
            if one.answer is not None:
                first.setdefault(row.question, one)
        asked = {row.key: row for row in connection.execute(select(question))}
        about: defaultdict[tuple[str, str], list[list[Any]]] = defaultdict(list)
        for row in connection.execute(select(subject).order_by(*subject.primary_key.columns)):
            about[row.question, row.occurrence].append([row.position, row.episode, row.start, row.stop, row.camera])
    turn = {key: k for k, key in enumerate(first)}
    for (key, _), places in sorted(about.items(), key=lambda entry: turn.get(entry[0][0], len(turn))):
        if key in first:
            row = asked[key]
            cost = replace(paid[key], latency_s=first[key].cost.latency_s)
            told = replace(first[key], cost=cost)
            yield Record(_items(places), Kind(row.kind), json.loads(row.content), told, key)


def _items(places: list[list[Any]]) -> tuple[Item, ...]:
    """Return the items whose places the ledger keeps, in order."""
    sides: defaultdict[int, list[Item | Span]] = defaultdict(list)
    for position, episode, start, stop, camera in places:
        one = Frame(episode, start, camera) if stop is None else Span(episode, start, stop, camera)
        sides[position].append(one)
    return tuple(cast("Item", s[0] if isinstance(s[0], Frame) else tuple(s)) for _, s in sorted(sides.items()))


def _lines(path: Path) -> list[Record]:
    return [_line(line, f"{path}, line {n}") for n, line in enumerate(path.read_text().splitlines(), 1) if line.strip()]


def _line(line: str, where: str) -> Record:
    try:
        found = json.loads(line)
        items = (item_from_json(found["a"]), item_from_json(found["b"]))
        annotator, p = str(found.get("annotator", "a person")), found.get("probability")
        reply = Reply(Verdict(found["answer"]), annotator, None if p is None else float(p), str(found.get("text", "")))
        return Record(items, Kind.PREFERENCE, {"instruction": str(found["instruction"])}, reply)
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError, DataError) as e:
        answers = ", ".join(v.value for v in Verdict)
        raise DataError(f"{where} is no answer ({e!r}); wanted a, b, instruction and answer ({answers})") from e


def _about(kind: Kind, items: tuple[Item, ...]) -> str:
    return digest([kind.value, [item_to_json(item) for item in items]])
