"""`vlmrl label`: ask a labeler about pairs or single episodes of a store, and write a reward made of the answers."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vlmrl import config as configuration
from vlmrl.annotate import (
    JobReport,
    Ledger,
    Limits,
    true_progress,
)
from vlmrl.annotate.asking import Asking
from vlmrl.annotate.choice import Config as Choice
from vlmrl.annotate.comparisons import Config as Comparisons
from vlmrl.annotate.comparisons import import_comparisons
from vlmrl.annotate.frozen import freeze
from vlmrl.annotate.people.settled import people_above
from vlmrl.annotate.questions import Rows
from vlmrl.annotate.replies import Replies
from vlmrl.annotate.trust import Trust
from vlmrl.cli import dryrun
from vlmrl.cli.ask import Asked, ask, asked_once, describe, left, voters
from vlmrl.cli.asking import pick_prompt, pictures
from vlmrl.cli.choosing import Drawing, by_sentence, check, chosen, draw, pick_camera, pick_sentence, plain
from vlmrl.cli.questions import answer
from vlmrl.errors import ConfigError, LabelerError
from vlmrl.reward import preference
from vlmrl.reward.distill import distill
from vlmrl.reward.relabel import relabel
from vlmrl.runfolder import Metrics, masked, provenance, write_json
from vlmrl.store import Store
from vlmrl.types import Frame, Item, Preferences, Query, Reply, Span


@dataclass(frozen=True)
class LabelConfig:
    """Settings of a labeling job."""

    store: str = ""
    """Folder of the store."""
    question: Literal["preference", "progress", "yes", "score", "success"] = "preference"
    """preference: which of two is closer to the goal, distilled into a reward. The others are about single episodes,
    and their answers are the reward: progress of shuffled pictures, yes: the probability that the attempt so far
    completes the task, score: a number from 0 to 1, success: whether it is done, with a calibrated threshold."""
    ask: Asking = field(default_factory=Asking)
    """How a question is put."""
    rows: Rows = field(default_factory=Rows)
    """Where questions about single episodes are asked."""
    false_positives: float | None = None
    """Of question=success: share of failed episodes that may ever be rewarded; null: the threshold that tells the known
    outcomes apart best."""
    name: str = ""
    """Of the reward column of a question about single episodes; empty: made from the answers."""
    draw: bool = True
    """Whether such a column is drawn beside the film, in strip.png."""
    sentence: str | None = None
    """What the robot should do; null: the sentence recorded with each episode."""
    camera: str | None = None
    """Whose pictures are judged; null: the store's first."""
    labeler: Any = None
    """Who answers."""
    pairs: int = 5_000
    """Of question=preference."""
    choice: Choice = field(default_factory=Choice)
    """Which pairs."""
    check_order: int = 50
    """Pairs that are asked again with their sides swapped, to see whether the order matters; with ask.order=both
    all are."""
    seed: int = 0
    """Which pairs are drawn, how pictures are shuffled, and the first weights of the reward."""
    ledger: str = "runs/labels.db"
    """Where answers are kept: a file, or the URL of a database that several machines share."""
    limits: Limits = field(default_factory=Limits)
    dry_run: bool = False
    """Only estimate calls, tokens, cost and time (also `--dry-run`); of question=preference."""
    sample: int = 10
    """Questions that a dry run asks to know, within the limits; their answers are kept. 0: none is asked, and tokens
    are guessed from the sizes of texts and pictures."""
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
    served: Sequence[str] = ()
    """Models that answered, as their servers call them."""
    fewer: int = 0
    """Pairs whose label is made of fewer answers than was wanted."""
    show: str = "frame"
    """How the items were shown."""
    audit: Preferences | None = None
    """Labels of pairs that nothing is trained on."""


def main(content: Mapping[str, Any], folder: Path) -> None:
    """Run the job that a composed configuration describes."""
    if not content["store"]:
        raise ConfigError("label needs a store: vlmrl label store=FOLDER (vlmrl data import makes one)")
    config = configuration.build(LabelConfig, content, where="label")
    store = Store.open(config.store)
    write_json(folder / "config.json", masked(dict(content)))
    write_json(folder / "meta.json", provenance() | {"store": store.hash})
    if config.dry_run and (config.question != "preference" or config.comparisons.file):
        raise ConfigError("dry_run is for question=preference and a labeler")
    if config.question != "preference":
        answer(config, content["labeler"], store, camera=pick_camera(store, config.camera), folder=folder)
        return
    if config.comparisons.file:
        preferences = from_people(config, store, folder)
        looks = config.distill and config.reward.input in ("image", "embedding")
        camera = pick_camera(store, config.camera) if looks else ""
    else:
        check_ends(config)
        camera = pick_camera(store, config.camera)
        if config.dry_run:
            sentences = list(by_sentence(store, config.sentence))
            check(config.choice, config.ask, sentences)
            queries = draw(store, camera, config.sentence, config.pairs, config.seed, config.ask)
            dryrun.main(config, content["labeler"], store, camera, sentences, queries, folder)
            return
        preferences = from_labeler(config, content["labeler"], store, camera, folder)
    if config.distill:
        learn(config, store, preferences, camera, folder)


def check_ends(config: LabelConfig) -> None:
    """Refuse to train the sum over a clip on answers about its end.

    Raises:
        ConfigError: if it would be.
    """
    ends = config.ask.shown("preference") == "before_after"
    if ends and config.distill and config.reward.model not in ("last", "segment"):
        raise ConfigError(
            f"answers about before and after are about the end of a clip, reward.model={config.reward.model} adds up "
            "its rows: say reward.model=last"
        )


def from_people(config: LabelConfig, store: Store, folder: Path) -> Preferences:
    """Labels that lie in a file, through the ledger; the run folder gets them too."""
    with Ledger(config.ledger) as book:
        sentence = pick_sentence(store, config.sentence)
        preferences = import_comparisons(book, store, config.comparisons, instruction=sentence)
    ties = int((preferences.p_a == 0.5).sum())
    print(f"{len(preferences):,} comparisons by {preferences.annotator}, {ties:,} of them ties")
    told = {"labeler": preferences.annotator, "snapshot": preferences.snapshot, "pairs": pairs_as_json(preferences)}
    write_json(folder / "labels.json", told)
    return preferences


def from_labeler(
    config: LabelConfig, labeler: Mapping[str, Any], store: Store, camera: str, folder: Path
) -> Preferences:
    """Labels that are asked for; the run folder gets what is known of them."""
    labels = annotate(
        store,
        labeler,
        camera=camera,
        sentence=config.sentence,
        pairs=config.pairs,
        seed=config.seed,
        ledger=config.ledger,
        limits=config.limits,
        check_order=config.check_order,
        asking=config.ask,
        choice=config.choice,
        reward=config.reward,
        metrics=folder / "rounds.jsonl",
    )
    print(describe(labels.report))
    if how := several(config.ask):
        print(how)
    if labels.fewer:
        print(f"{labels.fewer} of these labels are made of fewer answers than that")
    if len(labels.served) > 1:
        print(f"these answers come of different models: {', '.join(labels.served)}")
    print(f"on these data: {labels.trust}")
    write_json(folder / "labels.json", as_json(labels, store))
    if labels.audit is not None:
        print(f"{len(labels.audit)} labels of audit pairs are kept from training: {folder / 'labels.json'}")
    if labels.report.stopped_by:
        print(stopped(labels.report))
    if labels.report.stopped_by == "interrupt":
        raise KeyboardInterrupt
    return labels.preferences


def stopped(report: JobReport) -> str:
    """Why a job ended early, and how it goes on."""
    cut = f"; {report.cut} questions in flight were cut and will be asked again" if report.cut else ""
    more = "" if report.stopped_by == "interrupt" else f" with a larger limits.{report.stopped_by}"
    return f"stopped by {report.stopped_by}{cut}: run the same command again{more} to go on where it stopped"


def several(asking: Asking) -> str:
    """How one label was made of several answers; empty where it is one answer."""
    rule = {"tie": "are ties", "drop": "are dropped", "mean": "get the mean of both probabilities"}[asking.disagree]
    orders = f"in both orders (pairs whose orders name different sides {rule})" if asking.order == "both" else ""
    times = f"{asking.votes} times (probabilities are shares of the votes)" if asking.votes > 1 else ""
    return f"each pair was asked {' and '.join(filter(None, [orders, times]))}" if orders or times else ""


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
    sentence: str | None,
    pairs: int,
    seed: int,
    ledger: str,
    limits: Limits,
    check_order: int,
    asking: Asking | None = None,
    choice: Choice | None = None,
    reward: preference.Config | None = None,
    metrics: Path | None = None,
) -> Labels:
    """Choose pairs, ask what the ledger does not know, freeze the answers, and measure how far to trust them.

    `reward` and `metrics` are for the rewards that choice trains in between.

    Raises:
        LabelerError: if the labeler cannot go on; what was answered is kept.
    """
    asking = asking or Asking()
    choice, sentences = choice or Choice(), list(by_sentence(store, sentence))
    check(choice, asking, sentences)
    prompt = pick_prompt(store, "preference", asking)
    fill = pictures(store, asking, question="preference", camera=camera)
    with Ledger(ledger) as book:
        answerers = voters(labeler, store, camera=camera, sentence=sentences, prompt=prompt, votes=asking.votes)
        audit, before = 0, list[JobReport]()
        if plain(choice):
            queries: Sequence[Query] = draw(store, camera, sentence, pairs, seed, asking)
        else:
            found = chosen(
                Drawing(store, camera, sentences[0], seed, choice),
                pairs,
                book=book,
                labeler=answerers[0].name,
                ask_about=lambda some, jobs: asked_once(
                    some, answerers[0], book=book, limits=left(limits, jobs), pictures=fill
                ),
                reward=reward or preference.Config(),
                metrics=metrics or Path(os.devnull),
            )
            audit, before, queries = len(found.audit), found.reports, found.audit + found.train
        asked = ask(
            queries,
            answerers,
            store,
            book=book,
            limits=left(limits, before),
            check_order=check_order,
            asking=asking,
            pictures=fill,
        )
        people = people_above(book, queries, asked.report.keys)
    asked = replace(asked, report=together(asked.report, before))
    refuse_useless(asked.report, limits, masked(ledger))
    return settled(queries, asked, people, audit=audit, show=asking.shown("preference"))


def refuse_useless(report: JobReport, limits: Limits, ledger: str) -> None:
    """End where nothing was answered that can be trained on.

    Raises:
        KeyboardInterrupt: if that is because of an interrupt.
        LabelerError: if it is not.
    """
    if report.stopped_by == "interrupt" and not any(report.verdicts.values()):
        raise KeyboardInterrupt
    if not any(v for k, v in report.verdicts.items() if k != "unsure"):
        raise LabelerError(
            f"{report.labeler} gave no usable answer to {report.total} questions "
            f"({report.refused + report.given_up} refused or, after {limits.attempts} unreadable replies, given up: "
            f"limits.retry_refused=true asks them again, labeler.draw=1 all anew); its replies are in {ledger}"
        )


def settled(queries: Sequence[Query], asked: Asked, people: Mapping[str, Reply], *, audit: int, show: str) -> Labels:
    """The labels of pairs, the first `audit` of them kept from training; what people said stands above the labeler."""
    keys, replies = asked.report.keys, asked.replies
    if people:
        replies = Replies(people.get(key, reply) for key, reply in zip(keys, replies, strict=True))
    train = freeze(queries[audit:], keys[audit:], replies[audit:])
    kept = freeze(queries[:audit], keys[:audit], replies[:audit]) if audit else None
    return Labels(queries[audit:], asked.report, train, asked.trust, asked.facts, asked.served, asked.fewer, show, kept)


def together(last: JobReport, before: Sequence[JobReport]) -> JobReport:
    """The last of several jobs about ever more of the same pairs, with what all of them took."""
    asked = sum(report.asked for report in before)
    return replace(
        last,
        asked=last.asked + asked,
        cached=last.cached - asked,
        cost=sum((report.cost for report in before), last.cost),
        seconds=last.seconds + sum(report.seconds for report in before),
        stopped_by=last.stopped_by or next((report.stopped_by for report in before if report.stopped_by), ""),
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


def as_json(labels: Labels, store: Store) -> dict[str, Any]:
    """The answers for the report: who, how many, and how right they are where the truth is known."""
    report = labels.report
    content: dict[str, Any] = {
        "labeler": report.labeler,
        "judge": dict(labels.facts),
        "served": list(labels.served),
        "show": labels.show,
        "trust": labels.trust.as_json(),
        "total": report.total,
        "verdicts": dict(report.verdicts),
        "stopped_by": report.stopped_by,
        "fewer_answers": labels.fewer,
        "unreadable": report.unreadable,
        "refused": report.refused,
        "given_up": report.given_up,
        "calls": report.cost.calls,
        "tokens": report.cost.prompt_tokens + report.cost.completion_tokens,
        "usd": report.cost.usd,
        "seconds": report.seconds,
        "snapshot": labels.preferences.snapshot,
        "pairs": pairs_as_json(labels.preferences),
    }
    if (held := labels.audit) is not None:
        content["audit"] = pairs_as_json(held)
    if "truth/progress" in store.columns():
        truth = true_progress(store, at_end=labels.show == "before_after")
        content["truth"] = [
            [truth(a), truth(b)] for a, b in zip(labels.preferences.a, labels.preferences.b, strict=True)
        ]
    return content


def pairs_as_json(preferences: Preferences) -> list[dict[str, Any]]:
    """Both sides of each pair, and the probability that a is better."""
    return [
        {"a": side_as_json(a), "b": side_as_json(b), "p_a": float(p)}
        for a, b, p in zip(preferences.a, preferences.b, preferences.p_a, strict=True)
    ]


def side_as_json(item: Item) -> list[Any]:
    """Episode and row of a frame, or episode, first and last row (exclusive) of each span of a clip."""
    if isinstance(item, Frame):
        return [item.episode, item.row]
    return [value for span in item for value in (span.episode, span.start, span.stop)]


def side_from_json(value: Sequence[Any], camera: str) -> Item:
    """The item that `side_as_json` wrote."""
    if len(value) == 2:
        return Frame(str(value[0]), int(value[1]), camera)
    spans = [value[i : i + 3] for i in range(0, len(value), 3)]
    return tuple(Span(str(episode), int(start), int(stop), camera) for episode, start, stop in spans)
