"""`vlmrl label audit`: how far to trust everybody who answered in a ledger, on the pairs of one store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlmrl import config as configuration
from vlmrl.annotate import Ledger, true_progress
from vlmrl.annotate.agreement import shown_episodes
from vlmrl.annotate.assessment.columns import column_opinions
from vlmrl.annotate.assessment.figures import Reference, Slices, assess, persons
from vlmrl.annotate.assessment.joined import join_answers
from vlmrl.annotate.assessment.page import write
from vlmrl.annotate.assessment.text import text
from vlmrl.annotate.audit import DIGITS
from vlmrl.annotate.opinions import Judged, Opinion, gather, read_opinions, spent
from vlmrl.annotate.people.review import quality
from vlmrl.errors import ConfigError, DataError
from vlmrl.runfolder import masked, provenance, write_json
from vlmrl.store import Store
from vlmrl.types import Frame, Verdict


@dataclass(frozen=True)
class AuditConfig:
    """Settings of an audit of labels."""

    store: str = ""
    """Folder of the store that the labels are about."""
    ledger: str = "runs/labels.db"
    """Where the answers are."""
    against: Literal["auto", "truth", "people"] = "auto"
    """What right means: the store's true progress, or what people said; auto: the truth where the store has it."""
    people: tuple[str, ...] = ("people",)
    """Annotators that are people, beside everybody at the page: the names of imported comparisons."""
    columns: tuple[str, ...] = ()
    """Columns of the store as judges, such as truth/reward or reward/COLUMN: the side with the larger sum is better."""
    disagree: Literal["tie", "drop", "mean"] = "tie"
    """How a labeler's several answers to a pair become one label (`NAME, joined`): ask.disagree of the labeling job."""
    sentence: str | None = None
    """Only labels for this sentence; null: all."""


def main(content: Mapping[str, Any], folder: Path) -> None:
    """Run the audit that a composed configuration describes."""
    if not content["store"]:
        raise ConfigError("audit needs a store: vlmrl label audit store=FOLDER ledger=runs/labels.db")
    config = configuration.build(AuditConfig, content, where="audit")
    store = Store.open(config.store)
    pairs = judged_pairs(config, store)
    with Ledger(config.ledger) as ledger:
        paid = spent(ledger, store, sentence=config.sentence)
    names = sorted({o.annotator for j in pairs for o in j.opinions})
    people = persons(names, config.people)
    joined = join_answers(pairs, [name for name in names if name not in people], disagree=config.disagree)
    right = reference(config, store, pairs, people)
    found = assess(pairs, right, slices(store, pairs), people=people, paid=paid, joined=joined)
    found |= {"store": config.store, "crossing": [j.pair.id for j in pairs if crossing(j)]}
    write_json(folder / "config.json", masked(dict(content)))
    write_json(folder / "meta.json", provenance() | {"store": store.hash})
    write_json(folder / "audit.json", found)
    print(text(found))
    print(f"\npage: {write(folder / 'audit.html', found)}\nfigures: {folder / 'audit.json'}")


def judged_pairs(config: AuditConfig, store: Store) -> list[Judged]:
    """All pairs of the store with what was said about them, by columns too.

    Raises:
        DataError: if there is none.
    """
    with Ledger(config.ledger) as ledger:
        opinions = read_opinions(ledger, store, sentences=[config.sentence] if config.sentence else [])
    kept: list[Opinion] = [o for o in opinions if config.sentence in (None, o.shown.sentence)]
    if not kept:
        raise DataError(
            f"{masked(config.ledger)} holds no answer about pairs of {config.store}: run a labeling job first"
        )
    pairs = gather(kept)
    for column in config.columns:
        for judged, opinion in _matched(pairs, column_opinions(store, column, pairs)):
            judged.opinions.append(opinion)
    return pairs


def reference(config: AuditConfig, store: Store, pairs: Sequence[Judged], people: Sequence[str]) -> Reference:
    """What right means.

    Raises:
        ConfigError: if it is asked for and not there.
    """
    truth = _progress(store, pairs)
    if config.against == "truth" or (config.against == "auto" and truth is not None):
        if truth is None:
            raise ConfigError(f"{config.store} has no true progress of these pairs; use against=people")
        return Reference("the simulator's true progress", truth, graded=True)
    if not people:
        have = "no truth and no answers of people" if config.against == "auto" else "no answers of people"
        print(f"{config.store}: {have}; only consistency, agreement and cost are known")
    return Reference("people said", lambda judged: _said(judged, people), graded=False, annotators=frozenset(people))


def slices(store: Store, pairs: Sequence[Judged]) -> Slices:
    """Divisions of the pairs among which accuracies may differ."""
    table = store.episodes

    def outcome(judged: Judged) -> str:
        return quality([int(table.success[table.index(e)]) for e in _shown(judged)])

    found: dict[str, Callable[[Judged], str]] = {
        "border": lambda j: "crossing an episode's border" if crossing(j) else "clean",
        "episodes": outcome,
        "task": lambda j: ", ".join(sorted({table.task[table.index(e)] for e in _shown(j)})),
        "sentence": lambda j: j.pair.sentence,
        "within": lambda j: "one episode" if len(_shown(j)) == 1 else "different episodes",
    }
    return {title: part for title, part in found.items() if len({part(j) for j in pairs}) > 1}


def crossing(judged: Judged) -> bool:
    """Whether a clip jumps from one episode to another: what people are to make of that is another question."""
    return any(isinstance(item, tuple) and len(item) > 1 for item in (judged.pair.a, judged.pair.b))


def _shown(judged: Judged) -> frozenset[str]:
    return shown_episodes((judged.pair.a, judged.pair.b))


def _progress(store: Store, pairs: Sequence[Judged]) -> Callable[[Judged], float | None] | None:
    if "truth/progress" not in store.columns() or not any(_frames(j) for j in pairs):
        return None
    progress = true_progress(store)

    def gap(judged: Judged) -> float | None:
        if not _frames(judged):
            return None
        a, b = (round(progress(item), DIGITS) for item in (judged.pair.a, judged.pair.b))
        return round(a - b, DIGITS)

    return gap


def _frames(judged: Judged) -> bool:
    return isinstance(judged.pair.a, Frame) and isinstance(judged.pair.b, Frame)


def _said(judged: Judged, people: Sequence[str]) -> float | None:
    """What people said blind: 1 for a, -1 for b, 0 for a tie or a split vote."""
    votes = [o.verdict for name in people if (o := judged.by(name)) and o.verdict is not Verdict.UNSURE]
    sign = votes.count(Verdict.A_BETTER) - votes.count(Verdict.B_BETTER)
    return float((sign > 0) - (sign < 0)) if votes else None


def _matched(pairs: Sequence[Judged], opinions: Sequence[Opinion]) -> list[tuple[Judged, Opinion]]:
    by_id = {judged.pair.id: judged for judged in pairs}
    return [(by_id[o.shown.id], o) for o in opinions]
