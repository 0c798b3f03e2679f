"""Pictures as a chat message carries them: data URLs, none larger than a server takes."""

import base64
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from PIL import Image

from vlmrl.annotate.compare import Picture
from vlmrl.annotate.question import picture_digest
from vlmrl.annotate.script import Message
from vlmrl.errors import LabelerError

_HELD = 256_000_000
"""Bytes of encoded pictures that are kept: one frame is in many pairs, and in both orders of each."""


class Encoder:
    """Writes messages as the parts of requests, each picture encoded once while it is remembered; safe for threads."""

    def __init__(self, *, kind: str, quality: int, detail: str, most_mb: float, held: int = _HELD) -> None:
        """Remember nothing yet, and later at most `held` bytes, those that were used last."""
        self._kind, self._quality, self._detail, self._most_mb = kind, quality, detail, most_mb
        self._known, self._lock = OrderedDict[str, str](), threading.Lock()
        self._room = held

    def parts(self, message: Message, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
        """Return a message as the parts of a request.

        Raises:
            LabelerError: if a picture takes more than `most_mb`.
        """
        found: list[dict[str, Any]] = []
        for part in message:
            if isinstance(part, str):
                found.append({"type": "text", "text": part})
            else:
                url = {"url": self._url(pictures[part]), "detail": self._detail}
                found.append({"type": "image_url", "image_url": url})
        return found

    def prepare(self, pictures: Sequence[Picture]) -> None:
        """Encode pictures that a message will show; what is wrong with one is said when the message is written."""
        for picture in pictures:
            with suppress(LabelerError):
                self._url(picture)

    def knows(self, pictures: Sequence[Picture]) -> bool:
        """Whether a message of these needs no encoding, and so next to no time."""
        keys = {picture_digest(picture) for picture in pictures}
        with self._lock:
            return keys <= self._known.keys()

    def _url(self, picture: Picture) -> str:
        key = picture_digest(picture)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        url = data_url(picture, kind=self._kind, quality=self._quality, most_mb=self._most_mb)
        with self._lock:
            if key not in self._known:
                self._known[key] = url
                self._room -= len(url)
            while self._room < 0:
                self._room += len(self._known.popitem(last=False)[1])
        return url


def data_url(picture: Picture, *, kind: str, quality: int, most_mb: float) -> str:
    """Encode one picture.

    Raises:
        LabelerError: if it takes more than `most_mb`.
    """
    buffer = io.BytesIO()
    settings = {"quality": quality} if kind == "jpeg" else {}
    Image.fromarray(picture).save(buffer, format=kind, **settings)
    size_mb = buffer.tell() / 1e6
    if size_mb > most_mb:
        height, width = picture.shape[:2]
        raise LabelerError(
            f"a picture of {height}x{width} takes {size_mb:.1f} MB as {kind}, labeler.max_picture_mb is {most_mb:g}: "
            "show less of it (ask.crop, ask.size=[HEIGHT,WIDTH], or `ask` in the task's task.yaml), "
            "or encode it smaller (labeler.image_format=jpeg)"
        )
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
