"""Pairs of frames that a ledger already holds, so that none is drawn twice."""

import numpy as np
from jaxtyping import Int64
from sqlalchemy import select
from sqlalchemy.orm import aliased

from vlmrl.annotate import schema
from vlmrl.annotate.ledger import Ledger
from vlmrl.annotate.query import FrameStore
from vlmrl.types import Kind


def known_pairs(ledger: Ledger, store: FrameStore, camera: str, *, labeler: str) -> Int64[np.ndarray, "Q 2"]:
    """Return the global rows of the pairs of this camera that a labeler was asked about, answered or not.

    They come in the order in which they were first asked, each once, whichever side was a.
    """
    a, b = aliased(schema.subject), aliased(schema.subject)
    about = (a.c.question == b.c.question) & (a.c.occurrence == b.c.occurrence)
    wanted = (
        select(a.c.episode, a.c.start, b.c.episode, b.c.start)
        .join(b, about)
        .join(schema.question, schema.question.c.key == a.c.question)
        .where(a.c.position == 0, b.c.position == 1, a.c.camera == camera, b.c.camera == camera)
        .where(a.c.stop.is_(None), b.c.stop.is_(None), schema.question.c.labeler == labeler)
        .where(schema.question.c.kind == Kind.PREFERENCE.value)
        .order_by(schema.question.c.created, schema.question.c.key)
    )
    first = {name: int(row) for name, row in zip(store.episodes.id, store.episodes.start, strict=True)}
    found: dict[tuple[int, int], tuple[int, int]] = {}
    with ledger.transaction(writes=False) as connection:
        for episode_a, row_a, episode_b, row_b in connection.execute(wanted):
            if episode_a in first and episode_b in first:
                pair = first[episode_a] + row_a, first[episode_b] + row_b
                found.setdefault((min(pair), max(pair)), pair)
    return np.array(list(found.values()), np.int64).reshape(-1, 2)
