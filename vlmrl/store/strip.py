"""Film strips with a reward drawn beneath: what a judge saw, and what it thought of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmrl.errors import DataError, unknown
from vlmrl.store.frames import decode_frames
from vlmrl.store.store import Store

_INK, _FAINT, _HAIR, _REWARD, _TRUTH = "#1f2933", "#7b8794", "#e4e7eb", "#2457c5", "#e07b39"
_OUTCOME = {1: (", succeeded", "#2f855a"), 0: (", failed", "#c53030"), -1: ("", _FAINT)}
_DPI = 200
_WIDTH, _LEFT, _RIGHT, _GAP = 10.0, 0.55, 0.5, 0.04
"""Inches, as all lengths here."""
_HEAD, _CAPTION, _CURVE, _TICKS, _FOOT = 0.9, 0.3, 0.85, 0.38, 0.02
_COUNTS = (8, 9, 7, 10)
"""Pictures in a line, the likeliest first."""
_MOST = 6


@dataclass(frozen=True)
class _Film:
    """One episode: the rows shown, and the curves."""

    place: int
    rows: Int64[np.ndarray, " n"]
    """Global rows of the pictures."""
    shown: Float64[np.ndarray, " n"]
    """s, of the pictures."""
    time: Float64[np.ndarray, " T"]
    mean: Float32[np.ndarray, " T"]
    """Of each row as it was judged: the reward that the store keeps at the row before."""
    std: Float32[np.ndarray, " T"]
    truth: Float32[np.ndarray, " T"]


def strip(
    store: Store,
    reward: str,
    camera: str,
    path: Path,
    *,
    episodes: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Write a PNG with a line an episode: pictures evenly spaced in time, under them the reward of what they show.

    Without `episodes`, up to six that have pictures and a reward are spread over the store. All share one scale. A
    simulator's progress, or else its reward, is drawn beside on a scale of its own.

    Raises:
        DataError: if an episode has no picture or no reward.
    """
    if reward not in store.rewards():
        raise unknown("reward", reward, store.rewards())
    if camera not in store.cameras:
        raise unknown("camera", camera, store.cameras)
    places = [store.episodes.index(id) for id in episodes] if episodes is not None else _spread(store, reward, camera)
    truth = _truth(store, places)
    films = _evenest([[_film(store, reward, camera, truth, place, n) for place in places] for n in _COUNTS])
    path.parent.mkdir(parents=True, exist_ok=True)
    _Sheet(store, reward, camera, truth, films).draw(title).savefig(path, dpi=_DPI, format="png")


def _spread(store: Store, reward: str, camera: str) -> list[int]:
    """Places of episodes over the whole store."""
    judged = np.flatnonzero(~np.isnan(store.column(f"reward/{reward}/mean")))
    pictured = store.frame_rows(camera)
    seen = np.intersect1d(store.episodes.of_row(judged), store.episodes.of_row(pictured))
    if not len(seen):
        raise DataError(f"no episode of {store.path} has both a picture of {camera!r} and a reward {reward!r}")
    return [int(i) for i in seen[np.linspace(0, len(seen) - 1, min(_MOST, len(seen))).round().astype(int)]]


def _truth(store: Store, places: Sequence[int]) -> str:
    """What the simulator knew that says most, empty where it says nothing of these episodes."""
    for key in ("truth/progress", "truth/reward"):
        if all(key in entry.columns for entry in store.snapshot.manifest.parts):
            table, values = store.episodes, store.column(key)
            own = np.concatenate([values[table.start[i] : table.stop[i]] for i in places])
            if len(np.unique(own[np.isfinite(own)])) > 1:
                return key
    return ""


def _film(store: Store, reward: str, camera: str, truth: str, place: int, count: int) -> _Film:
    table = store.episodes
    rows = np.arange(table.start[place], table.stop[place])
    time = store.column("time")
    own = np.intersect1d(rows, store.frame_rows(camera))
    if not len(own):
        raise DataError(f"episode {table.id[place]!r} has no picture of camera {camera!r}")
    wanted = np.linspace(time[rows[0]], time[rows[-1]], count)
    shown = own[np.abs(time[own][:, None] - wanted).argmin(axis=0)]
    mean, std = (_judged(store.column(f"reward/{reward}/{kind}")[rows]) for kind in ("mean", "std"))
    if np.isnan(mean).all():
        raise DataError(f"episode {table.id[place]!r} has no reward {reward!r}")
    known = store.column(truth)[rows] if truth else np.full(len(rows), np.nan, np.float32)
    return _Film(place, shown, time[shown], time[rows], mean, std, known)


def _judged(values: Float32[np.ndarray, " T"]) -> Float32[np.ndarray, " T"]:
    """Row i judges what row i+1 shows: move each value to the row that it judges."""
    return np.append(np.float32(np.nan), values[:-1])


def _evenest(choices: Sequence[list[_Film]]) -> list[_Film]:
    """The number of pictures that lie nearest to even distances in time, the first where several do."""

    def unevenness(films: list[_Film]) -> float:
        gaps = [np.diff(film.shown) / max(film.time[-1] - film.time[0], 1e-9) * (len(film.shown) - 1) for film in films]
        return round(max(float(np.abs(gap - 1).max()) for gap in gaps), 1)

    return min(choices, key=unevenness)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """A range for an axis, with some air."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    air = 0.08 * (high - low) or 0.5
    return low - air, high + air


@dataclass(frozen=True)
class _Sheet:
    store: Store
    reward: str
    camera: str
    truth: str
    films: list[_Film]

    @property
    def picture(self) -> tuple[int, int]:
        """Height and width of a picture in pixels."""
        count = len(self.films[0].rows)
        width = (_WIDTH - _LEFT - _RIGHT - (count - 1) * _GAP) / count
        part = self.store.snapshot.parts[int(self.store.episodes.part[self.films[0].place])]
        camera = part.entry.cameras[self.camera]
        return round(_DPI * width * camera["height"] / camera["width"]), round(_DPI * width)

    def draw(self, title: str) -> Figure:
        """The whole sheet."""
        line = _CAPTION + self.picture[0] / _DPI + _CURVE + _TICKS
        height = _HEAD + len(self.films) * line + _FOOT
        figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
        self._head(figure, height, title)
        scale = _limits(np.concatenate([f(film) for film in self.films for f in (_upper, _lower)]))
        truth = _limits(np.concatenate([film.truth for film in self.films])) if self.truth else (0.0, 1.0)
        for i, film in enumerate(self.films):
            self._line(figure, film, height - _HEAD - i * line, height, scale, truth)
        return figure

    def _head(self, figure: Figure, height: float, title: str) -> None:
        def text(x: float, down: float, words: str, colour: str, size: int, **style: Any) -> None:
            figure.text(x / _WIDTH, 1 - down / height, words, color=colour, fontsize=size, parse_math=False, **style)

        shown = f"{len(self.films)} of {len(self.store.episodes):,} episodes, camera {self.camera}"
        text(
            _LEFT, 0.33, shorten(title or self.store.path.resolve().name, 72, placeholder=" …"), _INK, 15, weight="bold"
        )
        text(_LEFT, 0.56, f"{shown}; each value stands under the picture that it judges", _FAINT, 8)
        text(_WIDTH - _RIGHT, 0.56, f"reward {self.reward}", _REWARD, 8, weight="bold", ha="right")
        if self.truth:
            name = self.truth.removeprefix("truth/")
            text(_WIDTH - _RIGHT, 0.74, f"the simulator's {name}, scale at the right", _TRUTH, 8, ha="right")

    def _line(
        self,
        figure: Figure,
        film: _Film,
        top: float,
        height: float,
        scale: tuple[float, float],
        truth: tuple[float, float],
    ) -> None:
        self._caption(figure, film, top, height)
        tall, wide = self.picture
        bottom = top - _CAPTION - tall / _DPI
        frames = decode_frames(self.store.snapshot, self.camera, film.rows, (tall, wide))
        inner = _WIDTH - _LEFT - _RIGHT - wide / _DPI
        for i, frame in enumerate(frames):
            left = _LEFT + inner * i / (len(frames) - 1)
            figure.figimage(frame, round(_DPI * left), round(_DPI * bottom), origin="upper")
        box = (_LEFT / _WIDTH, (bottom - _CURVE) / height, 1 - (_LEFT + _RIGHT) / _WIDTH, (_CURVE - 0.06) / height)
        axes = figure.add_axes(box)
        seconds = max(film.time[-1] - film.time[0], 1e-9) / inner
        # the first and last picture stand with their middles at the ends of the curve
        axes.set_xlim(film.time[0] - seconds * wide / _DPI / 2, film.time[-1] + seconds * wide / _DPI / 2)
        _curve(axes, film, scale)
        if self.truth:
            _known(axes, film, truth)

    def _caption(self, figure: Figure, film: _Film, top: float, height: float) -> None:
        table, place = self.store.episodes, film.place
        said = shorten(table.instruction[place], 88, placeholder=" …")
        outcome, colour = _OUTCOME[int(table.success[place])]
        facts = f"episode {place}, {film.time[-1] - film.time[0]:.1f} s{outcome}"
        y = (top - _CAPTION + 0.09) / height
        style: dict[str, Any] = {"fontsize": 9, "parse_math": False}
        figure.text(_LEFT / _WIDTH, y, f"“{said}”" if said else "(no sentence)", color=_INK, **style)
        figure.text(1 - _RIGHT / _WIDTH, y, facts, color=colour, ha="right", **style)


def _upper(film: _Film) -> Float32[np.ndarray, " T"]:
    return film.mean + film.std


def _lower(film: _Film) -> Float32[np.ndarray, " T"]:
    return film.mean - film.std


def _curve(axes: Axes, film: _Film, scale: tuple[float, float]) -> None:
    axes.set_ylim(*scale)
    axes.vlines(film.shown, *scale, color=_HAIR, linewidth=0.8, zorder=0)
    axes.fill_between(film.time, film.mean, scale[0], color=_REWARD, alpha=0.06, linewidth=0)
    if np.nanmax(film.std) > 0:
        axes.fill_between(film.time, _lower(film), _upper(film), color=_REWARD, alpha=0.15, linewidth=0)
    axes.plot(film.time, film.mean, color=_REWARD, linewidth=1.6, solid_capstyle="round")
    at = np.searchsorted(film.time, film.shown)
    axes.plot(
        film.shown, film.mean[at], "o", color=_REWARD, markersize=3.6, markeredgecolor="white", markeredgewidth=0.6
    )
    axes.set_xticks(film.shown, [f"{t:.1f} s" for t in film.shown], fontsize=7, color=_FAINT)
    axes.locator_params(axis="y", nbins=3)
    axes.tick_params(axis="both", length=0, pad=4)
    axes.tick_params(axis="y", labelsize=7, labelcolor=_REWARD)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(_HAIR)


def _known(axes: Axes, film: _Film, scale: tuple[float, float]) -> None:
    beside = axes.twinx()
    beside.set_ylim(*scale)
    beside.plot(film.time, film.truth, color=_TRUTH, linewidth=1.1, linestyle=(0, (4, 2)))
    beside.locator_params(axis="y", nbins=3)
    beside.tick_params(axis="y", length=0, pad=4, labelsize=7, labelcolor=_TRUTH)
    beside.spines[:].set_visible(False)
