"""Pictures of tasks on one sheet, so that a person sees at a glance what is asked and what a judge gets to see."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

_INK, _FAINT, _PAPER = "#1f2933", "#7b8794", "#ffffff"
_MARGIN, _GAP, _LINE = 20, 8, 18

Shots = Mapping[str, UInt8[np.ndarray, "H W 3"]]
"""Caption to picture."""


def sheet(cells: Iterable[tuple[str, str, Shots]], path: Path, *, columns: int = 3, height: int = 150) -> Path:
    """Write a PNG of cells: a title, a sentence, and captioned pictures side by side, each `height` pixels high."""
    drawn = [_cell(title, sentence, shots, height) for title, sentence, shots in cells]
    lines = [drawn[i : i + columns] for i in range(0, len(drawn), columns)]
    widths = [max(line[k].width for line in lines if k < len(line)) for k in range(min(columns, len(drawn)))]
    tall = drawn[0].height
    size = (2 * _MARGIN + sum(widths) + 3 * _GAP * (len(widths) - 1), 2 * _MARGIN + len(lines) * (tall + 2 * _GAP))
    picture = Image.new("RGB", size, _PAPER)
    for i, line in enumerate(lines):
        for k, cell in enumerate(line):
            left = _MARGIN + sum(widths[:k]) + 3 * _GAP * k
            picture.paste(cell, (left, _MARGIN + i * (tall + 2 * _GAP)))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def _cell(title: str, sentence: str, shots: Shots, height: int) -> Image.Image:
    pictures = [_scaled(picture, height) for picture in shots.values()]
    least = max(320, round(_font(14, bold=True).getlength(title)) + _GAP)
    width = max(sum(p.width for p in pictures) + _GAP * (len(pictures) - 1), least)
    cell = Image.new("RGB", (width, height + 4 * _LINE), _PAPER)
    pen = ImageDraw.Draw(cell)
    pen.text((0, 0), title, _INK, _font(14, bold=True))
    pen.text((0, _LINE), _fitting(sentence, width), _FAINT, _font(12))
    left = 0
    for caption, picture in zip(shots, pictures, strict=True):
        cell.paste(picture, (left, 2 * _LINE + 4))
        pen.text((left, 2 * _LINE + height + 6), caption, _FAINT, _font(11))
        left += picture.width + _GAP
    return cell


def _scaled(picture: UInt8[np.ndarray, "H W 3"], height: int) -> Image.Image:
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    return Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)


def _fitting(text: str, width: int) -> str:
    font = _font(12)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text} …") > width:
        text = text.rpartition(" ")[0] if " " in text else text[:-1]
    return f"{text} …"


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def choose(shots: Shots, wanted: Sequence[str]) -> Shots:
    """Those pictures whose caption ends in one of the wanted words."""
    return {caption: picture for caption, picture in shots.items() if caption.split(", ")[-1] in wanted}
