"""`vlmrl label question=progress|yes|score|success`: answers about episodes become a reward column."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from vlmrl.annotate import JobReport, Ledger
from vlmrl.annotate.clips import ClipEnds
from vlmrl.annotate.query import Queries
from vlmrl.annotate.question import digest, item_to_json
from vlmrl.annotate.questions import ask_about, choose
from vlmrl.annotate.replies import Replies
from vlmrl.cli.ask import asked_once, left, unanswered, voters
from vlmrl.cli.asking import pick_prompt, pictures
from vlmrl.cli.columns import describe, refuse_other
from vlmrl.errors import ConfigError, LabelerError
from vlmrl.reward.answers import Threshold, calibrated, column, numbers
from vlmrl.runfolder import commit, masked, write_json
from vlmrl.store import Store
from vlmrl.store.strip import strip
from vlmrl.types import Cost, Query, Reply, Verdict

if TYPE_CHECKING:
    from vlmrl.cli.label import LabelConfig

READERS = ("openai", "transformers")
"""Labelers that are asked in words."""
MEANING = {
    "progress": "share of the task that is done",
    "yes": "probability that the attempt so far completes the task",
    "score": "how far the goal is reached, from 0 to 1",
    "success": "1 where the task is taken for done, else 0",
}


def answer(config: "LabelConfig", labeler: Mapping[str, Any], store: Store, *, camera: str, folder: Path) -> None:
    """Ask about every episode, write the answers as a reward column, and draw it beside the film.

    Raises:
        ConfigError: if the labeler or the store cannot be asked so.
        LabelerError: if it cannot go on, or no answer could be read.
    """
    if labeler["name"] not in READERS:
        raise ConfigError(
            f"question={config.question} is put in words, which {labeler['name']} does not read; have: "
            f"labeler={', '.join(READERS)} (vlmrl score lets the built-in judge score single pictures)"
        )
    queries = questions(config, store, camera)
    prompt = pick_prompt(store, config.question, config.ask)
    replies, reports, annotator = asked(config, labeler, store, queries, camera=camera, prompt=prompt)
    total, known = len(queries) * len(replies), sum(r is not None for some in replies for r in some)
    print(told(reports, replies, annotator))
    stops = [report.stopped_by for report in reports if report.stopped_by]
    if stops:
        print(
            f"stopped by {stops[0]}: {known} of {total} answers; run the same command again for the rest and the reward"
        )
        if "interrupt" in stops:
            raise KeyboardInterrupt
        return
    every = Queries(range(total), lambda place: queries[place % len(queries)])
    values = numbers(store, every, Replies(reply for some in replies for reply in some))
    if not np.isfinite(values[:, 1]).any():
        raise LabelerError(f"{annotator} gave no answer that can be read; its replies are in {masked(config.ledger)}")
    limit = calibrated(store, values, false_positives=config.false_positives) if config.question == "success" else None
    facts = provenance(config, store, replies, queries, camera=camera, prompt=prompt, annotator=annotator)
    name = config.name or f"{config.question}-{facts['snapshot'][:8]}"
    write(config, store, name, values, facts, limit)
    print(f"reward column {name!r}, {MEANING[config.question]}: {describe(store, name)}")
    if limit is not None:
        print(judged(limit))
    write_json(folder / "answers.json", summary(store, name, values, facts, reports, limit))
    if not config.draw:
        return
    path = folder / "strip.png"
    strip(store, name, camera, path, title=f"{config.question}, asked of {Path(labeler['model']).name}")
    print(f"film strip: {path}")


def questions(config: "LabelConfig", store: Store, camera: str) -> list[Query]:
    """What is asked, in the order of the store."""
    show = config.ask.shown(config.question)
    if config.ask.order != "single" or (config.question == "progress" and config.ask.trajectory):
        raise ConfigError(
            f"question={config.question} has no sides to exchange and draws no clips of shuffled pictures: "
            "leave ask.order (and ask.trajectory) out"
        )
    episodes = choose(store, camera, config.rows, sentence=config.sentence)
    clips = None if show == "frame" else ClipEnds(store, store.column("time"), seconds=config.ask.clip_s)
    rounds = config.ask.votes if config.question == "progress" else 1
    return ask_about(config.question, episodes, camera, clips=clips, seed=config.seed, rounds=rounds)


def asked(
    config: "LabelConfig",
    labeler: Mapping[str, Any],
    store: Store,
    queries: Sequence[Query],
    *,
    camera: str,
    prompt: str,
) -> tuple[list[Replies], list[JobReport], str]:
    """The replies of each vote to each question, what that took, and who gave them."""
    shuffled = config.question == "progress"
    answerers = voters(
        labeler, store, camera=camera, sentence="", prompt=prompt, votes=1 if shuffled else config.ask.votes
    )
    fill = pictures(store, config.ask, question=config.question, camera=camera)
    replies: list[Replies] = []
    reports: list[JobReport] = []
    with Ledger(config.ledger) as book:
        for answerer in answerers:
            limits = left(config.limits, reports)
            reports.append(asked_once(queries, answerer, book=book, limits=limits, pictures=fill))
            replies.append(book.standing(reports[-1].keys))
            if reports[-1].stopped_by == "interrupt":
                break
    return replies, reports, answerers[0].name


def told(reports: Sequence[JobReport], replies: Sequence[Replies], annotator: str) -> str:
    """One line a person reads after the job."""
    cost = sum((report.cost for report in reports), Cost())
    given = soft = unsure = bools = 0
    for reply in (reply for some in replies for reply in some if reply is not None):
        given, soft = given + 1, soft + (reply.probability is not None)
        unsure, bools = unsure + (reply.answer is Verdict.UNSURE), bools + isinstance(reply.answer, bool)
    kinds = f", {soft} with the probability of their tokens" if bools else ""
    served = ", ".join(sorted(set[str]().union(*(some.served for some in replies))))
    return (
        f"{annotator}: {sum(r.total for r in reports)} questions, {sum(r.cached for r in reports)} known before, "
        f"{sum(r.asked for r in reports)} asked now, {unanswered(reports)}; {given} answers{kinds}, {unsure} unsure; "
        f"{cost.calls} calls, {cost.prompt_tokens + cost.completion_tokens} tokens, ${cost.usd:.2f}, "
        f"{sum(r.seconds for r in reports):.0f} s" + (f"; served by {served}" if served else "")
    )


def provenance(
    config: "LabelConfig",
    store: Store,
    replies: Sequence[Sequence[Reply | None]],
    queries: Sequence[Query],
    *,
    camera: str,
    prompt: str,
    annotator: str,
) -> dict[str, Any]:
    """What the column records of its making."""
    said = [
        [[item_to_json(item) for item in query.items], query.instruction, _value(reply)]
        for some in replies
        for query, reply in zip(queries, some, strict=True)
    ]
    made = {
        "rewarder": f"labeler, question {config.question}",
        "meaning": MEANING[config.question],
        "labeler": annotator,
        "served": sorted({r.served for some in replies for r in some if r is not None and r.served}),
        "question": config.question,
        "prompt": prompt,
        "show": config.ask.shown(config.question),
        "votes": config.ask.votes,
        "rows": asdict(config.rows),
        "sentence": config.sentence or "each episode's recorded sentence",
        "camera": camera,
        "false_positives": config.false_positives,
        "data": store.data_hash,
    }
    return made | {"snapshot": digest([said, made])}


def write(
    config: "LabelConfig",
    store: Store,
    name: str,
    values: Float64[np.ndarray, "N 3"],
    facts: Mapping[str, Any],
    limit: Threshold | None,
) -> None:
    """Add the column, and of success questions the probabilities it was made of; those of this name stay.

    Raises:
        ConfigError: if a column of this name holds something else.
    """
    mean, std = column(store, values, fill=config.rows.fill)
    columns = {name: (mean, std, {"threshold": asdict(limit)} if limit else {})}
    if limit is not None:
        done = np.where(np.isnan(mean), np.nan, mean > limit.value).astype(np.float32)
        columns = {
            name: (done, np.where(np.isnan(mean), np.nan, 0).astype(np.float32), {"threshold": asdict(limit)}),
            f"{name}-probability": (mean, std, {}),
        }
    for key, (values_, deviation, more) in columns.items():
        if key in store.rewards():
            refuse_other(store, key, {"rewarder": facts["rewarder"], "snapshot": facts["snapshot"]})
        else:
            store.add_reward(key, values_, deviation, {**facts, **more, "commit": commit()})


def judged(limit: Threshold) -> str:
    """How the threshold was found, and how right it is where that is known."""
    text = f"success from {limit.value:.3f} on ({limit.rule})"
    if limit.known:
        text += f": right about {limit.right} of {limit.known} episodes with a known outcome"
        text += f", {limit.false_positives} of {limit.failed} failed ones taken for successes"
    return text


def summary(
    store: Store,
    name: str,
    values: Float64[np.ndarray, "N 3"],
    facts: Mapping[str, Any],
    reports: Sequence[JobReport],
    limit: Threshold | None,
) -> dict[str, Any]:
    """The answers by episode and row, for whoever reads the run folder."""
    rows, table = np.flatnonzero(np.isfinite(values[:, 1])), store.episodes
    owner = table.of_row(rows)
    return {
        **facts,
        "reward": name,
        "threshold": asdict(limit) if limit else None,
        "questions": sum(report.total for report in reports),
        "unreadable": sum(report.unreadable + report.refused + report.given_up for report in reports),
        "cost": asdict(sum((report.cost for report in reports), Cost())),
        "answers": [
            [table.id[e], int(row - table.start[e]), int(values[row, 0]), float(values[row, 1]), float(values[row, 2])]
            for row, e in zip(rows.tolist(), owner.tolist(), strict=True)
        ],
    }


def _value(reply: Reply | None) -> Any:
    if reply is None or reply.answer is None:
        return None
    answer = reply.answer.value if isinstance(reply.answer, Verdict) else reply.answer
    return [answer, reply.probability]
