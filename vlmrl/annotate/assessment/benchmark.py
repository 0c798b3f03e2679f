"""The benchmark of labelers as one self-contained HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmrl.annotate.assessment.page import html_share, html_table, sections, words
from vlmrl.annotate.stress import RULES
from vlmrl.page import write_page
from vlmrl.page.markup import escape, missing, note, section


def write_benchmark(path: Path, rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> Path:
    """Write the page; `rows` are the labelers', `found` their figures side by side."""
    title = "Labelers on the same pairs"
    head = (
        f"<p class='eyebrow'>{escape(found['store'])}</p><h1>{title}</h1><p class='facts'>{words(found)}</p>"
        + "".join(f"<p class='warning'>{escape(line)}</p>" for line in _exposed(rows))
    )
    silent = [
        missing(f"{escape(row['settings'])} cannot answer: {escape(row['error'])}") for row in rows if "error" in row
    ]
    return write_page(path, title=title, body=head + "".join(silent) + sections(found) + _stress(rows))


def _exposed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{row['labeler']} {one}" for row in rows for one in row.get("stress", {}).get("exposed", ())]


def _stress(rows: Sequence[Mapping[str, Any]]) -> str:
    parts: list[str] = []
    for row in (row for row in rows if "stress" in row):
        lines = [
            [escape(r["condition"]), *(html_share(r[name]) for name in ("named", "same", "right"))]
            for r in row["stress"]["rows"]
        ]
        head = ["condition", "side named", "same place named again", "right"]
        parts.append(f"<h3>{escape(row['labeler'])}</h3>{html_table(head, lines)}")
    return section("stress", "Under stress", *parts, note(escape(RULES))) if parts else ""
