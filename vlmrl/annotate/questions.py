"""Questions about single episodes: which rows are asked about, and in which words the answers come back.

- progress: the pictures of an attempt, shuffled, beside its first: how much is done in each (GVL, Ma et al. 2024);
- yes: at each row, whether the attempt so far completes the task; the answer is P(yes) (TOPReward, 2026, scores the
  log-probability of "True");
- score: at each row, a number from 0 to 1 (the VLM Score baseline of RL-VLM-F);
- success: at each row, whether the task is completed there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from vlmrl.annotate.clips import ClipEnds
from vlmrl.annotate.query import FrameStore
from vlmrl.errors import ConfigError, DataError
from vlmrl.types import Frame, Item, Kind, Query, Span

KINDS = {"progress": Kind.PROGRESS, "yes": Kind.SUCCESS, "score": Kind.SCORE, "success": Kind.SUCCESS}


@dataclass(frozen=True)
class Rows:
    """Which rows a question about single episodes is asked at."""

    an_episode: int = 12
    """Most rows an episode, evenly spaced over its pictures, the last among them; 0: every row with a picture."""
    fill: str = "linear"
    """What rows between them get: linear interpolates, none leaves them without a value (NaN)."""

    def __post_init__(self) -> None:
        if self.an_episode < 0 or self.fill not in ("linear", "none"):
            raise ConfigError(
                f"rows: an_episode {self.an_episode}, fill {self.fill!r} given; wanted at least 0, and linear or none"
            )


@dataclass(frozen=True)
class Episodes:
    """Episodes of a store with the rows that are asked about."""

    ids: tuple[str, ...]
    sentences: tuple[str, ...]
    first: tuple[int, ...]
    """First row of each that has a picture, counted within the episode, as the next."""
    rows: tuple[tuple[int, ...], ...]


def choose(store: FrameStore, camera: str, rows: Rows, *, sentence: str | None) -> Episodes:
    """Return the rows of each episode that has two pictures or more; null takes each episode's own sentence.

    The first picture of an episode is not asked about: the reward of a row judges what the next row shows.

    Raises:
        DataError: if there is no such episode.
        ConfigError: if an episode has no sentence and none is given.
    """
    table, framed = store.episodes, store.frame_rows(camera)
    found: list[tuple[str, str, int, tuple[int, ...]]] = []
    for id, own, start, stop in zip(table.id, table.instruction, table.start, table.stop, strict=True):
        shown = framed[slice(*np.searchsorted(framed, [start, stop]))] - start
        if len(shown) < 2:
            continue
        if not (sentence or own):
            raise ConfigError(f"episode {id!r} has no recorded sentence: say what the robot should do, sentence='...'")
        found.append((id, sentence or own, int(shown[0]), _spread(shown[1:], rows.an_episode)))
    if not found:
        raise DataError(f"no episode has two pictures of camera {camera!r}: there is nothing to ask about")
    ids, sentences, first, chosen = zip(*found, strict=True)
    return Episodes(ids, sentences, first, chosen)


def ask_about(
    question: str, episodes: Episodes, camera: str, *, clips: ClipEnds | None, seed: int, rounds: int = 1
) -> list[Query]:
    """Return the questions; `clips` makes clips of the rows, None asks about frames.

    Progress is asked `rounds` times, every time shuffled anew.
    """
    if question == "progress":
        generator = np.random.default_rng(seed)
        return [query for _ in range(rounds) for query in _shuffled(episodes, camera, generator)]
    return [
        Query(KINDS[question], (_item(question, id, first, row, camera, clips),), sentence)
        for id, sentence, first, own in zip(*_columns(episodes), strict=True)
        for row in own
    ]


def _columns(episodes: Episodes) -> tuple[Sequence[Any], ...]:
    return episodes.ids, episodes.sentences, episodes.first, episodes.rows


def _shuffled(episodes: Episodes, camera: str, generator: np.random.Generator) -> Iterator[Query]:
    for id, sentence, first, own in zip(*_columns(episodes), strict=True):
        order = generator.permutation(len(own))
        frames = [Frame(id, first, camera), *(Frame(id, own[i], camera) for i in order)]
        yield Query(Kind.PROGRESS, tuple(frames), sentence)


def _item(question: str, id: str, first: int, row: int, camera: str, clips: ClipEnds | None) -> Item:
    if clips is None:
        return Frame(id, row, camera)
    if question == "yes":
        return (Span(id, first, row + 1, camera),)
    return clips.clip(Frame(id, row, camera))


def _spread(rows: Int64[np.ndarray, " M"], most: int) -> tuple[int, ...]:
    if not most or len(rows) <= most:
        return tuple(rows.tolist())
    return tuple(rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))].tolist())
