"""What is drawn for a labeler: a clip as one contact strip, and the way of a hand on pictures."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw

GAP = 4
"""White pixels between the pictures of a strip."""
ACROSS = 4
"""Most pictures in a line of a strip: models look at a wide picture at few pixels a picture."""
_BEGIN, _END = np.array([45, 91, 255]), np.array([255, 45, 45])
_FINE = 4
"""Times that lines are drawn larger before they are brought to size, so that they have soft edges."""


def contact_strip(pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Set pictures of one size side by side in order of time, line by line, as even lines as there are."""
    lines = math.ceil(len(pictures) / ACROSS)
    across = math.ceil(len(pictures) / lines)
    height, width = pictures[0].shape[:2]
    sheet = np.full((lines * (height + GAP) - GAP, across * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // across * (height + GAP), i % across * (width + GAP)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def draw_way(
    picture: UInt8[np.ndarray, "H W 3"], way: Float64[np.ndarray, "T 2"], *, upto: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw the first `upto` points of a way (column, row; pixels), from blue at its beginning to red at its very end.

    Points that are NaN (behind the camera) break the line; a dot marks where the hand is.
    """
    height, width = picture.shape[:2]
    layer = Image.new("RGBA", (_FINE * width, _FINE * height), (0, 0, 0, 0))
    pen, thick = ImageDraw.Draw(layer), _FINE * max(1.0, min(height, width) / 96)
    points = (way + 0.5) * _FINE
    for i in range(1, min(upto, len(way))):
        if np.isfinite(points[i - 1 : i + 1]).all():
            line = [tuple(map(float, point)) for point in points[i - 1 : i + 1]]
            pen.line(line, fill=_colour(i, len(way)), width=round(thick))
    last = points[min(upto, len(way)) - 1]
    if np.isfinite(last).all():
        x, y, radius = float(last[0]), float(last[1]), 1.8 * thick
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_colour(upto - 1, len(way)))
    fine = layer.resize((width, height), Image.Resampling.BOX)
    return np.asarray(Image.alpha_composite(Image.fromarray(picture).convert("RGBA"), fine).convert("RGB"))


def _colour(place: int, count: int) -> tuple[int, int, int, int]:
    share = place / max(count - 1, 1)
    red, green, blue = (int(c) for c in np.round((1 - share) * _BEGIN + share * _END))
    return red, green, blue, 255
