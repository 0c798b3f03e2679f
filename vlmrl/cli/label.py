"""`vlmrl label`: ask a labeler about pairs of frames of a store, distill the answers, write the reward back."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vlmrl import config as configuration
from vlmrl.annotate import (
    JobReport,
    Ledger,
    Limits,
    Pictures,
    Tally,
    load_labeler,
    run_job,
    sample_pairs,
    true_progress,
)
from vlmrl.errors import ConfigError, LabelerError
from vlmrl.reward import preference
from vlmrl.reward.distill import distill
from vlmrl.reward.relabel import relabel
from vlmrl.runfolder import Metrics, masked, provenance, write_json
from vlmrl.store import Store
from vlmrl.types import Frame, Labeler, Preferences, Query


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
    seed: int = 0
    """Which pairs are drawn, and the first weights of the reward."""
    ledger: str = "runs/labels.db"
    """Where answers are kept: a file, or the URL of a database that several machines share."""
    limits: Limits = field(default_factory=Limits)
    distill: bool = True
    """Whether a reward is trained on the answers and written into the store."""
    reward: preference.Config = field(default_factory=preference.Config)


@dataclass(frozen=True)
class Labels:
    """What a labeling job leaves for the next stages."""

    queries: Sequence[Query]
    report: JobReport
    preferences: Preferences


def main(content: Mapping[str, Any], folder: Path) -> None:
    """Run the job that a composed configuration describes."""
    if not content["store"]:
        raise ConfigError("label needs a store: vlmrl label store=FOLDER (vlmrl data import makes one)")
    config = configuration.build(LabelConfig, content, where="label")
    store = Store.open(config.store)
    camera = pick_camera(store, config.camera)
    write_json(folder / "config.json", masked(dict(content)))
    write_json(folder / "meta.json", provenance() | {"store": store.hash})
    labels = annotate(
        store,
        content["labeler"],
        camera=camera,
        sentence=pick_sentence(store, config.sentence),
        pairs=config.pairs,
        seed=config.seed,
        ledger=config.ledger,
        limits=config.limits,
    )
    print(describe(labels.report))
    if labels.report.stopped_by:
        print(f"stopped by {labels.report.stopped_by}: run the same command again to go on where it stopped")
    if labels.report.stopped_by == "interrupt":
        raise KeyboardInterrupt
    if config.distill:
        metrics = Metrics(folder / "metrics.jsonl")
        rewarder = distill(store, labels.preferences, config.reward, camera=camera, seed=config.seed, metrics=metrics)
        rewarder.save_pretrained(folder / "reward")
        name = column(labels.preferences, rewarder)
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
) -> Labels:
    """Draw pairs, ask what the ledger does not know, and freeze the answers.

    Raises:
        LabelerError: if the labeler cannot go on; what was answered is kept.
    """
    generator = np.random.default_rng(seed)
    queries = sample_pairs(store, camera, count=pairs, instruction=sentence, generator=generator)
    with Ledger(ledger) as book:
        answerer = make_labeler(labeler, store)
        with progress_bar(answerer.name) as bar:
            report = run_job(queries, answerer, ledger=book, limits=limits, pictures=Pictures(store), progress=bar.show)
        if not any(v for k, v in report.verdicts.items() if k != "unsure"):
            raise LabelerError(
                f"{answerer.name} gave no usable answer to {report.total} questions "
                f"({report.given_up} given up after {limits.attempts} unreadable replies each: limits.attempts allows "
                f"more, labeler.draw=1 asks anew); its replies are in {masked(ledger)}"
            )
        return Labels(queries, report, book.snapshot(queries, report.keys))


def make_labeler(settings: Mapping[str, Any], store: Store) -> Labeler:
    """The labeler that a composed node describes."""
    module = load_labeler(settings["name"])
    config = configuration.build(module.Config, settings, where="labeler")
    if settings["name"] == "scripted":
        return module.build(config, truth=true_progress(store))
    return module.build(config)


class progress_bar:  # reads as the function it stands for
    """Shows a labeling job: questions, rate, time left, tokens and cost."""

    def __init__(self, name: str) -> None:
        self._bar = tqdm(desc=name, unit="question", dynamic_ncols=True, mininterval=0.2)

    def __enter__(self) -> "progress_bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, tally: Tally) -> None:
        """Draw one state of the job."""
        self._bar.total, self._bar.initial = tally.total, tally.cached
        self._bar.n = tally.done
        cost = tally.cost
        tokens = cost.prompt_tokens + cost.completion_tokens
        self._bar.set_postfix_str(f"{tokens} tokens, ${cost.usd:.2f}, {tally.unreadable} unreadable", refresh=False)
        self._bar.update(0)


def describe(report: JobReport) -> str:
    """One line a person reads after a labeling job."""
    verdicts = ", ".join(f"{name} {count}" for name, count in sorted(report.verdicts.items()))
    return (
        f"{report.labeler}: {report.total} questions, {report.cached} known before, {report.asked} asked now, "
        f"{report.unreadable} unreadable, {report.given_up} given up; verdicts: {verdicts or 'none'}; "
        f"{report.cost.calls} calls, {report.cost.prompt_tokens + report.cost.completion_tokens} tokens, "
        f"${report.cost.usd:.2f}, {report.seconds:.0f} s"
    )


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
