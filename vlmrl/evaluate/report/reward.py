"""The learned reward: how well it fits unseen answers, and how it runs along a good and a bad episode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from vlmrl.annotate.audit import DIGITS
from vlmrl.evaluate.report.arms import colour
from vlmrl.evaluate.report.folder import Run
from vlmrl.evaluate.report.logs import Quality, quality
from vlmrl.interval import wilson
from vlmrl.page.markup import bounds, escape, missing, note, number, percent, section
from vlmrl.page.plot import Plot, ticks
from vlmrl.store import Store
from vlmrl.store.pictures import Pictures, even

FRAMES = 11

ORDERED_PAIRS = 100_000
"""Drawn to see how often the reward orders two pictures as the truth does."""

TRUTH_MARGIN = 0.04
"""Share of the axis left free below 0 % and above 100 % of true progress."""


@dataclass(frozen=True)
class Curve:
    """A reward along one episode, each value at the time of the picture that it judges."""

    time: Float64[np.ndarray, " n"]
    mean: Float64[np.ndarray, " n"]
    std: Float64[np.ndarray, " n"]


def columns(run: Run, store: Store) -> dict[int, str]:
    """The store's reward column of each seed, by the labels that made it, shaped as its policy saw it."""
    snapshot = (run.labels or {}).get("snapshot")
    suffix = "".join(f"-{operation}" for operation in run.config.get("shaping", ()))
    found = {
        int(attributes["seed"]): name + suffix
        for name, attributes in store.rewards().items()
        if snapshot and attributes.get("snapshot") == snapshot and int(attributes.get("seed", -1)) in run.rewards
    }
    return dict(sorted(found.items()))


def html(run: Run, store: Store, pictures: Pictures | None) -> str:
    """The section about the reward."""
    if not run.rewards:
        return section("reward", "The reward", missing("No reward was learned in this run."))
    names, found = columns(run, store), quality(store)
    parts = [_table(run, store, names)]
    if not names or pictures is None:
        parts.append(missing("The store holds no column of this reward, so it cannot be drawn along an episode."))
    else:
        parts.append(_episodes(run, store, names, found, pictures))
    return section("reward", "The reward", *parts)


def _table(run: Run, store: Store, names: Mapping[int, str]) -> str:
    truth = store.column("truth/progress") if "truth/progress" in store.columns() else None
    head = (
        "<th>seed</th><th class='n'>pairs, ties</th><th>accuracy</th><th class='n'>log-loss</th>"
        "<th class='n'>calibration error</th><th class='n'>disagreement</th>"
    )
    head += "<th class='n'>pictures in true order</th>" if truth is not None else ""
    rows = ""
    for seed, facts in run.rewards.items():
        rows += f"<tr><th scope='row'>seed {seed}</th>{_held_out(facts.get('held_out') or {})}"
        if truth is not None:
            value = _ordered(store, names[seed], truth) if seed in names else float("nan")
            rows += f"<td class='n' data-label='pictures in true order'>{percent(value)}</td>"
        rows += "</tr>"
    text = (
        "On answers kept aside from training (pairs, not episodes: both sides may show episodes that were trained on). "
        "Accuracy and calibration leave ties out. Log-loss: 0.69 is a coin; a tie costs 0.69 whatever is said, so the "
        "number in brackets is the best there is. Disagreement: deviation of the probability between members. "
    )
    if truth is not None:
        text += (
            "Pictures in true order: of random pairs of pictures from all logs whose true progress differs, the share "
            "that the reward puts in the right order; 50 % is a coin."
        )
    return f"<table class='plain'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{note(text)}"


def _held_out(facts: Mapping[str, float]) -> str:
    pairs, ties = int(facts.get("pairs", 0)), int(facts.get("ties", 0))
    if not pairs:
        return "<td colspan='5'>no answers were kept aside</td>"
    if "accuracy" not in facts:
        return f"<td colspan='5'>{number(pairs)} answers were kept aside, all of them ties</td>"
    accuracy, clear = facts["accuracy"], pairs - ties
    right = f" {bounds(wilson(round(accuracy * clear), clear))}" if clear else ""
    floor = number(ties / pairs * float(np.log(2)), 2)
    return (
        f"<td class='n' data-label='pairs, ties'>{number(pairs)}, {number(ties)}</td>"
        f"<td data-label='accuracy'>{percent(accuracy)}{right}</td>"
        f"<td class='n' data-label='log-loss'>{number(facts['log_loss'], 2)} <span class='ci'>({floor})</span></td>"
        f"<td class='n' data-label='calibration error'>{number(facts['calibration_error'], 3)}</td>"
        f"<td class='n' data-label='disagreement'>{number(facts['disagreement'], 3)}</td>"
    )


def _ordered(store: Store, name: str, truth: np.ndarray) -> float:
    """Share of random pairs of pictures with different truth that the reward orders rightly; NaN where there is none.

    A row's reward judges the next row's picture, so it is held against the next row's truth.
    """
    mean = store.column(f"reward/{name}/mean")
    camera = store.rewards()[name].get("camera")
    rows = store.frame_rows(str(camera)) if camera in store.cameras else np.arange(len(store))
    rows = rows[rows > 0]
    rows = rows[np.isfinite(mean[rows - 1])]
    if not len(rows):
        return float("nan")
    a, b = rows[np.random.default_rng(0).integers(len(rows), size=(2, ORDERED_PAIRS))]
    difference = np.round(truth[a].astype(np.float64) - truth[b], DIGITS)
    right = (mean[a - 1] > mean[b - 1]) == (difference > 0)
    return float(right[difference != 0].mean()) if (difference != 0).any() else float("nan")


def choose(store: Store, found: Quality, name: str) -> tuple[dict[str, int], str]:
    """A good and a bad episode, and the rule by which they were found."""
    success = store.episodes.success
    if found.known:
        rule = "Good: farthest in true progress. Bad: ends least far. The first of equals."
        places = {"good": int(np.nanargmax(found.best)), "bad": int(np.nanargmin(found.final))}
    elif (success == 1).any() and (success == 0).any():
        rule = "Good: the first that succeeded. Bad: the first that failed."
        places = {"good": int(np.argmax(success == 1)), "bad": int(np.argmax(success == 0))}
    else:
        mean, table = store.column(f"reward/{name}/mean"), store.episodes
        means = [np.nanmean(mean[start:stop]) for start, stop in zip(table.start, table.stop, strict=True)]
        rule = (
            "Nothing tells which episode is good, so these are the ones of highest and lowest mean reward: "
            "look at the pictures and judge whether the reward is right."
        )
        places = {"highest reward": int(np.argmax(means)), "lowest reward": int(np.argmin(means))}
    return (places if len(set(places.values())) > 1 else dict([*places.items()][:1])), rule


def _episodes(run: Run, store: Store, names: Mapping[int, str], found: Quality, pictures: Pictures) -> str:
    seed, name = next(iter(names.items()))
    places, rule = choose(store, found, name)
    curves = {place: {s: _curve(store, column, place) for s, column in names.items()} for place in places.values()}
    shown = [curve for by_seed in curves.values() for curve in by_seed.values()]
    low = min(float(np.min(c.mean - c.std)) for c in shown)
    high = max(float(np.max(c.mean + c.std)) for c in shown)
    pad = 0.06 * (high - low) or 0.5
    parts = [
        _episode(store, found, pictures, kind, place, curves[place], (low - pad, high + pad))
        for kind, place in places.items()
    ]
    text = (
        f"{rule} Blue: reward of seed {seed}, mean of its ensemble and one standard deviation either way; each dot "
        "lies beneath the picture that it judges (the first picture of an episode is never judged). "
    )
    if len(names) > 1:
        text += "Faint: the other seeds. "
    if found.known:
        text += "Thin dark line, right axis: true progress, never seen by the reward. "
    text += "The unit of a learned reward means nothing; both plots share their axis."
    legend = f"<p class='legend'><span><i style='background:{colour('learned')}'></i>learned reward</span>"
    legend += "<span><i class='is-truth'></i>true progress</span></p>" if found.known else "</p>"
    return legend + "".join(parts) + note(text)


def _curve(store: Store, name: str, place: int) -> Curve:
    start, stop = int(store.episodes.start[place]), int(store.episodes.stop[place])
    mean, std = (store.column(f"reward/{name}/{kind}")[start:stop].astype(np.float64) for kind in ("mean", "std"))
    rows = np.flatnonzero(np.isfinite(mean))
    return Curve(store.column("time")[start:stop][rows + 1], mean[rows], std[rows])


def _episode(
    store: Store,
    found: Quality,
    pictures: Pictures,
    kind: str,
    place: int,
    curves: Mapping[int, Curve],
    y: tuple[float, float],
) -> str:
    table, time = store.episodes, store.column("time")
    own = pictures.rows(place)
    rows = own[even(len(own), most=FRAMES)]
    cell = float(time[rows[-1]] - time[rows[0]]) / max(1, len(rows) - 1)
    plot = Plot(
        x=(float(time[rows[0]]) - cell / 2, float(time[rows[-1]]) + cell / 2) if cell else (0.0, 1.0),
        y=y,
        label=f"reward along the {kind} episode",
        height=170,
    )
    plot.grid(x=time[rows].tolist())
    plot.y_labels = ticks(*y)
    if found.known:
        _draw_truth(plot, store, place)
    _draw_reward(plot, list(curves.values()), time[rows])
    outcome = {1: ", succeeded", 0: ", did not succeed"}.get(int(table.success[place]), "")
    best = f", best progress {percent(float(found.best[place]))}" if found.known else ""
    told = f"{escape(table.id[place])}; {escape(table.source[place] or 'no source recorded')}{outcome}{best}"
    head = f"<h3>{kind.capitalize()} episode<span class='what'>{told}</span></h3>"
    strip = pictures.strip(rows.tolist(), [f"{t:.1f} s" for t in time[rows]])
    wide = " both" if found.known else ""
    return f"{head}<div class='scroll'><div class='aligned{wide}'>{strip}{plot.html()}</div></div>"


def _draw_truth(plot: Plot, store: Store, place: int) -> None:
    start, stop = int(store.episodes.start[place]), int(store.episodes.stop[place])
    low, high = plot.y
    floor, reach = low + TRUTH_MARGIN * (high - low), (1 - 2 * TRUTH_MARGIN) * (high - low)
    progress = floor + reach * store.column("truth/progress")[start:stop].astype(np.float64)
    plot.line(store.column("time")[start:stop].tolist(), progress.tolist(), colour="var(--ink)", kind="thin")
    plot.right_labels = [(floor, "0 %"), (floor + reach / 2, "50 %"), (floor + reach, "100 %")]


def _draw_reward(plot: Plot, curves: Sequence[Curve], at: Float64[np.ndarray, " k"]) -> None:
    ink, first = colour("learned"), curves[0]
    for other in curves[1:]:
        plot.line(other.time.tolist(), other.mean.tolist(), colour=ink, kind="faint")
    times = first.time.tolist()
    plot.band(times, (first.mean - first.std).tolist(), (first.mean + first.std).tolist(), colour=ink)
    plot.line(times, first.mean.tolist(), colour=ink)
    inside = at[(at >= first.time[0]) & (at <= first.time[-1])]
    plot.dots(inside.tolist(), np.interp(inside, first.time, first.mean).tolist(), colour=ink)
