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
from jaxtyping import Bool, Int64

from vlmrl.annotate import judge, true_progress
from vlmrl.annotate.query import sample_pairs
from vlmrl.annotate.trust import differences
from vlmrl.encoder import DualEncoder
from vlmrl.evaluate.collect import Config, collect, create_store
from vlmrl.evaluate.suites import Condition
from vlmrl.interval import LEVEL, Interval
from vlmrl.store import Store
from vlmrl.types import Frame, Query, Reply, Verdict

NOISE = (0.0, 0.2, 0.4, 0.6)
"""Share of random actions: better episodes than those of the data, as most pairs of bad ones are alike."""
_DRAWS = 2_000


@dataclass(frozen=True)
class Line:
    """The judge under one condition, on pairs whose truth differs."""

    label: str
    asked: int
    correct: Bool[np.ndarray, " n"]
    """Of the pairs in which it named a side."""
    episodes: Int64[np.ndarray, "n 2"]
    """Whose frames these pairs show."""

    def interval(self) -> Interval:
        """Share of correct answers, with the interval that other episodes would give (bootstrap over episodes)."""
        if not len(self.correct):
            return Interval(float("nan"), 0.0, 1.0)
        count = int(self.episodes.max()) + 1
        times = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=_DRAWS)
        a, b = self.episodes.T
        weight = np.where(a == b, times[:, a], times[:, a] * times[:, b])
        right, total = weight @ self.correct, weight.sum(axis=1)
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.percentile(right[total > 0] / total[total > 0], [tail, 100 - tail])
        return Interval(float(self.correct.mean()), float(low), float(high))


def examine(conditions: Sequence[Condition], checkpoint: str, *, episodes: int, pairs: int) -> tuple[str, list[Line]]:
    """Name the judge, and collect its answers under each condition."""
    encoder, name, lines = DualEncoder.load(checkpoint), "", list[Line]()
    for condition in conditions:
        with tempfile.TemporaryDirectory() as folder:
            store = create_store(Path(folder) / "store", condition.task)
            store.append(list(collect(condition.task, Config(episodes=episodes, noise=NOISE))))
            name, line = _ask(store, condition, encoder, checkpoint, pairs)
        lines.append(line)
    return name, lines


def _ask(store: Store, condition: Condition, encoder: DualEncoder, checkpoint: str, pairs: int) -> tuple[str, Line]:
    task, generator = condition.task, np.random.default_rng(0)
    queries = sample_pairs(store, task.camera, count=pairs, instruction=task.instruction, generator=generator)
    config, embed = judge.Config(checkpoint=checkpoint), judge.stored(store, task.camera, encoder)
    answerer = judge.build(config, encoder=encoder, embed=embed, instruction=task.instruction)
    replies = asyncio.run(_replies(answerer, queries))
    gap = differences(queries, true_progress(store))
    named = [reply.answer in (Verdict.A_BETTER, Verdict.B_BETTER) for reply in replies]
    kept = np.flatnonzero(named & (gap != 0))
    return answerer.name, Line(
        condition.label,
        int((gap != 0).sum()),
        np.array([(replies[k].answer is Verdict.A_BETTER) == (gap[k] > 0) for k in kept], np.bool_),
        np.array([[_episode(store, item) for item in queries[int(k)].items] for k in kept], np.int64).reshape(-1, 2),
    )


def _episode(store: Store, item: object) -> int:
    assert isinstance(item, Frame)
    return int(store.episodes.index(item.episode))


async def _replies(answerer: judge.Judge, queries: Sequence[Query]) -> list[Reply]:
    return [await answerer.ask(query) for query in queries]


def text(lines: Sequence[Line]) -> str:
    """The table as a terminal prints it."""
    width = max(len(line.label) for line in lines)
    rows = [f"{'condition':{width}}  right where it decides  decides"]
    for line in lines:
        rows.append(f"{line.label:{width}}  {line.interval().percent():22}  {len(line.correct)} of {line.asked}")
    return "\n".join(rows)


def as_json(lines: Sequence[Line]) -> list[dict[str, object]]:
    """Counts and rates."""
    return [
        {
            "condition": line.label,
            "correct": int(line.correct.sum()),
            "decided": len(line.correct),
            "asked": line.asked,
            "right": vars(line.interval()),
        }
        for line in lines
    ]
