"""Comparisons of segments that people made, as Uni-RLHF publishes them (Yuan et al. 2024), into the ledger.

An npz with `first_start`, `second_start` and `label`, one entry a comparison: the first steps of two segments of one
length, counted over all episodes of the data set in their order, and 0 where the first was better, 1 where the second
was, -1 where the person had no preference. Segments may cross the border of two episodes: such a side is two spans.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Int64

from vlmrl.annotate.ledger import Asked, Ledger
from vlmrl.annotate.question import item_to_json, question_key
from vlmrl.errors import DataError
from vlmrl.store import Store
from vlmrl.types import Kind, Preferences, Query, Reply, Span, Verdict

LABELS = {0: Verdict.A_BETTER, 1: Verdict.B_BETTER, -1: Verdict.TIE}
_ARRAYS = ("first_start", "second_start", "label")


@dataclass(frozen=True)
class Config:
    """Comparisons that people made of segments of a store's episodes."""

    file: str = ""
    """File .npz with first_start, second_start and label."""
    steps: int = 50
    """Of a segment."""
    annotator: str = "people"
    """Who compared."""


def import_comparisons(ledger: Ledger, store: Store, config: Config, *, instruction: str) -> Preferences:
    """Write down the comparisons, once however often this is called, and return the snapshot of them all.

    Raises:
        DataError: if the file is damaged, or a segment reaches beyond the store's steps.
    """
    asked = read(store, config, instruction=instruction)
    keys = [question.key for question, _ in asked]
    ledger.register([question for question, _ in asked], labeler=config.annotator)
    known = ledger.answers(keys)
    ledger.record([(question.key, reply) for question, reply in asked if question.key not in known])
    return ledger.snapshot([question.query for question, _ in asked], keys)


def read(store: Store, config: Config, *, instruction: str) -> list[tuple[Asked, Reply]]:
    """The questions that were asked and their answers, in the file's order."""
    path = Path(config.file)
    arrays, content = _arrays(path), hashlib.sha256(path.read_bytes()).hexdigest()
    steps = np.flatnonzero(store.column("has_action"))
    found: list[tuple[Asked, Reply]] = []
    for number, (a, b, label) in enumerate(zip(*(arrays[name].tolist() for name in _ARRAYS), strict=True)):
        for start in (a, b):
            if not 0 <= start <= len(steps) - config.steps:
                reach = f"{config.steps} steps from {start}, but the store has {len(steps)}"
                raise DataError(f"{path}, comparison {number}: {reach}")
        if label not in LABELS:
            raise DataError(f"{path}, comparison {number}: label {label}; wanted 0 (first), 1 (second) or -1 (neither)")
        sides = tuple(_spans(store, steps[start : start + config.steps]) for start in (a, b))
        about = {
            "labeler": config.annotator,
            "instruction": instruction,
            "file": content,
            "comparison": number,
            "items": [item_to_json(item) for item in sides],
        }
        question = Asked(question_key(about), about, Query(Kind.PREFERENCE, sides, instruction))
        found.append((question, Reply(LABELS[label], config.annotator, text=str(label))))
    return found


def _spans(store: Store, rows: Int64[np.ndarray, " n"]) -> tuple[Span, ...]:
    """Consecutive steps as one span an episode."""
    table, owner = store.episodes, store.episodes.of_row(rows)
    found: list[Span] = []
    for episode in dict.fromkeys(owner.tolist()):
        own = (rows - table.start[episode])[owner == episode]
        found.append(Span(table.id[episode], int(own[0]), int(own[-1]) + 1, ""))
    return tuple(found)


def _arrays(path: Path) -> dict[str, Int64[np.ndarray, " Q"]]:
    if not path.is_file():
        raise DataError(f"{path} is missing; wanted comparisons as .npz")
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except (BadZipFile, ValueError, OSError, EOFError, AttributeError) as error:
        raise DataError(f"{path} cannot be read as .npz: {error}") from error
    if missing := [name for name in _ARRAYS if name not in arrays]:
        raise DataError(f"{path} has no {missing[0]}; have: {', '.join(sorted(arrays)) or 'nothing'}")
    lengths = {name: arrays[name].shape for name in _ARRAYS}
    if len({*lengths.values()}) != 1 or arrays["label"].ndim != 1 or not len(arrays["label"]):
        raise DataError(f"{path}: one number a comparison wanted, found {lengths}")
    return {name: arrays[name].astype(np.int64) for name in _ARRAYS}
