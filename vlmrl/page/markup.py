"""Words and numbers as the page prints them. All text from outside passes `escape`."""

import base64
import html
import math
from collections.abc import Sequence
from pathlib import Path

from vlmrl.interval import Interval

THIN = "\N{NARROW NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"


def escape(text: object) -> str:
    """Text as HTML shows it, inside elements and inside quoted attributes."""
    return html.escape(str(text))


def number(value: float | int, digits: int = 0) -> str:
    """A number with thousands apart; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}".replace(",", THIN).replace("-", MINUS)


def percent(share: float) -> str:
    """A share in per cent."""
    return f"{number(100 * share)}{THIN}%" if math.isfinite(share) else "–"


def interval(found: Interval) -> str:
    """A share with its interval, in per cent."""
    return f"{percent(found.estimate)} {bounds(found)}"


def bounds(found: Interval, *, signed: bool = False) -> str:
    """The ends of an interval, in per cent."""
    show = points if signed else (lambda share: number(100 * share))
    return f"<span class='ci'>[{show(found.low)}, {show(found.high)}]</span>"


def points(difference: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    value = round(100 * difference)
    return f"{'+' if value > 0 else MINUS if value < 0 else ''}{abs(value)}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """Words as a sentence joins them."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def section(anchor: str, title: str, *content: str) -> str:
    """One section of the page."""
    return f"<section id='{anchor}'><h2>{escape(title)}</h2>{''.join(content)}</section>\n"


def note(text: str) -> str:
    """Small print below a figure; `text` is HTML."""
    return f"<p class='note'>{text}</p>"


def missing(text: str) -> str:
    """Says plainly that something is not there; `text` is HTML."""
    return f"<p class='missing'>{text}</p>"


def data_url(content: bytes | Path, kind: str) -> str:
    """A file's bytes as an address."""
    raw = content.read_bytes() if isinstance(content, Path) else content
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"
