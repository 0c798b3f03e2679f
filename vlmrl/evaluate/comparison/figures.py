"""Drawings of the page: rates, differences, success over time, outcomes by initial state, performance profiles."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from vlmrl.evaluate.aggregate import profile_band
from vlmrl.evaluate.comparison.read import Entry
from vlmrl.interval import Interval
from vlmrl.page.markup import escape, note, percent, points
from vlmrl.page.plot import Plot, ticks

Drawn = Mapping[str, tuple[Entry, str]]
"""Entries with their colours, by label."""


def bar(found: Interval, single: Sequence[float], ink: str) -> str:
    """A rate as a bar, its interval as a whisker, single training seeds as dots beneath."""
    low, mid, high = (1000 * x for x in (found.low, found.estimate, found.high))
    dots = "".join(f"M{1000 * x:.1f} 890h0" for x in single) if len(single) > 1 else ""
    return (
        "<svg class='bar' viewBox='0 0 1000 1000' preserveAspectRatio='none' role='img' "
        f"aria-label='{percent(found.estimate)}'><rect class='track' width='1000' height='700'/>"
        f"<rect style='fill:{ink}' y='120' width='{mid:.1f}' height='460'/>"
        f"<path class='whisker' d='M{low:.1f} 350H{high:.1f}M{low:.1f} 210V490M{high:.1f} 210V490'/>"
        f"<path class='seeds' style='stroke:{ink}' d='{dots}'/></svg>"
    )


def forest(found: Interval, ink: str, reach: float) -> str:
    """A difference around a line at zero."""
    low, mid, high = (500 + 500 * x / reach for x in (found.low, found.estimate, found.high))
    return (
        "<svg class='forest' viewBox='0 0 1000 1000' preserveAspectRatio='none' role='img' "
        f"aria-label='{points(found.estimate)}'><path class='zero' d='M500 0V1000'/>"
        f"<path class='whisker' style='stroke:{ink}' d='M{low:.1f} 500H{high:.1f}'/>"
        f"<path class='dots' style='stroke:{ink}' d='M{mid:.1f} 500h0'/></svg>"
    )


def by_time(drawn: Drawn) -> str:
    """Share of episodes that have succeeded by each moment."""
    longest = max(entry.horizon / entry.control_hz for entry, _ in drawn.values())
    plot = Plot(x=(0.0, longest), y=(0.0, 1.0), label="share of episodes that have succeeded, over time", height=170)
    plot.y_labels = [(0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")]
    plot.x_labels = [(x, f"{text}\N{NO-BREAK SPACE}s") for x, text in ticks(0.0, longest, most=6)]
    plot.grid(y=[0.0, 0.5, 1.0])
    for entry, ink in drawn.values():
        first = np.concatenate([r.first_success for r in entry.rollouts])
        when = np.sort(first[first >= 0] + 1) / entry.control_hz
        share = np.arange(1, len(when) + 1) / len(first)
        xs = np.concatenate([[0.0], np.repeat(when, 2), [entry.horizon / entry.control_hz]])
        ys = np.concatenate([[0.0, 0.0], np.repeat(share, 2)]) if len(when) else np.zeros(2)
        plot.line(xs.tolist(), ys.tolist(), colour=ink)
    return f"<h3>How soon<span class='what'>share of episodes that have succeeded by then</span></h3>{plot.html()}"


def by_state(drawn: Drawn) -> str:
    """A row of outcomes for each method, initial states in one order: those that most solve first."""
    wins: dict[int, list[float]] = {}
    for entry, _ in drawn.values():
        for rollouts in entry.rollouts:
            for seed, won in zip(rollouts.seeds.tolist(), rollouts.success, strict=True):
                wins.setdefault(seed, []).append(float(won))
    order = sorted(wins, key=lambda seed: (-float(np.mean(wins[seed])), seed))
    rows = []
    for name, (entry, ink) in drawn.items():
        share = _shares(entry)
        cells = "".join(
            f"<rect x='{k}' width='.86' height='1' style='fill:{ink};fill-opacity:{0.08 + 0.92 * share[seed]:.2f}'>"
            f"<title>state {seed}: {percent(share[seed])}</title></rect>"
            for k, seed in enumerate(order)
            if seed in share
        )
        drawing = f"<svg viewBox='0 0 {len(order)} 1' preserveAspectRatio='none' style='height:18px;width:100%'>"
        rows.append(f"<p class='what' style='margin:.5rem 0 .15rem'>{escape(name)}</p>{drawing}{cells}</svg>")
    words = "One column an initial state, the same for all; those that most policies solve come first. Full: succeeded "
    words += "(from every training seed)."
    return f"<h3>From where<span class='what'>outcome by initial state</span></h3>{''.join(rows)}{note(words)}"


def _shares(entry: Entry) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for rollouts in entry.rollouts:
        for seed, won in zip(rollouts.seeds.tolist(), rollouts.success, strict=True):
            found.setdefault(seed, []).append(float(won))
    return {seed: float(np.mean(values)) for seed, values in found.items()}


def profiles(bands: Sequence[tuple[str, Float[np.ndarray, "runs tasks"], str]]) -> str:
    """Share of runs above each success rate, with pointwise intervals."""
    if not bands:
        return ""
    thresholds = np.linspace(0, 1, 101)
    plot = Plot(x=(0.0, 1.0), y=(0.0, 1.0), label="share of runs above each success rate", height=200)
    plot.y_labels = plot.x_labels = [(x, f"{100 * x:.0f}\N{NO-BREAK SPACE}%") for x in (0.0, 0.5, 1.0)]
    plot.grid(x=[0.5], y=[0.0, 0.5, 1.0])
    for _, scores, ink in bands:
        middle, low, high = profile_band(scores, thresholds)
        plot.band(thresholds.tolist(), low.tolist(), high.tolist(), colour=ink)
        plot.line(thresholds.tolist(), middle.tolist(), colour=ink)
    what = "share of training seeds and tasks whose success rate is above"
    return f"<h3>Performance profile<span class='what'>{what}</span></h3>{plot.html()}"
