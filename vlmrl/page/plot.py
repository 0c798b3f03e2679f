"""Small plots as inline SVG: geometry stretches with the page, strokes and text keep their size.

Text is HTML placed in per cent beside the drawing, so that a plot reads as well on a phone as on paper.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from vlmrl.page.markup import MINUS, escape

SPAN = 1000
"""Of both axes in SVG units."""


@dataclass
class Plot:
    """Marks over one pair of axes."""

    x: tuple[float, float]
    y: tuple[float, float]
    label: str
    """What the drawing shows, for those who cannot see it."""
    height: int = 180
    """Pixels."""
    marks: list[str] = field(default_factory=list)
    x_labels: list[tuple[float, str]] = field(default_factory=list)
    y_labels: list[tuple[float, str]] = field(default_factory=list)
    right_labels: list[tuple[float, str]] = field(default_factory=list)

    def line(self, xs: Sequence[float], ys: Sequence[float], *, colour: str, kind: str = "line") -> None:
        """A line through finite points; `kind` is its CSS class."""
        path = self._path(xs, ys)
        self.marks.append(f"<path class='{kind}' style='stroke:{colour}' d='{path}'/>")

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], *, colour: str) -> None:
        """The area between two lines."""
        back = self._path(xs[::-1], low[::-1]).replace("M", "L")
        self.marks.append(f"<path class='band' style='fill:{colour}' d='{self._path(xs, high)}{back}Z'/>")

    def dots(self, xs: Sequence[float], ys: Sequence[float], *, colour: str) -> None:
        """Round points: strokes without length, for a circle would stretch."""
        path = "".join(f"M{self._x(x):.1f} {self._y(y):.1f}h0" for x, y in zip(xs, ys, strict=True))
        self.marks.append(f"<path class='dots' style='stroke:{colour}' d='{path}'/>")

    def grid(self, *, x: Sequence[float] = (), y: Sequence[float] = ()) -> None:
        """Faint lines behind what is drawn afterwards."""
        path = "".join(f"M{self._x(v):.1f} 0V{SPAN}" for v in x) + "".join(f"M0 {self._y(v):.1f}H{SPAN}" for v in y)
        self.marks.append(f"<path class='grid' d='{path}'/>")

    def html(self) -> str:
        """The plot with its labels."""
        labels = [
            _labels("y", "bottom", [(self._share(v, self.y), text) for v, text in self.y_labels]),
            _labels("x", "left", [(self._share(v, self.x), text) for v, text in self.x_labels]),
            _labels("right", "bottom", [(self._share(v, self.y), text) for v, text in self.right_labels]),
        ]
        drawing = (
            f"<svg viewBox='0 0 {SPAN} {SPAN}' preserveAspectRatio='none' role='img' "
            f"aria-label='{escape(self.label)}'>{''.join(self.marks)}</svg>"
        )
        wide = " both" if self.right_labels else ""
        return f"<div class='plot{wide}' style='--h:{self.height}px'>{drawing}{''.join(labels)}</div>"

    def _path(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
        return "".join(f"{'L' if k else 'M'}{self._x(x):.1f} {self._y(y):.1f}" for k, (x, y) in enumerate(points))

    def _x(self, value: float) -> float:
        return SPAN * self._share(value, self.x)

    def _y(self, value: float) -> float:
        return SPAN * (1 - self._share(value, self.y))

    @staticmethod
    def _share(value: float, ends: tuple[float, float]) -> float:
        low, high = ends
        return (value - low) / (high - low) if high > low else 0.5


def _labels(side: str, edge: str, labels: Sequence[tuple[float, str]]) -> str:
    if not labels:
        return ""
    spans = "".join(f"<span style='{edge}:{100 * at:.2f}%'>{escape(text)}</span>" for at, text in labels)
    return f"<div class='{side}'>{spans}</div>"


def ticks(low: float | int, high: float | int, *, most: int = 4) -> list[tuple[float, str]]:
    """Round values within the ends, with their text."""
    if not high > low:
        return [(float(low), f"{low:g}")]
    raw = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(k * step, _tick(k * step, digits)) for k in range(first, last + 1)]


def _tick(value: float, digits: int) -> str:
    if abs(value) >= 1000:
        return f"{value / 1000:g}k".replace("-", MINUS)
    return f"{value:.{digits}f}".replace("-", MINUS)
