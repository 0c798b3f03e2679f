"""The result table, drawn, and one film of each policy."""

from collections.abc import Mapping, Sequence

import numpy as np

from vlmrl.errors import DataError
from vlmrl.evaluate.report.arms import colour, line, title
from vlmrl.evaluate.report.folder import UNTRAINED, Run
from vlmrl.evaluate.results import Row
from vlmrl.evaluate.rollout import Rollouts
from vlmrl.interval import Interval
from vlmrl.page.markup import (
    bounds,
    data_url,
    escape,
    interval,
    missing,
    note,
    number,
    percent,
    plural,
    points,
    section,
)
from vlmrl.store.pictures import jpeg

MOST_FILM_BYTES = 9 << 20
"""Of all films together."""

DRAWS = 10_000
"""Of the bootstrap, as `statistics` has it."""


def table(run: Run) -> str:
    """Success of every arm, with intervals as whiskers and differences around a line at zero."""
    if not run.rows:
        text = (
            "No policy was evaluated: these are logs without a simulator. What the policies do, only a robot can tell."
        )
        return section("result", "Result", missing(text))
    baselines = list(dict.fromkeys(arm for row in run.rows for arm in row.versus))
    head = "<th>policy</th><th>success, 95 % interval</th><th class='n'>mean return</th>"
    head += "".join(f"<th>minus {escape(title(arm).lower())}</th>" for arm in baselines)
    reach = max([0.05, *(max(abs(d.low), abs(d.high)) for row in run.rows for d in row.versus.values())])
    body = "".join(_line(run, row, baselines, reach=min(1.0, reach * 1.1)) for row in run.rows)
    made = f"<table class='result'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return section("result", "Result", made, note(_explained(run)))


def films(run: Run) -> str:
    """One rollout of each policy, side by side."""
    if not run.films:
        return section("films", "What the policies do", missing("No rollout was filmed in this run."))
    cards, left = [], MOST_FILM_BYTES
    for arm, path in run.films.items():
        size = path.stat().st_size
        if size > left:
            text = f"{path.name} is too big for this page; it lies in videos/."
            cards.append(f"<figure><p class='missing'>{escape(text)}</p>{_caption(run, arm)}</figure>")
            continue
        left -= size
        poster = _poster(run, arm)
        cards.append(
            f"<figure><video controls muted loop playsinline preload='metadata'{poster} "
            f"aria-label='{escape(title(arm))}' "
            f"src='{data_url(path, 'video/mp4')}'></video>{_caption(run, arm)}</figure>"
        )
    text = (
        "All start from the same initial state, the first of the evaluation; no film was chosen. Before it plays, each "
        "shows its last picture. Films run in real time. A robot that is hidden from the judge’s camera is shown here."
    )
    button = "<button type='button' id='play'>Play all together</button>"
    return section("films", "What the policies do", button, f"<div class='films'>{''.join(cards)}</div>", note(text))


def _line(run: Run, row: Row, baselines: Sequence[str], *, reach: float) -> str:
    ink = colour(row.arm)
    count = plural(row.episodes, "initial state")
    count = f"{plural(row.seeds, 'training seed')} × {count}" if row.seeds else f"{count}, nothing trained"
    cells = [
        f"<th scope='row'><span class='arm'><i style='background:{ink}'></i>{escape(title(row.arm))}</span>"
        f"<span class='what'>{escape(line(row.arm, run.config))}</span><span class='what'>{count}</span></th>",
        f"<td data-label='success'><span class='figure'>{interval(row.success)}</span>"
        f"{_bar(row.success, run.rollouts.get(row.arm, {}), ink)}</td>",
        f"<td class='n' data-label='mean return'>{number(row.returns)}</td>",
    ]
    for arm in baselines:
        found = row.versus.get(arm)
        inner = "<span class='none'>–</span>" if found is None else _difference(found, ink, reach=reach)
        cells.append(f"<td data-label='minus {escape(title(arm).lower())}'>{inner}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _bar(found: Interval, rollouts: Mapping[int, Rollouts], ink: str) -> str:
    """The rate as a bar, its interval as a whisker, single seeds as dots beneath."""
    seeds = [float(r.success.mean()) for seed, r in rollouts.items() if seed != UNTRAINED]
    dots = "".join(f"M{1000 * x:.1f} 890h0" for x in seeds) if len(seeds) > 1 else ""
    return (
        f"<svg class='bar' viewBox='0 0 1000 1000' preserveAspectRatio='none' role='img' "
        f"aria-label='{percent(found.estimate)}'><rect class='track' width='1000' height='700'/>"
        f"<rect style='fill:{ink}' y='120' width='{1000 * found.estimate:.1f}' height='460'/>"
        f"<path class='whisker' d='M{1000 * found.low:.1f} 350H{1000 * found.high:.1f}"
        f"M{1000 * found.low:.1f} 210V490M{1000 * found.high:.1f} 210V490'/>"
        f"<path class='seeds' style='stroke:{ink}' d='{dots}'/></svg>"
    )


def _difference(found: Interval, ink: str, *, reach: float) -> str:
    low, mid, high = (500 + 500 * x / reach for x in (found.low, found.estimate, found.high))
    return (
        f"<span class='figure'>{points(found.estimate)} {bounds(found, signed=True)}</span>"
        f"<svg class='forest' viewBox='0 0 1000 1000' preserveAspectRatio='none' role='img' "
        f"aria-label='{points(found.estimate)}'><path class='zero' d='M500 0V1000'/>"
        f"<path class='whisker' style='stroke:{ink}' d='M{low:.1f} 500H{high:.1f}'/>"
        f"<path class='dots' style='stroke:{ink}' d='M{mid:.1f} 500h0'/></svg>"
    )


def _explained(run: Run) -> str:
    """How to read the table, and how its intervals are made."""
    several = max((row.seeds for row in run.rows), default=0) > 1
    if several:
        how = f"a bootstrap that draws training seeds and initial states ({number(DRAWS)} draws), "
        how += "never narrower than over the initial states alone (Wilson’s, Newcombe’s for differences) nor than over "
        how += "the training seeds alone (Student’s; Wilson’s where every seed is all or nothing). "
        how += "Dots: single seeds."
    else:
        how = "Wilson’s formula over episodes for success; for differences a bootstrap over episodes "
        how += f"({number(DRAWS)} draws), never narrower than Newcombe’s paired interval."
    return (
        "Success: the task’s predicate held at any step. Return: sum of the simulator’s own reward over the horizon. "
        f"Intervals are 95 %: {how} Differences are in percentage points, paired by training seed and initial state; "
        "every policy starts from the same states. "
    )


def _caption(run: Run, arm: str) -> str:
    title_line = f"<span class='arm'><i style='background:{colour(arm)}'></i>{escape(title(arm))}</span>"
    rollouts = run.rollouts.get(arm, {})
    if not rollouts:
        return f"<figcaption>{title_line}</figcaption>"
    seed, first = next(iter(rollouts.items()))
    step = int(first.first_success[0])
    outcome = f"success at step {step + 1}" if first.success[0] else "no success"
    who = "" if seed == UNTRAINED else f"training seed {seed}, "
    text = f"{outcome}; {who}initial state {int(first.seeds[0])}, return {number(float(first.returns[0]))}"
    return f"<figcaption>{title_line}<span class='what'>{escape(text)}</span></figcaption>"


def _poster(run: Run, arm: str) -> str:
    """The film's last picture, where PyAV can read it: paper shows the outcome too."""
    try:
        import av
        from av.error import FFmpegError
    except ModuleNotFoundError:
        return ""
    try:
        with av.open(str(run.films[arm])) as container:
            picture: np.ndarray | None = None
            for frame in container.decode(video=0):
                picture = frame.to_ndarray(format="rgb24")
    except FFmpegError as error:
        raise DataError(f"{run.films[arm]} is no film ({error}); delete it and run the job again") from error
    return "" if picture is None else f" poster='{data_url(jpeg(picture), 'image/jpeg')}'"
