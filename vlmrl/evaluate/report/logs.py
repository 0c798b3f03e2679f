"""The data that all arms learn from: how many, how good, and what they look like."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from jaxtyping import Float64, Int64

from vlmrl.page.markup import escape, missing, note, number, percent, plural, section
from vlmrl.store import Store
from vlmrl.store.pictures import Pictures, even

MOST_SOURCES = 6
BINS = 20
FRAMES = 8


@dataclass(frozen=True)
class Quality:
    """True progress of each episode, where a simulator knows it."""

    best: Float64[np.ndarray, " E"]
    """Farthest point reached; NaN where unknown."""
    final: Float64[np.ndarray, " E"]

    @property
    def known(self) -> bool:
        """Whether any episode's progress is known."""
        return bool(np.isfinite(self.best).any())


@dataclass(frozen=True)
class Group:
    """Episodes of one source."""

    name: str
    episodes: Int64[np.ndarray, " _"]


def quality(store: Store) -> Quality:
    """Best and final true progress of every episode."""
    table = store.episodes
    if "truth/progress" not in store.columns():
        unknown = np.full(len(table), np.nan)
        return Quality(unknown, unknown)
    progress = store.column("truth/progress")
    spans = list(zip(table.start.tolist(), table.stop.tolist(), strict=True))
    best = np.array([progress[start:stop].max() for start, stop in spans], np.float64)
    return Quality(best, np.array([progress[stop - 1] for _, stop in spans], np.float64))


def groups(store: Store, found: Quality) -> list[Group]:
    """Episodes by source, best sources first; what is beyond the largest few is one group.

    A number that an importer gives each episode (`folder/7`) makes no source of its own.
    """
    sources = np.array([re.sub(r"/\d+$", "", source) for source in store.episodes.source])
    names, counts = np.unique(sources, return_counts=True)
    order = names[np.argsort(-counts, kind="stable")]
    kept, rest = order[:MOST_SOURCES], order[MOST_SOURCES:]
    made = [Group(str(name), np.flatnonzero(sources == name)) for name in kept]
    if found.known:
        made.sort(key=lambda group: (-round(float(np.nanmean(found.best[group.episodes])), 2), int(group.episodes[0])))
    if len(rest):
        made.append(Group(f"{len(rest)} other sources", np.flatnonzero(np.isin(sources, rest))))
    return made


def html(store: Store, pictures: Pictures | None) -> str:
    """The section about the data."""
    if not len(store.episodes):
        return section("data", "The data", missing("The store holds no episode."))
    found = quality(store)
    made = groups(store, found)
    words = [f"<p>{_words(store, pictures)}</p>", _table(store, found, made)]
    if found.known:
        text = (
            "Histograms: how far each episode ever got, as a share of the task; darker where the episode succeeded. "
            "The source, and with it the quality, is never shown to a learner."
        )
    else:
        text = "No true progress is recorded in these logs: how good each episode is, is not known."
    words.append(note(text))
    words.append(_strips(store, found, made, pictures))
    return section("data", "The data", *words)


def _words(store: Store, pictures: Pictures | None) -> str:
    table = store.episodes
    length = table.length
    span = (
        number(int(length[0])) if np.ptp(length) == 0 else f"{number(int(length.min()))} to {number(int(length.max()))}"
    )
    text = f"{plural(len(table), 'episode')} of {span} rows, {number(len(store))} rows in all"
    if pictures is not None:
        count = len(store.frame_rows(pictures.camera))
        text += f"; {number(count)} pictures of camera <b>{escape(pictures.camera)}</b>"
    known = table.success >= 0
    if known.any():
        text += f". {plural(int((table.success == 1).sum()), 'episode')} of {number(int(known.sum()))} succeeded"
        text += "" if known.all() else f"; of {number(int((~known).sum()))} it is not known"
    else:
        text += ". Whether an episode succeeded is not recorded"
    return text + "."


def _table(store: Store, found: Quality, made: Sequence[Group]) -> str:
    prefix = _prefix(made)
    head = "<th>source</th><th class='n'>episodes</th><th class='n'>succeeded</th>"
    head += "<th class='n'>median progress</th><th>best progress of each episode</th>" if found.known else ""
    tallest = max(_histogram(found, group.episodes).max() for group in made) if found.known else 1
    shared = f"<caption>{escape(prefix.strip(' ,'))}</caption>" if prefix else ""
    rows = "".join(_line(store, found, group, group.name[len(prefix) :], tallest=int(tallest)) for group in made)
    return f"<table class='sources'>{shared}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _prefix(made: Sequence[Group]) -> str:
    """The words with which all sources begin."""
    words = [group.name.split(" ") for group in made]
    shared = takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))
    prefix = "".join(f"{column[0]} " for column in shared)
    return prefix if len(made) > 1 and all(len(group.name) > len(prefix) for group in made) else ""


def _line(store: Store, found: Quality, group: Group, name: str, *, tallest: int) -> str:
    success = store.episodes.success[group.episodes]
    known = success >= 0
    share = percent(float((success[known] == 1).mean())) if known.any() else "–"
    cells = f"<th scope='row'>{escape(name or 'no source recorded')}</th>"
    cells += f"<td class='n' data-label='episodes'>{number(len(success))}</td>"
    cells += f"<td class='n' data-label='succeeded'>{share}</td>"
    if found.known:
        best = found.best[group.episodes]
        cells += f"<td class='n' data-label='median progress'>{percent(float(np.nanmedian(best)))}</td>"
        cells += f"<td class='wide'>{_drawn(found, group.episodes, success == 1, tallest=tallest)}</td>"
    return f"<tr>{cells}</tr>"


def _histogram(found: Quality, episodes: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " _"]:
    best = found.best[episodes]
    places = np.clip((best[np.isfinite(best)] * BINS).astype(np.int64), 0, BINS - 1)
    return np.bincount(places, minlength=BINS).astype(np.int64)


def _drawn(found: Quality, episodes: Int64[np.ndarray, " _"], success: np.ndarray, *, tallest: int) -> str:
    """Bars of one source: all episodes, and over them those that succeeded."""
    width = 1000 / BINS
    bars = ""
    for kind, counts in (("all", _histogram(found, episodes)), ("won", _histogram(found, episodes[success]))):
        path = "".join(
            f"M{k * width + 4:.1f} 1000V{1000 - 1000 * n / tallest:.1f}h{width - 8:.1f}V1000Z"
            for k, n in enumerate(counts)
            if n
        )
        bars += f"<path class='{kind}' d='{path}'/>"
    label = f"histogram of {len(episodes)} episodes"
    return (
        f"<div class='histogram'><svg viewBox='0 0 1000 1000' preserveAspectRatio='none' role='img' "
        f"aria-label='{label}'>{bars}<path class='axis' d='M0 1000H1000'/></svg>"
        f"<span>0</span><span>task done</span></div>"
    )


def _strips(store: Store, found: Quality, made: Sequence[Group], pictures: Pictures | None) -> str:
    if pictures is None:
        return missing("The store has no pictures of the camera that was asked for.")
    strips, prefix = [], _prefix(made)
    for group in made:
        episode = _typical(found, group)
        rows = pictures.rows(episode)
        if not len(rows):
            continue
        chosen = rows[even(len(rows), most=FRAMES)]
        time = store.column("time")[chosen]
        head = escape(group.name[len(prefix) :] or "no source recorded")
        head += f"<span class='what'>{escape(store.episodes.id[episode])}</span>"
        body = pictures.strip(chosen.tolist(), [f"{t:.1f} s" for t in time])
        strips.append(f"<div><h3>{head}</h3>{body}</div>")
    rule = "the one of median best progress" if found.known else "the first"
    return f"<div class='strips'>{''.join(strips)}</div>" + note(f"One episode of each source: {rule}.")


def _typical(found: Quality, group: Group) -> int:
    """The group's episode of median quality; its first where quality is not known."""
    best = found.best[group.episodes]
    if not np.isfinite(best).all():
        return int(group.episodes[0])
    order = np.argsort(best, kind="stable")
    return int(group.episodes[order[len(order) // 2]])
