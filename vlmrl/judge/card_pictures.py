"""The pictures of the judge's card: its best and worst answers, and its accuracy by how far apart a pair is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmrl.judge.curriculum import Lesson
from vlmrl.judge.exam import Answers, credit
from vlmrl.judge.scenes import Pictures

_INK, _FAINT, _HAIR = "#1f2933", "#7b8794", "#e4e7eb"
_RIGHT, _WRONG = "#2f855a", "#c53030"
_BARS = {"held out": "#e07b39", "trained on": "#2457c5"}
_MOST = 5
_DPI = 150


@dataclass(frozen=True)
class Example:
    """One pair."""

    part: Answers
    pair: int
    """Place among the pairs of the task."""

    @property
    def sure(self) -> float:
        """Probability of the named side."""
        p = float(self.part.probability[self.pair])
        return max(p, 1 - p)


def examples(parts: Sequence[Answers], *, right: bool) -> list[Example]:
    """Per task the surest right (or wrong) answer about a pair that differs: held-out tasks first, then the surest."""
    found: list[Example] = []
    for part in parts:
        wanted = credit(part.difference, part.gap) == float(right)
        pairs = np.flatnonzero(part.different & wanted)
        if len(pairs):
            found.append(Example(part, int(pairs[np.abs(part.difference[pairs]).argmax()])))
    return sorted(found, key=lambda x: (x.part.trained, -x.sure))[:_MOST]


def draw_pairs(parts: Sequence[Answers], load: Callable[[Lesson], Pictures], path: Path) -> None:
    """Draw the best answers on the left and the worst on the right."""
    columns = [examples(parts, right=True), examples(parts, right=False)]
    lines = max(1, *map(len, columns))
    figure = Figure(figsize=(11, 2.9 * lines + 0.5), facecolor="white", layout="constrained")
    halves: Any = figure.subfigures(1, 2, wspace=0.04)
    for half, found, title, colour in zip(
        halves, columns, ("surest and right", "surest and wrong"), (_RIGHT, _WRONG), strict=True
    ):
        half.suptitle(title if found else f"{title}: none", color=colour, fontsize=13, fontweight="bold")
        rows = half.subfigures(lines, 1, squeeze=False)
        for row, example in zip(rows[:, 0], found, strict=False):
            _draw_pair(row, example, load(example.part.lesson))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI, format="png")


def _draw_pair(place: Any, example: Example, pictures: Pictures) -> None:
    part, k = example.part, example.pair
    rows = (part.first[k], part.second[k])
    p = float(part.probability[k])
    side = "left" if part.gap[k] > 0 else "right"
    known = "" if part.trained else " (held out)"
    place.suptitle(
        f"“{part.lesson.sentences[0]}”{known}\np(left) = {p:.3f}; truth: {side} is further", fontsize=9, color=_INK
    )
    for axes, row, name in zip(place.subplots(1, 2), rows, ("left", "right"), strict=True):
        axes.imshow(pictures.pixels[row], interpolation="lanczos")
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(f"{name}: progress {pictures.progress[row]:.2f}", fontsize=8, color=_FAINT)
        better = name == side
        for spine in axes.spines.values():
            spine.set(color=_RIGHT if better else _HAIR, linewidth=2 if better else 1)


def draw_deciles(figures: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy over ten bins of equally many pairs, for each group of tasks."""
    groups = figures["groups"]
    figure = Figure(figsize=(5.2 * max(1, len(groups)), 3.6), facecolor="white", layout="constrained")
    drawn = figure.subplots(1, max(1, len(groups)), squeeze=False, sharey=True)[0]
    for axes, (name, group) in zip(drawn, groups.items(), strict=False):
        _draw_bars(axes, name, group)
    drawn[0].set_ylabel("pairs told right (%)", color=_INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI, format="png")


def _draw_bars(axes: Axes, name: str, group: Mapping[str, Any]) -> None:
    bins = group["deciles"]
    places = range(len(bins))
    axes.bar(places, [100 * b["accuracy"] for b in bins], color=_BARS[name], width=0.8)
    for place, b in zip(places, bins, strict=True):
        axes.text(place, 100 * b["accuracy"] + 1, f"{100 * b['accuracy']:.0f}", ha="center", fontsize=8, color=_INK)
    axes.axhline(50, color=_FAINT, linewidth=1, linestyle="--")
    axes.set_xticks(places, [f"{b['low']:.2f}–{b['high']:.2f}" for b in bins], rotation=45, ha="right", fontsize=7)
    axes.set_ylim(0, 108)
    axes.set_xlabel("difference in true progress", color=_INK)
    count = sum(b["pairs"] for b in bins)
    axes.set_title(f"tasks {name}: {group['tasks']} tasks, {count} pairs, a tenth a bar", fontsize=9, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
