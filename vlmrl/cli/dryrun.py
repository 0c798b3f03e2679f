"""`vlmrl label dry_run=true`: what a labeling job would take, from a sample of its questions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmrl.annotate import Ledger, Limits
from vlmrl.annotate.estimate import PIXELS, Amount, Estimate, estimate
from vlmrl.annotate.job import Fill, Metered
from vlmrl.annotate.openai import OpenAI
from vlmrl.annotate.question import question_key
from vlmrl.cli.ask import asked_once, voters
from vlmrl.cli.asking import pick_prompt, pictures
from vlmrl.errors import LabelerError
from vlmrl.runfolder import write_json
from vlmrl.store import Store
from vlmrl.types import Cost, Labeler, Query

if TYPE_CHECKING:
    from vlmrl.cli.label import LabelConfig

_LOOKED_AT = 200
"""Questions whose answers are looked for in the ledger."""


def main(
    config: "LabelConfig",
    settings: Mapping[str, Any],
    store: Store,
    camera: str,
    sentences: Sequence[str],
    queries: Sequence[Query],
    folder: Path,
) -> None:
    """Ask a sample, and say what the whole would take."""
    prompt = pick_prompt(store, "preference", config.ask)
    fill = pictures(store, config.ask, question="preference", camera=camera)
    labeler = voters(settings, store, camera=camera, sentence=sentences, prompt=prompt, votes=config.ask.votes)[0]
    order = np.random.default_rng(config.seed).permutation(len(queries))[:_LOOKED_AT]
    looked = [queries[i] for i in order.tolist()]
    with Ledger(config.ledger) as book:
        unknown = unanswered(looked, labeler, book, fill, limits=config.limits)
        sample = unknown[: config.sample]
        costs = asked(config, sample, labeler, book, fill) if sample else guessed(labeler, unknown, fill)
    whole = number(config, len(queries))
    rest = round(whole * len(unknown) / max(1, len(looked)))
    found = estimate(costs, rest, limits=config.limits, per_minute=paces(settings))
    print(text(config, labeler, found, whole=whole, looked=len(looked), asked=len(sample)))
    write_json(folder / "estimate.json", asdict(found))


def number(config: "LabelConfig", pairs: int) -> int:
    """Questions of the whole job."""
    pairs += config.choice.audit
    both = config.ask.order == "both"
    return config.ask.votes * pairs * (2 if both else 1) + (0 if both else min(config.check_order, pairs))


def paces(settings: Mapping[str, Any]) -> list[tuple[float | None, str]]:
    """What a labeler's settings allow a minute, on all its servers."""
    servers = max(1, len(settings.get("base_urls") or ()))
    limits = {"calls": settings.get("requests_per_minute"), "tokens": settings.get("tokens_per_minute")}
    return [(servers * limit if limit else None, what) for what, limit in limits.items()]


def unanswered(queries: Sequence[Query], labeler: Labeler, book: Ledger, fill: Fill, *, limits: Limits) -> list[Query]:
    """Those of some queries that the job would ask: the ledger has no answer to them, and they were not given up."""
    sees = not isinstance(labeler, Metered) or labeler.needs_pictures
    found: list[Query] = []
    for start in range(0, len(queries), limits.batch):
        some = queries[start : start + limits.batch]
        keys = [question_key(labeler.content(query)) for query in (fill(some) if sees else some)]
        done = book.settled(keys, attempts=limits.attempts, retry_refused=limits.retry_refused)
        known = {*done.answered, *done.given_up}
        found += [query for query, key in zip(some, keys, strict=True) if key not in known]
    return found


def asked(config: "LabelConfig", sample: Sequence[Query], labeler: Labeler, book: Ledger, fill: Fill) -> list[Cost]:
    """What the sample's questions took.

    Raises:
        LabelerError: if none was answered.
    """
    report = asked_once(sample, labeler, book=book, limits=config.limits, pictures=fill)
    if report.stopped_by == "interrupt":
        raise KeyboardInterrupt
    replies = [book.replies(key)[-1:] for key in dict.fromkeys(report.keys)]
    costs = [reply.cost for some in replies for reply in some if reply.cost.calls]
    if not costs:
        errors = [reply.error for some in replies for reply in some if reply.error]
        raise LabelerError(f"no question of the sample was answered: {(errors or [report.stopped_by])[-1]}")
    return costs


def guessed(labeler: Labeler, queries: Sequence[Query], fill: Fill) -> list[Cost]:
    """What some questions might take, by the sizes of texts and pictures; a call each where there is no server."""
    if not queries:
        return []
    return [labeler.guess(query) for query in fill(queries[:20])] if isinstance(labeler, OpenAI) else [Cost(calls=1)]


def text(config: "LabelConfig", labeler: Labeler, found: Estimate, *, whole: int, looked: int, asked: int) -> str:
    """The table that a terminal prints."""
    how = f"{asked} questions asked now, their answers kept in the ledger"
    if not asked:
        how = f"none asked: tokens guessed, one for {PIXELS} pixels or 4 letters, answers at their longest"
    rows = [
        ("", "each", "all", "95 % interval"),
        _row("calls", found.calls, 0),
        _row("prompt tokens", found.prompt_tokens, 0),
        _row("completion tokens", found.completion_tokens, 0),
        _row("USD", found.usd, 2),
        _times(found, known=asked > 0),
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    table = [
        f"  {row[0].ljust(widths[0])}  " + "  ".join(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    lines = [
        f"dry run of {labeler.name}",
        f"{whole:,} questions, about {found.questions:,} of them without an answer in the ledger (looked at {looked})",
        f"sample: {how}",
        *(line.rstrip() for line in table),
    ]
    if isinstance(labeler, OpenAI) and labeler.price is None:
        lines.append("no prices of this model are known: set labeler.usd_per_million_* or conf/prices.yaml")
    name, count = found.stopped_by(config.limits)
    if name:
        lines.append(f"limits.{name}={getattr(config.limits, name):g} would end it after about {count:,} questions")
    return "\n".join(lines)


def _row(name: str, amount: Amount, digits: int) -> tuple[str, str, str, str]:
    each = f"{amount.each:,.{5 if digits else 1}f}"
    return name, each, f"{amount.total:,.{digits}f}", f"{amount.low:,.{digits}f} to {amount.high:,.{digits}f}"


def _times(found: Estimate, *, known: bool) -> tuple[str, str, str, str]:
    amount = found.seconds
    if not known:
        return ("time", "?", "?", "")
    return (
        "time",
        f"{amount.each:.2f} s",
        duration(amount.total),
        f"{duration(amount.low)} to {duration(amount.high)}",
    )


def duration(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
