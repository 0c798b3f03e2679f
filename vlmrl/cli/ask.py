"""Asks a labeler about pairs of a store, for the jobs that need answers, and measures how far to trust them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64
from tqdm import tqdm

from vlmrl import config as configuration
from vlmrl.annotate import JobReport, Ledger, Limits, Pictures, load_labeler, run_job, true_progress
from vlmrl.annotate.asking import Asking
from vlmrl.annotate.job import Fill
from vlmrl.annotate.polls import merged
from vlmrl.annotate.replies import Replies
from vlmrl.annotate.trust import Described, Trust, ask_swapped, differences, measure, rest
from vlmrl.annotate.truth import true_rows
from vlmrl.cli.view import View
from vlmrl.encoder import DualEncoder
from vlmrl.errors import ConfigError
from vlmrl.store import Store
from vlmrl.types import Cost, Labeler, Query, Reply, Verdict

VOTERS = ("openai",)
"""Labelers whose answers to the same question may differ, by `draw`."""


UNANSWERED = ("unreadable", "failed", "refused", "given_up")
"""Of the questions of a job, those that have no answer, by the reason."""


@dataclass(frozen=True)
class Asked:
    """What a labeler answered to some pairs, and how far to trust it on them."""

    report: JobReport
    """The job, with what further votes, the other order or the check of it took."""
    trust: Trust
    facts: Mapping[str, object]
    """What the labeler tells about itself."""
    cost: Cost
    """Of the answers to these pairs, whenever they were given."""
    replies: Replies
    """One to each pair, made of all that were given; their texts are in the ledger."""
    served: Sequence[str] = ()
    """Models that answered, as their servers call them."""
    fewer: int = 0
    """Replies made of fewer answers than was wanted: a limit cut votes or the other order, or they cannot be read."""


def ask(
    queries: Sequence[Query],
    answerer: Labeler | Sequence[Labeler],
    store: Store,
    *,
    book: Ledger,
    limits: Limits,
    check_order: int,
    difference: Float64[np.ndarray, " Q"] | None = None,
    asking: Asking | None = None,
    pictures: Fill | None = None,
) -> Asked:
    """Ask all pairs, in both orders if `asking` says so, else some; of several labelers each gives a vote.

    `difference` is the truth, by default the store's if any.

    Raises:
        LabelerError: if the labeler cannot go on; what was answered is kept.
    """
    voters = (answerer,) if isinstance(answerer, Labeler) else tuple(answerer)
    asking, pictures = asking or Asking(), pictures or Pictures(store)
    both = asking.order == "both"
    votes, swapped = list[Replies](), list[Replies]()
    reports: list[JobReport] = []
    for voter in voters:
        report = asked_once(queries, voter, book=book, limits=left(limits, reports), pictures=pictures)
        reports.append(report)
        votes.append(book.standing(report.keys))
        count = len(queries) if both else check_order if voter is voters[0] else 0
        count = 0 if report.stopped_by == "interrupt" else count
        turned, check = ask_swapped(
            queries, report, voter, ledger=book, limits=left(limits, reports), pictures=pictures, count=count
        )
        swapped.append(turned)
        reports.append(check)
        if "interrupt" in (report.stopped_by, check.stopped_by):
            break
    replies = merged(votes, swapped if both else [], disagree=asking.disagree)
    if difference is None and "truth/progress" in store.columns():
        at_end = asking.shown("preference") == "before_after"
        difference = differences(queries, true_progress(store, at_end=at_end))
    counted = votes + (swapped if both else [])
    times = (sum(some[i] is not None for some in counted) for i in range(len(queries)))
    return Asked(
        report=total(reports, replies),
        trust=measure(replies, swapped[0], difference=difference, first=votes[0]),
        facts=voters[0].facts if isinstance(voters[0], Described) else {},
        cost=sum((some.cost for some in votes), Cost()),
        replies=replies,
        served=sorted(set[str]().union(*(some.served for some in votes + swapped))),
        fewer=sum(0 < count < len(voters) * (2 if both else 1) for count in times),
    )


def asked_once(
    queries: Sequence[Query], answerer: Labeler, *, book: Ledger, limits: Limits, pictures: Fill
) -> JobReport:
    """One job, watched."""
    with View(answerer.name, limits) as view:
        return run_job(queries, answerer, ledger=book, limits=limits, pictures=pictures, progress=view.show)


def left(limits: Limits, reports: Sequence[JobReport]) -> Limits:
    """What jobs leave of their limits for the next."""
    for report in reports:
        limits = rest(limits, report)
    return limits


def total(reports: Sequence[JobReport], replies: Sequence[Reply | None]) -> JobReport:
    """The first job's report with what all took, and the verdicts as they stand in the end."""
    found = Counter(r.answer.value for r in replies if r is not None and isinstance(r.answer, Verdict))
    stops = [report.stopped_by for report in reports if report.stopped_by]
    return replace(
        reports[0],
        **{name: sum(getattr(r, name) for r in reports) for name in UNANSWERED},
        cost=sum((report.cost for report in reports), Cost()),
        seconds=sum(report.seconds for report in reports),
        verdicts={v.value: found[v.value] for v in Verdict},
        stopped_by="interrupt" if "interrupt" in stops else next(iter(stops), ""),
    )


def make_labeler(
    settings: Mapping[str, Any],
    store: Store,
    *,
    camera: str,
    sentence: str | Sequence[str],
    prompt: str = "",
) -> Labeler:
    """The labeler that a composed node describes; `prompt` is what it asks with unless its settings say."""
    module = load_labeler(settings["name"])
    if prompt and settings.get("prompt") == "":
        settings = {**settings, "prompt": prompt}
    config = configuration.build(module.Config, settings, where="labeler")
    if settings["name"] == "scripted":
        truth = true_rows(store)
        return module.build(config, truth=truth, typical=float(store.column("truth/progress").mean()))
    if settings["name"] == "judge":
        encoder = DualEncoder.load(config.checkpoint, device=config.device)
        with tqdm(desc=f"pictures for {encoder.name}", unit="picture", dynamic_ncols=True, delay=1) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            embed = module.stored(store, camera, encoder, progress=show)
        return module.build(config, encoder=encoder, embed=embed, instruction=sentence)
    return module.build(config)


def voters(
    settings: Mapping[str, Any],
    store: Store,
    *,
    camera: str,
    sentence: str | Sequence[str],
    prompt: str,
    votes: int,
) -> list[Labeler]:
    """One labeler for each vote.

    Raises:
        ConfigError: if it would answer every time alike.
    """
    if votes > 1 and settings["name"] not in VOTERS:
        raise ConfigError(f"ask.votes={votes}: {settings['name']} always answers alike; have: {', '.join(VOTERS)}")
    if votes > 1 and not settings["temperature"] > 0:
        raise ConfigError(f"ask.votes={votes}: at labeler.temperature=0 all votes are the same; say for example 0.7")
    draws = [{"draw": settings["draw"] + vote} if votes > 1 else {} for vote in range(votes)]
    return [
        make_labeler({**settings, **draw}, store, camera=camera, sentence=sentence, prompt=prompt) for draw in draws
    ]


def unanswered(reports: Sequence[JobReport]) -> str:
    """Which questions have no answer, and how they get one."""
    count = {name: sum(getattr(r, name) for r in reports) for name in UNANSWERED}
    again = " (limits.retry_refused=true asks those again)" if count["refused"] + count["given_up"] else ""
    return (
        f"{count['unreadable']} unreadable, {count['failed']} failed, {count['refused']} refused, "
        f"{count['given_up']} given up before{again}"
    )


def describe(report: JobReport) -> str:
    """One line a person reads after a labeling job."""
    verdicts = ", ".join(f"{name} {count}" for name, count in sorted(report.verdicts.items()))
    return (
        f"{report.labeler}: {report.total} questions, {report.cached} known before, {report.asked} asked now, "
        f"{unanswered([report])}; verdicts: {verdicts or 'none'}; "
        f"{report.cost.calls} calls, {report.cost.prompt_tokens + report.cost.completion_tokens} tokens, "
        f"${report.cost.usd:.2f}, {report.seconds:.0f} s"
    )
