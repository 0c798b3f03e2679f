"""`vlmrl label`: ask a labeler about pairs of frames of a store, distill the answers, write the reward back."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlmrl import config as configuration
from vlmrl.annotate import (
    JobReport,
    Ledger,
    Limits,
    sample_pairs,
    true_progress,
)
from vlmrl.annotate.comparisons import Config as Comparisons
from vlmrl.annotate.comparisons import import_comparisons
from vlmrl.annotate.people.settled import people_above
from vlmrl.annotate.trust import Trust
from vlmrl.cli.ask import ask, describe, make_labeler
from vlmrl.errors import ConfigError, LabelerError
from vlmrl.reward import preference
from vlmrl.reward.distill import distill
from vlmrl.reward.relabel import relabel
from vlmrl.runfolder import Metrics, masked, provenance, write_json
from vlmrl.store import Store
from vlmrl.types import Frame, Preferences, Query


@dataclass(frozen=True)
class LabelConfig:
    """Settings of a labeling job."""

    store: str = ""
    """Folder of the store."""
    sentence: str | None = None
    """What the robot should do; null: the sentence recorded with the data."""
    camera: str | None = None
    """Whose pictures are judged; null: the store's first."""
    labeler: Any = None
    """Who answers."""
    pairs: int = 5_000
    check_order: int = 50
    """Pairs that are asked again with their sides swapped, to see whether the order matters."""
    seed: int = 0
    """Which pairs are drawn, and the first weights of the reward."""
    ledger: str = "runs/labels.db"
    """Where answers are kept: a file, or the URL of a database that several machines share."""
    limits: Limits = field(default_factory=Limits)
    comparisons: Comparisons = field(default_factory=Comparisons)
    """Comparisons of segments that people made; where a file is named, nobody else is asked."""
    distill: bool = True
    """Whether a reward is trained on the answers and written into the store."""
    reward: preference.Config = field(default_factory=preference.Config)


@dataclass(frozen=True)
class Labels:
    """What a labeling job leaves for the next stages."""

    queries: Sequence[Query]
    report: JobReport
    preferences: Preferences
    trust: Trust
    facts: Mapping[str, object]
    """What the labeler tells about itself."""


def main(content: Mapping[str, Any], folder: Path) -> None:
    """Run the job that a composed configuration describes."""
    if not content["store"]:
        raise ConfigError("label needs a store: vlmrl label store=FOLDER (vlmrl data import makes one)")
    config = configuration.build(LabelConfig, content, where="label")
    store = Store.open(config.store)
    write_json(folder / "config.json", masked(dict(content)))
    write_json(folder / "meta.json", provenance() | {"store": store.hash})
    if config.comparisons.file:
        preferences = from_people(config, store)
        looks = config.distill and config.reward.input in ("image", "embedding")
        camera = pick_camera(store, config.camera) if looks else ""
    else:
        camera = pick_camera(store, config.camera)
        preferences = from_labeler(config, content["labeler"], store, camera, folder)
    if config.distill:
        learn(config, store, preferences, camera, folder)


def from_people(config: LabelConfig, store: Store) -> Preferences:
    """Labels that lie in a file, through the ledger."""
    with Ledger(config.ledger) as book:
        sentence = pick_sentence(store, config.sentence)
        preferences = import_comparisons(book, store, config.comparisons, instruction=sentence)
    ties = int((preferences.p_a == 0.5).sum())
    print(f"{len(preferences):,} comparisons by {preferences.annotator}, {ties:,} of them ties")
    return preferences


def from_labeler(
    config: LabelConfig, labeler: Mapping[str, Any], store: Store, camera: str, folder: Path
) -> Preferences:
    """Labels that are asked for; the run folder gets what is known of them."""
    labels = annotate(
        store,
        labeler,
        camera=camera,
        sentence=pick_sentence(store, config.sentence),
        pairs=config.pairs,
        seed=config.seed,
        ledger=config.ledger,
        limits=config.limits,
        check_order=config.check_order,
    )
    print(describe(labels.report))
    print(f"on these data: {labels.trust}")
    write_json(folder / "labels.json", as_json(labels, store))
    if labels.report.stopped_by:
        print(f"stopped by {labels.report.stopped_by}: run the same command again to go on where it stopped")
    if labels.report.stopped_by == "interrupt":
        raise KeyboardInterrupt
    return labels.preferences


def learn(config: LabelConfig, store: Store, preferences: Preferences, camera: str, folder: Path) -> None:
    """Distill labels into a reward, and write it into the store."""
    metrics = Metrics(folder / "metrics.jsonl")
    rewarder = distill(store, preferences, config.reward, camera=camera, seed=config.seed, metrics=metrics)
    rewarder.save_pretrained(folder / "reward")
    name = column(preferences, rewarder)
    relabel(store, rewarder, name)
    print(f"reward column {name!r}: held out {quality(rewarder.facts['held_out'])}; model in {folder / 'reward'}")


def annotate(
    store: Store,
    labeler: Mapping[str, Any],
    *,
    camera: str,
    sentence: str,
    pairs: int,
    seed: int,
    ledger: str,
    limits: Limits,
    check_order: int,
) -> Labels:
    """Draw pairs, ask what the ledger does not know, freeze the answers, and measure how far to trust them.

    Raises:
        LabelerError: if the labeler cannot go on; what was answered is kept.
    """
    generator = np.random.default_rng(seed)
    queries = sample_pairs(store, camera, count=pairs, instruction=sentence, generator=generator)
    with Ledger(ledger) as book:
        answerer = make_labeler(labeler, store, camera=camera, sentence=sentence)
        asked = ask(queries, answerer, store, book=book, limits=limits, check_order=check_order)
        if not any(v for k, v in asked.report.verdicts.items() if k != "unsure"):
            report = asked.report
            raise LabelerError(
                f"{answerer.name} gave no usable answer to {report.total} questions "
                f"({report.given_up} given up after {limits.attempts} unreadable replies each: limits.attempts allows "
                f"more, labeler.draw=1 asks anew); its replies are in {masked(ledger)}"
            )
        people = people_above(book, queries, asked.report.keys)
        preferences = book.snapshot(queries, asked.report.keys, above=people)
    return Labels(queries, asked.report, preferences, asked.trust, asked.facts)


def quality(held_out: Mapping[str, float]) -> str:
    """The held-out figures of a reward in words."""
    if not held_out.get("pairs"):
        return "nothing (reward.holdout=0)"
    if "accuracy" not in held_out:
        return f"{held_out['pairs']:.0f} ties only: nothing to be right about"
    return (
        f"accuracy {held_out['accuracy']:.3f} of {held_out['pairs'] - held_out['ties']:.0f} pairs without ties, "
        f"log-loss {held_out['log_loss']:.3f}, calibration error {held_out['calibration_error']:.3f}, "
        f"disagreement {held_out['disagreement']:.3f}"
    )


def column(preferences: Preferences, rewarder: preference.PreferenceReward) -> str:
    """Name of the reward column: it tells labels, seed and settings apart."""
    settings = hashlib.sha256(repr(rewarder.config).encode()).hexdigest()
    return f"preference-{preferences.snapshot[:8]}-{settings[:4]}-seed{rewarder.facts['seed']}"


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


def as_json(labels: Labels, store: Store) -> dict[str, Any]:
    """The answers for the report: who, how many, and how right they are where the truth is known."""
    report = labels.report
    content: dict[str, Any] = {
        "labeler": report.labeler,
        "judge": dict(labels.facts),
        "trust": labels.trust.as_json(),
        "total": report.total,
        "verdicts": dict(report.verdicts),
        "stopped_by": report.stopped_by,
        "unreadable": report.unreadable,
        "calls": report.cost.calls,
        "tokens": report.cost.prompt_tokens + report.cost.completion_tokens,
        "usd": report.cost.usd,
        "seconds": report.seconds,
        "snapshot": labels.preferences.snapshot,
        "pairs": [
            {"a": [a.episode, a.row], "b": [b.episode, b.row], "p_a": float(p)}
            for a, b, p in zip(labels.preferences.a, labels.preferences.b, labels.preferences.p_a, strict=True)
            if isinstance(a, Frame) and isinstance(b, Frame)
        ],
    }
    if "truth/progress" in store.columns():
        truth = true_progress(store)
        content["truth"] = [
            [truth(a), truth(b)] for a, b in zip(labels.preferences.a, labels.preferences.b, strict=True)
        ]
    return content
