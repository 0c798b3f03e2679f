"""How often the built-in judge is right on a task's pictures under the conditions of a robustness suite.

The same graded episodes are played under every condition and the same pairs of frames are asked about, so that what
differs are the pictures. A pair's two frames may be of two episodes, which see the scene each in its own way.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlmrl.annotate import judge, true_progress
from vlmrl.annotate.audit import Confusion, confusion
from vlmrl.annotate.query import sample_pairs
from vlmrl.annotate.trust import differences
from vlmrl.encoder import DualEncoder
from vlmrl.evaluate.collect import Config, collect, create_store
from vlmrl.evaluate.suites import Condition
from vlmrl.store import Store
from vlmrl.types import Query, Reply


@dataclass(frozen=True)
class Line:
    """The judge under one condition."""

    label: str
    answers: Confusion

    @property
    def asked(self) -> int:
        """Pairs whose truth differs."""
        return int(self.answers.counts[:2].sum())


def examine(conditions: Sequence[Condition], checkpoint: str, *, episodes: int, pairs: int) -> tuple[str, list[Line]]:
    """Name the judge, and count its answers under each condition."""
    encoder, name, lines = DualEncoder.load(checkpoint), "", list[Line]()
    for condition in conditions:
        with tempfile.TemporaryDirectory() as folder:
            store = create_store(Path(folder) / "store", condition.task)
            store.append(list(collect(condition.task, Config(episodes=episodes))))
            name, answers = _ask(store, condition, encoder, checkpoint, pairs)
        lines.append(Line(condition.label, answers))
    return name, lines


def _ask(
    store: Store, condition: Condition, encoder: DualEncoder, checkpoint: str, pairs: int
) -> tuple[str, Confusion]:
    task = condition.task
    generator = np.random.default_rng(0)
    queries = sample_pairs(store, task.camera, count=pairs, instruction=task.instruction, generator=generator)
    embed = judge.stored(store, task.camera, encoder)
    answerer = judge.build(
        judge.Config(checkpoint=checkpoint), encoder=encoder, embed=embed, instruction=task.instruction
    )
    replies = asyncio.run(_replies(answerer, queries))
    return answerer.name, confusion(replies, differences(queries, true_progress(store)))


async def _replies(answerer: judge.Judge, queries: Sequence[Query]) -> list[Reply]:
    return [await answerer.ask(query) for query in queries]


def text(lines: Sequence[Line]) -> str:
    """The table as a terminal prints it; intervals take pairs as independent, which they are not quite."""
    width = max(len(line.label) for line in lines)
    rows = [f"{'condition':{width}}  right where it decides  decides"]
    for line in lines:
        low, high = line.answers.interval()
        right = f"{100 * line.answers.rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
        rows.append(f"{line.label:{width}}  {right:22}  {line.answers.decided} of {line.asked}")
    return "\n".join(rows)


def as_json(lines: Sequence[Line]) -> list[dict[str, object]]:
    """Counts and rates."""
    return [
        {
            "condition": line.label,
            "correct": line.answers.correct,
            "decided": line.answers.decided,
            "asked": line.asked,
            "interval": list(line.answers.interval()),
        }
        for line in lines
    ]
