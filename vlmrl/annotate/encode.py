"""Pictures as a chat message carries them: data URLs, none larger than a server takes."""

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from vlmrl.annotate.compare import Picture
from vlmrl.annotate.script import Message
from vlmrl.errors import LabelerError


def parts(
    message: Message, pictures: Sequence[Picture], *, kind: str, quality: int, detail: str, most_mb: float
) -> list[dict[str, Any]]:
    """Return a message as the parts of a request.

    Raises:
        LabelerError: if a picture takes more than `most_mb`.
    """
    found: list[dict[str, Any]] = []
    for part in message:
        if isinstance(part, str):
            found.append({"type": "text", "text": part})
        else:
            url = {"url": data_url(pictures[part], kind=kind, quality=quality, most_mb=most_mb), "detail": detail}
            found.append({"type": "image_url", "image_url": url})
    return found


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
