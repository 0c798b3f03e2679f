"""Answers frozen for training: exactly which labels, and their hash."""

from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from vlmrl.annotate.polls import chance
from vlmrl.annotate.question import digest_each, item_to_json
from vlmrl.errors import DataError
from vlmrl.types import Item, Preferences, Query, Reply


def freeze(queries: Sequence[Query], keys: Sequence[str], replies: Sequence[Reply | None]) -> Preferences:
    """Return the labels that are fit for training, in their order, with the hash of exactly these.

    `keys` name the questions. A tie trains at one half, a side at the labeler's own probability where it gave one;
    unsure, unreadable and unanswered ones are left out.

    Raises:
        DataError: if the lengths differ or nothing is left.
    """
    if not len(queries) == len(keys) == len(replies):
        raise DataError(f"{len(queries)} queries but {len(keys)} keys, {len(replies)} replies; wanted one each a query")
    a, b, by, p_a = list[Item](), list[Item](), list[str](), array("d")

    def kept() -> Iterator[object]:
        for query, key, reply in zip(queries, keys, replies, strict=True):
            if reply is not None and (p := chance(reply)) is not None:
                a.append(query.items[0])
                b.append(query.items[1])
                by.append(reply.annotator)
                p_a.append(p)
                yield [key, [item_to_json(item) for item in query.items], p]

    snapshot = digest_each(kept())
    if not by:
        raise DataError(f"none of {len(queries)} queries has an answer fit for training; run the labeling job first")
    who = ", ".join(sorted(set(by)))
    return Preferences(tuple(a), tuple(b), np.array(p_a, dtype=np.float32), who, snapshot, tuple(by))
