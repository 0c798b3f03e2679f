"""What a labeling job asks about: whose pictures, by which sentence, which pairs; audit, extension, active choice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from vlmrl.annotate import JobReport, Ledger, sample_pairs
from vlmrl.annotate.asking import Asking
from vlmrl.annotate.choice import Config, Rows, choose
from vlmrl.annotate.clips import ClipEnds
from vlmrl.annotate.frozen import freeze
from vlmrl.annotate.known import known_pairs
from vlmrl.annotate.query import FramePairs, Queries, joined
from vlmrl.errors import ConfigError
from vlmrl.reward import preference
from vlmrl.reward.distill import distill
from vlmrl.reward.inputs import load_input
from vlmrl.reward.network import score
from vlmrl.reward.scorer import Scorer
from vlmrl.runfolder import Metrics
from vlmrl.store import Store
from vlmrl.types import Query

_CHUNK = 2048
"""Rows held at once."""


def pick_camera(store: Store, wanted: str | None) -> str:
    """The camera asked for, or the store's first.

    Raises:
        ConfigError: if the store has no such camera.
    """
    if not store.cameras:
        raise ConfigError(f"{store.path} has no pictures: labels need at least one camera")
    if wanted is not None and wanted not in store.cameras:
        raise ConfigError(f"unknown camera {wanted!r}; have: {', '.join(store.cameras)}")
    return wanted or store.cameras[0]


def pick_sentence(store: Store, wanted: str | None) -> str:
    """The sentence asked for, or the one that all episodes share.

    Raises:
        ConfigError: if there is no single sentence.
    """
    recorded = sorted(set(store.episodes.instruction))
    if wanted is None and (len(recorded) != 1 or not recorded[0]):
        raise ConfigError(f"say what the robot should do: sentence='...'; the store has: {recorded}")
    return wanted or recorded[0]


def by_sentence(store: Store, wanted: str | None) -> dict[str, list[str]]:
    """Ids of the episodes that are about each sentence; all are about the one that is asked for.

    Raises:
        ConfigError: if an episode has none and none is asked for.
    """
    table = store.episodes
    if wanted is None and not all(table.instruction):
        raise ConfigError("some episodes have no recorded sentence: say what the robot should do, sentence='...'")
    found: dict[str, list[str]] = {}
    for id, own in zip(table.id, table.instruction, strict=True):
        found.setdefault(wanted or own, []).append(id)
    return dict(sorted(found.items()))


def draw(store: Store, camera: str, sentence: str | None, pairs: int, seed: int, asking: Asking) -> Sequence[Query]:
    """The pairs to ask about: of episodes with the same sentence, where each has its own."""
    generator = np.random.default_rng(seed)
    show = asking.shown("preference")
    ends = None if show == "frame" else ClipEnds(store, store.column("time"), seconds=asking.clip_s)
    groups = by_sentence(store, sentence)
    if len(groups) == 1 and ends is None and asking.order != "random":
        return sample_pairs(store, camera, count=pairs, instruction=next(iter(groups)), generator=generator)
    shares = np.array([len(ids) for ids in groups.values()]) / len(store.episodes)
    counts = np.diff(np.round(pairs * np.cumsum([0.0, *shares])).astype(int)).tolist()
    queries = joined(
        [
            sample_pairs(
                ends or store,
                camera,
                count=count,
                instruction=goal,
                generator=generator,
                episodes=None if len(groups) == 1 else ids,
            )
            for (goal, ids), count in zip(groups.items(), counts, strict=True)
        ]
    )
    if asking.order == "random":
        queries = turned(queries, generator.random(pairs) < 0.5)
    return ends.about(queries) if ends else queries


def turned(queries: Sequence[Query], which: Bool[np.ndarray, " Q"]) -> Queries:
    """Queries of which some have their sides exchanged."""
    return Queries(range(len(queries)), lambda i: queries[i].swapped() if which[i] else queries[i])


@dataclass(frozen=True)
class Chosen:
    """The pairs of a labeling job."""

    audit: FramePairs
    """Never trained on."""
    train: FramePairs
    reports: list[JobReport] = field(default_factory=list[JobReport])
    """What asking in between took."""


@dataclass(frozen=True)
class Drawing:
    """What the pairs are drawn from."""

    store: Store
    camera: str
    sentence: str
    seed: int
    config: Config


def plain(config: Config) -> bool:
    """Whether a uniform draw is all that is wanted."""
    return config.method == "uniform" and not config.audit and not config.extend


def check(config: Config, asking: Asking, sentences: Sequence[str]) -> None:
    """Refuse what cannot be chosen.

    Raises:
        ConfigError: if the questions are about clips, or of several sentences.
    """
    if plain(config):
        return
    if asking.shown("preference") != "frame":
        raise ConfigError(f"choice.method, audit and extend are for pairs of frames; ask.show is {asking.show}")
    if len(sentences) > 1:
        raise ConfigError(f"choice.method, audit and extend want one sentence='...'; the store has: {list(sentences)}")


def chosen(
    drawing: Drawing,
    pairs: int,
    *,
    book: Ledger,
    labeler: str,
    ask_about: Callable[[FramePairs, Sequence[JobReport]], JobReport],
    reward: preference.Config,
    metrics: Path,
) -> Chosen:
    """Draw the audit, take what the ledger holds if wanted, and choose the rest in rounds.

    `ask_about` runs a job about pairs, within what the jobs before it left of the limits.

    Raises:
        KeyboardInterrupt: if such a job was interrupted: the rest of the pairs must not be paid for.
    """
    config, store = drawing.config, drawing.store
    audit, episodes = _audit(drawing)
    rows = np.empty((0, 2), np.int64)
    if config.extend:
        rows = _of(known_pairs(book, store, drawing.camera, labeler=labeler), store, episodes)[:pairs]
    generator, reports = np.random.default_rng(drawing.seed), list[JobReport]()
    rounds = 1 if config.method == "uniform" else config.rounds
    for number, count in enumerate(np.diff(np.round(np.linspace(len(rows), pairs, rounds + 1))).astype(int).tolist()):
        if not count:
            continue
        if config.method == "uniform" or (number == 0 and not len(rows)):
            rows = np.concatenate([rows, _drawn(drawing, count, episodes, rows, generator).rows])
            continue
        train = FramePairs(store, drawing.camera, drawing.sentence, rows)
        reports.append(ask_about(audit + train, reports))
        if reports[-1].stopped_by == "interrupt":
            raise KeyboardInterrupt
        if reports[-1].stopped_by:
            break
        keys = reports[-1].keys[len(audit) :]
        labels = freeze(train, keys, book.standing(keys))
        rewarder = distill(
            store, labels, reward, camera=drawing.camera, seed=drawing.seed, metrics=Metrics(metrics),
            name=f"round {number}", quiet=True,
        )  # fmt: skip
        opinion = EnsembleOpinion(store, rewarder.scorer)
        most = min(config.pool * count, _left(drawing, episodes, rows))
        candidates = _drawn(drawing, most, episodes, rows, generator).rows
        best = choose(config.method, candidates, count=count, opinion=opinion, known=rows, generator=generator)
        rows = np.concatenate([rows, candidates[best]])
    return Chosen(audit, FramePairs(store, drawing.camera, drawing.sentence, rows), reports)


class EnsembleOpinion:
    """A trained ensemble's scores and features of all frames of a store, computed once."""

    def __init__(self, store: Store, scorer: Scorer) -> None:
        """Look at every row that the reward's input can judge."""
        looks, where = load_input(scorer.config.input), scorer.source
        self._rows: Int64[np.ndarray, " N"] = looks.rows(store, where)
        scores, features = list[np.ndarray](), list[np.ndarray]()
        for start in range(0, len(self._rows), _CHUNK):
            stack = looks.read(store, where, self._rows[start : start + _CHUNK])
            scores.append(score(scorer.network, stack))
            with torch.inference_mode():
                features.append(scorer.network.features(torch.from_numpy(stack)).flatten(1).float().numpy())
        self._scores, self._features = np.concatenate(scores), np.concatenate(features)

    def members(self, rows: Int64[np.ndarray, " N"]) -> Float[np.ndarray, "N M"]:
        """Return each member's score of each frame."""
        return self._scores[self._places(rows)]

    def features(self, rows: Int64[np.ndarray, " N"]) -> Float[np.ndarray, "N D"]:
        """Return what the trunks make of each frame."""
        return self._features[self._places(rows)]

    def _places(self, rows: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
        """The place of each row, or of the last judged one before it."""
        return np.maximum(np.searchsorted(self._rows, rows, side="right") - 1, 0)


def _audit(drawing: Drawing) -> tuple[FramePairs, list[str]]:
    """The audit pairs, and the episodes that remain for training."""
    config, ids = drawing.config, list(drawing.store.episodes.id)
    generator = np.random.default_rng([drawing.seed, 1])
    empty = np.empty((0, 2), np.int64)
    if not config.audit:
        return FramePairs(drawing.store, drawing.camera, drawing.sentence, empty), ids
    kept = max(1, round(config.audit_episodes * len(ids)))
    if kept >= len(ids):
        raise ConfigError(f"choice.audit keeps {kept} episodes for itself, and the store has {len(ids)}")
    places = set(generator.permutation(len(ids))[:kept].tolist())
    own = [name for i, name in enumerate(ids) if i in places]
    rest = [name for i, name in enumerate(ids) if i not in places]
    return _drawn(drawing, config.audit, own, empty, generator), rest


def _drawn(
    drawing: Drawing, count: int, episodes: Sequence[str], without: Rows, generator: np.random.Generator
) -> FramePairs:
    return sample_pairs(
        drawing.store,
        drawing.camera,
        count=count,
        instruction=drawing.sentence,
        generator=generator,
        episodes=episodes,
        without=without,
    )


def _left(drawing: Drawing, episodes: Sequence[str], rows: Rows) -> int:
    framed = drawing.store.frame_rows(drawing.camera)
    table = drawing.store.episodes
    own = sum(
        int(np.diff(np.searchsorted(framed, [table.start[i], table.stop[i]]))[0]) for i in map(table.index, episodes)
    )
    return own * (own - 1) // 2 - len(rows)


def _of(rows: Rows, store: Store, episodes: Sequence[str]) -> Rows:
    """The pairs of which both sides are of these episodes."""
    inside = np.isin(np.asarray(store.episodes.id), list(episodes))
    return rows[inside[store.episodes.of_row(rows.reshape(-1))].reshape(-1, 2).all(1)]
