"""Answers frozen for training: exactly which labels, and their hash."""

from collections.abc import Sequence

import numpy as np

from vlmrl.annotate.polls import chance
from vlmrl.annotate.question import digest, item_to_json
from vlmrl.errors import DataError
from vlmrl.types import Preferences, Query, Reply


def freeze(queries: Sequence[Query], keys: Sequence[str], replies: Sequence[Reply | None]) -> Preferences:
    """Return the labels that are fit for training, in their order, with the hash of exactly these.

    `keys` name the questions. A tie trains at one half, a side at the labeler's own probability where it gave one;
    unsure, unreadable and unanswered ones are left out.

    Raises:
        DataError: if the lengths differ or nothing is left.
    """
    if not len(queries) == len(keys) == len(replies):
        raise DataError(f"{len(queries)} queries but {len(keys)} keys, {len(replies)} replies; wanted one each a query")
    known = [(q, k, r, p) for q, k, r in zip(queries, keys, replies, strict=True) if (p := chance(r)) is not None]
    kept = [(q, k, r.annotator, p) for q, k, r, p in known if r is not None]
    if not kept:
        raise DataError(f"none of {len(queries)} queries has an answer fit for training; run the labeling job first")
    return Preferences(
        a=tuple(q.items[0] for q, *_ in kept),
        b=tuple(q.items[1] for q, *_ in kept),
        p_a=np.array([p for *_, p in kept], dtype=np.float32),
        annotator=", ".join(sorted({annotator for *_, annotator, _ in kept})),
        snapshot=digest([[k, [item_to_json(i) for i in q.items], p] for q, k, _, p in kept]),
        by=tuple(annotator for *_, annotator, _ in kept),
    )
