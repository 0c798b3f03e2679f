"""What a question is, byte for byte: canonical JSON, digests of pictures and of questions, items as JSON."""

import hashlib
import json
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import UInt8

from vlmrl.errors import DataError
from vlmrl.types import Frame, Item, Span


def canonical(value: object) -> str:
    """Return JSON in which equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: object) -> str:
    """Return the sha256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def digest_each(values: Iterable[object]) -> str:
    """Return the digest of the list of these values, of which one is held at a time."""
    found = hashlib.sha256(b"[")
    for place, value in enumerate(values):
        found.update((("," if place else "") + canonical(value)).encode())
    found.update(b"]")
    return found.hexdigest()


def question_key(content: Mapping[str, object]) -> str:
    """Return the ledger's key of a question: the digest of everything that determines its answer."""
    return digest(content)


def picture_digest(picture: UInt8[np.ndarray, "H W 3"]) -> str:
    """Return the sha256 of a picture's shape and pixels (not of a file: encoders change, pixels do not)."""
    shape = "x".join(map(str, picture.shape)).encode()
    return hashlib.sha256(shape + b":" + np.ascontiguousarray(picture).data).hexdigest()


def item_to_json(item: Item) -> list[object]:
    """Return `["frame", episode, row, camera]`, or for a clip `["spans", [episode, start, stop, camera], ...]`."""
    if isinstance(item, Frame):
        return ["frame", item.episode, item.row, item.camera]
    return ["spans", *([s.episode, s.start, s.stop, s.camera] for s in item)]


def item_from_json(value: list[object]) -> Item:
    """Return the item that `item_to_json` wrote.

    Raises:
        DataError: if it is not one.
    """
    match value:
        case ["frame", str(episode), int(row), str(camera)]:
            return Frame(episode, row, camera)
        case ["spans", *spans] if spans:
            return tuple(_span(s) for s in spans)
        case _:
            raise DataError(f"not an item: {value!r}; wanted ['frame', ...] or ['spans', ...]")


def _span(value: object) -> Span:
    match value:
        case [str(episode), int(start), int(stop), str(camera)]:
            return Span(episode, start, stop, camera)
        case _:
            raise DataError(f"not a span: {value!r}; wanted [episode, start, stop, camera]")
