"""Asks a labeler of the benchmark the same pairs under stress."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from vlmrl import config as configuration
from vlmrl.annotate import JobReport, Ledger, Limits, judge, run_job
from vlmrl.annotate.alter import alter
from vlmrl.annotate.asking import Asking
from vlmrl.annotate.question import picture_digest
from vlmrl.annotate.stress import CONDITIONS, Spoilt, compare, exposed, pictured, spoil, unmarked
from vlmrl.cli.ask import left, make_labeler
from vlmrl.cli.asking import pick_prompt, pictures
from vlmrl.encoder import DualEncoder
from vlmrl.store import Store
from vlmrl.types import Item, Labeler, Query, Reply


def stress(
    settings: Mapping[str, Any],
    store: Store,
    camera: str,
    queries: Sequence[Query],
    difference: Float64[np.ndarray, " Q"],
    *,
    book: Ledger,
    limits: Limits,
    wrong: str,
    seed: int,
) -> dict[str, Any]:
    """Return a row a condition, the pairs as they are first, and what the rules say; all keep to the limits together.

    Raises:
        LabelerError: if the labeler cannot go on; what was answered is kept.
    """
    plain: list[Reply | None] = []
    rows: list[dict[str, Any]] = []
    reports: list[JobReport] = []
    for condition in ("as they are", *CONDITIONS):
        spoilt = spoil(condition, queries, np.random.default_rng(seed), wrong=wrong)
        asked = pictured(spoilt, queries, pictures(store, Asking(), question="preference", camera=camera))
        sentences = sorted({query.instruction for query in asked})
        answerer = _labeler(settings, store, camera, spoilt, sentences=sentences)
        report = run_job(asked, answerer, ledger=book, limits=left(limits, reports))
        reports.append(report)
        answers = book.answers(report.keys)
        replies = [answers.get(key) for key in report.keys]
        plain = plain or replies
        rows.append(compare(condition, plain, replies, difference, swapped=spoilt.swapped))
        if report.stopped_by == "interrupt":
            raise KeyboardInterrupt
    return {"rows": rows, "exposed": exposed(rows)}


def _labeler(
    settings: Mapping[str, Any], store: Store, camera: str, spoilt: Spoilt, *, sentences: Sequence[str]
) -> Labeler:
    """The labeler; the judge, which looks pictures up by itself, is given the spoilt ones."""
    if settings["name"] != "judge":
        prompt = pick_prompt(store, "preference", Asking())
        return make_labeler(settings, store, camera=camera, sentence=sentences, prompt=prompt)
    config = configuration.build(judge.Config, settings, where="labeler")
    encoder = DualEncoder.load(config.checkpoint, device=config.device)
    stored = judge.stored(store, camera, encoder)
    look = _encoding(encoder, store, spoilt) if spoilt.how else stored

    def embed(item: Item) -> Float[np.ndarray, " D"]:
        return look(spoilt.item(unmarked(item, spoilt.mark)))

    return judge.build(config, encoder=encoder, embed=embed, instruction=sentences)


def _encoding(encoder: DualEncoder, store: Store, spoilt: Spoilt) -> Callable[[Item], Float[np.ndarray, " D"]]:
    """Encodes altered pictures, equal ones once."""
    known: dict[str, Float[np.ndarray, " D"]] = {}
    table = store.episodes

    def look(frame: Item) -> Float[np.ndarray, " D"]:
        assert not isinstance(frame, tuple)
        row = int(table.start[table.index(frame.episode)]) + frame.row
        pixels = alter(store.frames(frame.camera, [row]), spoilt.how)
        key = picture_digest(pixels[0])
        if key not in known:
            known[key] = encoder.images(pixels)[0]
        return known[key]

    return look
