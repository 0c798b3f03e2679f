"""Asks a labeler about pairs of a store, for the jobs that need answers, and measures how far to trust them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64
from tqdm import tqdm

from vlmrl import config as configuration
from vlmrl.annotate import JobReport, Ledger, Limits, Pictures, Tally, load_labeler, run_job, true_progress
from vlmrl.annotate.trust import Described, Trust, ask_swapped, differences, measure
from vlmrl.encoder import DualEncoder
from vlmrl.store import Store
from vlmrl.types import Cost, Labeler, Query


@dataclass(frozen=True)
class Asked:
    """What a labeler answered to some pairs, and how far to trust it on them."""

    report: JobReport
    """The job, with what the check of the order took."""
    trust: Trust
    facts: Mapping[str, object]
    """What the labeler tells about itself."""
    cost: Cost
    """Of the answers to these pairs, whenever they were given."""


def ask(
    queries: Sequence[Query],
    answerer: Labeler,
    store: Store,
    *,
    book: Ledger,
    limits: Limits,
    check_order: int,
    difference: Float64[np.ndarray, " Q"] | None = None,
) -> Asked:
    """Ask all pairs, and some with their sides swapped; `difference` is the truth, by default the store's if any.

    Raises:
        LabelerError: if the labeler cannot go on; what was answered is kept.
    """
    pictures = Pictures(store)
    with progress_bar(answerer.name) as bar:
        report = run_job(queries, answerer, ledger=book, limits=limits, pictures=pictures, progress=bar.show)
    count = 0 if report.stopped_by == "interrupt" else check_order
    swapped, check = ask_swapped(queries, report, answerer, ledger=book, limits=limits, pictures=pictures, count=count)
    if difference is None and "truth/progress" in store.columns():
        difference = differences(queries, true_progress(store))
    answers = book.answers(report.keys)
    trust = measure([answers.get(key) for key in report.keys], swapped, difference=difference)
    stopped = "interrupt" if check.stopped_by == "interrupt" else report.stopped_by
    report = replace(report, cost=report.cost + check.cost, seconds=report.seconds + check.seconds, stopped_by=stopped)
    facts = answerer.facts if isinstance(answerer, Described) else {}
    return Asked(report, trust, facts, sum((reply.cost for reply in answers.values()), Cost()))


def make_labeler(settings: Mapping[str, Any], store: Store, *, camera: str, sentence: str) -> Labeler:
    """The labeler that a composed node describes."""
    module = load_labeler(settings["name"])
    config = configuration.build(module.Config, settings, where="labeler")
    if settings["name"] == "scripted":
        return module.build(config, truth=true_progress(store))
    if settings["name"] == "judge":
        encoder = DualEncoder.load(config.checkpoint, device=config.device)
        with tqdm(desc=f"pictures for {encoder.name}", unit="picture", dynamic_ncols=True, delay=1) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            embed = module.stored(store, camera, encoder, progress=show)
        return module.build(config, encoder=encoder, embed=embed, instruction=sentence)
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
