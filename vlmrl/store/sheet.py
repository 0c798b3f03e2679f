"""A contact sheet: episodes as lines, time from left to right."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Int64
from PIL import Image, ImageDraw, ImageFont

from vlmrl.errors import DataError
from vlmrl.store.frames import decode_frames
from vlmrl.store.store import Store

_INK, _FAINT, _PAPER = "#1f2933", "#7b8794", "#ffffff"
_MARGIN, _GAP, _LABEL, _CAPTION, _LEAST = 28, 6, 190, 22, 118
_SUCCESS = {1: ("succeeded", "#2f855a"), 0: ("failed", "#c53030"), -1: ("", _FAINT)}


def contact_sheet(
    store: Store,
    path: Path | str,
    *,
    camera: str | None = None,
    episodes: Sequence[str] | None = None,
    columns: int = 8,
    width: int = 168,
) -> Path:
    """Write a PNG with an episode a line, `columns` pictures each, `width` pixels wide.

    Without `episodes`, up to eight are spread over the store; without `camera`, the first is shown. Only the pictures
    shown are decoded.

    Raises:
        DataError: if the store has no pictures to show.
    """
    if not store.cameras:
        raise DataError(f"{store.path} has no camera, so there is no contact sheet")
    sheet = _Sheet(store, camera or store.cameras[0], columns, width)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.draw(sheet.choose(episodes)).save(path)
    return path


@dataclass(frozen=True)
class _Sheet:
    store: Store
    camera: str
    columns: int
    width: int

    def choose(self, ids: Sequence[str] | None, most: int = 8) -> list[int]:
        """Places of the episodes to show."""
        rows = self.store.frame_rows(self.camera)
        seen = np.unique(self.store.episodes.of_row(rows))
        if not len(seen):
            raise DataError(f"camera {self.camera!r} of {self.store.path} has no frame")
        if ids is not None:
            return [self.store.episodes.index(id) for id in ids]
        return [int(i) for i in seen[np.linspace(0, len(seen) - 1, min(most, len(seen))).round().astype(int)]]

    def draw(self, episodes: Sequence[int]) -> Image.Image:
        """The whole sheet."""
        height = self._height(episodes)
        line = max(height + _CAPTION, _LEAST) + 2 * _GAP
        top = _MARGIN + 62
        size = (2 * _MARGIN + _LABEL + self.columns * (self.width + _GAP), top + len(episodes) * line + _MARGIN // 2)
        picture = Image.new("RGB", size, _PAPER)
        pen = ImageDraw.Draw(picture)
        count = len(self.store.episodes)
        pen.text((_MARGIN, _MARGIN - 6), self.store.path.resolve().name, _INK, _font(22, bold=True))
        shown = "" if len(episodes) == count else f"; {len(episodes)} shown"
        facts = f"{count:,} episodes, {len(self.store):,} rows; camera {self.camera}{shown}"
        pen.text((_MARGIN, _MARGIN + 26), facts, _FAINT, _font(13))
        for i, place in enumerate(episodes):
            self._line(picture, pen, place, top + i * line, height)
        return picture

    def _height(self, episodes: Sequence[int]) -> int:
        """Of each picture, in the first one's proportions."""
        entry = self.store.snapshot.parts[int(self.store.episodes.part[episodes[0]])].entry.cameras[self.camera]
        return max(1, round(self.width * entry["height"] / entry["width"]))

    def _line(self, picture: Image.Image, pen: ImageDraw.ImageDraw, place: int, top: int, height: int) -> None:
        self._label(pen, place, top)
        rows = self._rows(place)
        frames = decode_frames(self.store.snapshot, self.camera, rows, (height, self.width))
        time = self.store.column("time")
        for i, (frame, row) in enumerate(zip(frames, rows, strict=True)):
            left = _MARGIN + _LABEL + i * (self.width + _GAP)
            picture.paste(Image.fromarray(frame), (left, top))
            pen.text((left + self.width / 2, top + height + 4), f"{time[row]:.1f} s", _FAINT, _font(12), anchor="ma")

    def _rows(self, place: int) -> Int64[np.ndarray, " n"]:
        """Rows with a frame, evenly spread over the episode, first and last among them."""
        table = self.store.episodes
        rows = self.store.frame_rows(self.camera)
        own = rows[(rows >= table.start[place]) & (rows < table.stop[place])]
        return own[np.unique(np.linspace(0, len(own) - 1, min(self.columns, len(own))).round().astype(int))]

    def _label(self, pen: ImageDraw.ImageDraw, place: int, top: int) -> None:
        table = self.store.episodes
        outcome, colour = _SUCCESS[int(table.success[place])]
        pen.text((_MARGIN, top), f"episode {place}", _INK, _font(14, bold=True))
        lines = [(f"{int(table.length[place]):,} rows", _FAINT), (outcome, colour)]
        lines += [(text, _INK) for text in _wrapped(table.instruction[place], _font(12), _LABEL - 16, most=3)]
        lines += [(text, _FAINT) for text in _wrapped(table.source[place], _font(12), _LABEL - 16, most=2)]
        for i, (text, ink) in enumerate(line for line in lines if line[0]):
            pen.text((_MARGIN, top + 20 + 16 * i), text, ink, _font(12))


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, *, most: int) -> list[str]:
    """Break a text into at most so many lines."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1:] = [longer]
    return lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1]} …"]
