"""What a store holds, in words and (from `sheet`) in pictures."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vlmrl.store.manifest import SCHEMA
from vlmrl.store.sheet import contact_sheet
from vlmrl.store.store import Store

__all__ = ["contact_sheet", "describe"]

_BARS = " ▁▂▃▄▅▆▇█"
_NUMBER = re.compile(r"/\d+$")
"""Of an episode within its source."""


def describe(store: Store) -> str:
    """Tell what a store holds, in lines for a person."""
    size = _size(float(_disk_bytes(store)))
    lines = [f"store     {store.path}", f"hash      {store.hash[:16]}, format {SCHEMA}, {size} on disk"]
    if not len(store):
        return "\n".join([*lines, "empty     no episodes yet"])
    blocks = [_episodes(store), _columns(store), _cameras(store), _rewards(store), _embeddings(store)]
    return "\n".join(lines) + "\n" + "\n\n".join("\n".join(block) for block in blocks if block)


def _episodes(store: Store) -> list[str]:
    table = store.episodes
    rows = len(store)
    steps = int(np.sum(store.column("has_action") & store.column("has_next")))
    seconds = float(np.sum(store.column("time")[table.stop - 1]))
    rate = f", about {np.sum(table.length - 1) / seconds:.3g} rows/s" if seconds > 0 else ""
    success = Counter({1: "succeeded", 0: "failed", -1: "unknown"}[int(s)] for s in table.success)
    return [
        f"episodes  {len(table):,} with {rows:,} rows and {steps:,} transitions, {_duration(seconds)}{rate}",
        f"lengths   {_lengths(table.length)}",
        f"ends      {int(table.terminated.sum()):,} terminated, {int(table.truncated.sum()):,} truncated",
        f"success   {', '.join(f'{n:,} {name}' for name, n in success.most_common())}",
        *_counted("task", table.task),
        *_counted("sentence", [f"“{text}”" if text else "(none)" for text in table.instruction]),
        *_counted("robot", [text for text in table.robot if text]),
        *_counted("source", [_NUMBER.sub("/*", text) for text in table.source]),
    ]


def _lengths(length: np.ndarray) -> str:
    low, middle, high = int(length.min()), float(np.median(length)), int(length.max())
    if low == high:
        return f"all {low:,} rows"
    counts, _ = np.histogram(length, bins=min(16, high - low + 1))
    bars = "".join(_BARS[-(-int(c) * 8 // int(counts.max()))] for c in counts)
    return f"{low:,} to {high:,} rows, median {middle:,.0f}   {low:,} {bars} {high:,}"


def _counted(label: str, values: Iterable[str], most: int = 5) -> list[str]:
    """One line per distinct value, the commonest first."""
    counts = Counter(values)
    lines = [f"{'':10}{value} ({count:,})" for value, count in counts.most_common(most)]
    if len(counts) > most:
        lines.append(f"{'':10}and {len(counts) - most:,} more")
    return [f"{label:<10}{lines[0].lstrip()}", *lines[1:]] if lines else []


def _columns(store: Store) -> list[str]:
    lines = ["columns"]
    own = [name for name in store.columns() if not name.startswith(("reward/", "embedding/"))]
    for name in sorted(own, key=lambda name: (not name.startswith("obs/"), name != "action")):
        shapes = {tuple(e.columns[name]) for e in store.snapshot.manifest.parts if name in e.columns}
        width = " or ".join(str(s[0]) if s else "1" for s in sorted(shapes))
        about = store.attributes.get(name, {})
        given = about.get("units", [])
        units = f" [{', '.join(dict.fromkeys([given] if isinstance(given, str) else given))}]" if given else ""
        lines.append(f"  {name:<16} {width:>4}   {_listed(about.get('names') or [])}{units}".rstrip())
    return lines


def _listed(names: Sequence[str], width: int = 72) -> str:
    text = ", ".join(names)
    if len(text) <= width:
        return text
    kept = [n for i, n in enumerate(names) if len(", ".join(names[: i + 1])) <= width - 12]
    return f"{', '.join(kept)}, … {len(names) - len(kept)} more"


def _cameras(store: Store) -> list[str]:
    lines = ["cameras" if store.cameras else "cameras   none"]
    for camera in store.cameras:
        found = [e.cameras[camera] for e in store.snapshot.manifest.parts if camera in e.cameras]
        forms = " and ".join(sorted({{"pixels": "stored pictures", "video": "video"}[c["form"]] for c in found}))
        sizes = " or ".join(sorted({f"{c['width']}×{c['height']}" for c in found}))
        rows, frames = len(store.frame_rows(camera)), sum(c["frames"] for c in found)
        lines.append(f"  {camera:<16} {forms}, {sizes} pixels, {frames:,} frames on {rows:,} of {len(store):,} rows")
    return lines


def _rewards(store: Store) -> list[str]:
    lines = ["rewards" if store.rewards() else "rewards   none"]
    for name, about in store.rewards().items():
        mean = store.column(f"reward/{name}/mean")
        spread = f"mean {np.nanmean(mean):.3g}, standard deviation {np.nanstd(mean):.3g}"
        lines.append(f"  {name:<16} covers {about['coverage']:.0%} of the rows that have a next row; {spread}")
        lines += [f"  {'':<16} {key}: {_brief(value)}" for key, value in about.items() if key != "coverage"]
    return lines


def _embeddings(store: Store) -> list[str]:
    lines = ["embeddings"] if store.embeddings() else []
    for name, about in store.embeddings().items():
        rows = int(np.sum(~np.isnan(store.column(f"embedding/{name}")[:, 0])))
        frames = len(store.frame_rows(name.partition("/")[2]))
        lines.append(f"  {name:<16} {about['dim']} numbers on {rows:,} of {frames:,} rows with a frame")
        lines += [f"  {'':<16} {key}: {_brief(value)}" for key, value in about.items() if key != "dim"]
    return lines


def _brief(value: Any, width: int = 90) -> str:
    text = str(value)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _disk_bytes(store: Store) -> int:
    """Without the decoded cache; a file linked from several parts counts once."""
    stats = (p.stat() for p in store.path.rglob("*") if p.is_file() and ".cache" not in p.parts)
    return sum({s.st_ino: s.st_size for s in stats}.values())


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
