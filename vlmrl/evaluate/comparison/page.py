"""Methods and runs side by side: rates, differences, when and from where they succeed, and films of both outcomes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vlmrl.errors import ConfigError
from vlmrl.evaluate import aggregate
from vlmrl.evaluate.comparison import figures
from vlmrl.evaluate.comparison.read import Entry, read
from vlmrl.evaluate.statistics import difference, rate
from vlmrl.evaluate.summary import matrix, stacked
from vlmrl.interval import Interval
from vlmrl.page import write_page
from vlmrl.page.markup import bounds, data_url, escape, interval, listed, note, number, percent, plural, points, section

INKS = ("learned", "bc", "ground-truth", "constant", "behaviour", "other")
MOST_FILM_BYTES = 24 << 20
"""Of all films together."""

Labelled = Mapping[str, Entry]


def write(folders: Sequence[Path], path: Path) -> Path:
    """Write the page of one or several run folders.

    Raises:
        ConfigError: if a folder holds no evaluation, or the runs' tasks differ under one name.
    """
    entries = [entry for folder in folders for entry in read(folder)]
    tasks = {task: _labelled([e for e in entries if e.task == task]) for task in dict.fromkeys(e.task for e in entries)}
    for task, labelled in tasks.items():
        if len(versions := {e.task_version for e in labelled.values() if e.task_version}) > 1:
            raise ConfigError(f"task {task!r} was changed between these runs ({', '.join(sorted(versions))})")
    inks = {name: f"var(--arm-{INKS[k % len(INKS)]})" for k, name in enumerate(_names(tasks))}
    body = [_head(tasks, len(folders))]
    body += [_task(task, labelled, inks) for task, labelled in tasks.items()]
    body += [_overall(tasks, inks), _films(tasks, inks), _made(entries)]
    return write_page(path, title=f"evaluation of {listed(list(tasks))}", body="".join(body))


def _labelled(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Entries by a name that tells them apart: the method, with its run where the method alone does not."""
    methods = [e.method for e in entries]
    made: dict[str, Entry] = {}
    for entry in entries:
        name = entry.method if methods.count(entry.method) == 1 else f"{entry.method} ({entry.run})"
        made[name if name not in made else f"{name} {len(made) + 1}"] = entry
    return made


def _names(tasks: Mapping[str, Labelled]) -> list[str]:
    return list(dict.fromkeys(name for labelled in tasks.values() for name in labelled))


def _head(tasks: Mapping[str, Labelled], runs: int) -> str:
    told = []
    for task, labelled in tasks.items():
        rates = [f"{escape(name)} {interval(_success(entry))}" for name, entry in labelled.items()]
        told.append(f"<p>Success in <b>{escape(task)}</b>: {'; '.join(rates)}.</p>")
    remarks = [
        f"<p class='warning'>{escape(name)} in {escape(task)}: {escape(remark)}.</p>"
        for task, labelled in tasks.items()
        for name, entry in labelled.items()
        for remark in entry.remarks
    ]
    where = f"{plural(runs, 'run')}, {plural(len(tasks), 'task')}, {plural(len(_names(tasks)), 'method')}"
    return (
        f"<p class='eyebrow'>vlmrl evaluation · {where}</p><h1>{escape(listed(list(tasks)))}</h1>"
        f"<div class='summary'>{''.join(told)}</div>{''.join(remarks)}"
    )


def _success(entry: Entry) -> Interval:
    return entry.stopped or rate(stacked(entry.rollouts))


def _task(task: str, labelled: Labelled, inks: Mapping[str, str]) -> str:
    first = next(iter(labelled))
    gaps = {name: _gap(entry, labelled[first]) for name, entry in labelled.items() if name != first}
    reach = min(1.0, 1.1 * max([0.05, *(max(abs(g.low), abs(g.high)) for g, _ in gaps.values())]))
    scored = any(entry.reference for entry in labelled.values())
    head = "<th>policy</th><th>success, 95 % interval</th><th class='n'>at the end</th><th class='n'>mean return</th>"
    head += "<th class='n'>D4RL score</th>" if scored else ""
    head += f"<th>minus {escape(first)}</th>" if gaps else ""
    rows = []
    for name, entry in labelled.items():
        cells = [_who(name, entry, inks[name]), _rate(entry, inks[name]), *_numbers(entry, scored=scored)]
        if gaps:
            cells.append(f"<td data-label='minus {escape(first)}'>{_forest(gaps.get(name), inks[name], reach)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    table = f"<table class='result'><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    curves = figures.by_time({name: (entry, inks[name]) for name, entry in labelled.items()})
    states = figures.by_state({name: (entry, inks[name]) for name, entry in labelled.items()})
    words = note(_explained(labelled, gaps))
    return section(f"task-{escape(task)}", f"Result in {task}", table, words, curves, states)


def _gap(entry: Entry, other: Entry) -> tuple[Interval, int]:
    """Difference over the initial states that both have, and how many those are."""
    shared = sorted(set(entry.rollouts[0].seeds.tolist()) & set(other.rollouts[0].seeds.tolist()))
    if not shared:
        raise ConfigError(f"{entry.method} ({entry.run}) and {other.method} ({other.run}) share no initial state")
    _check_starts(entry, other, shared)
    a, b = (
        np.stack([r.success[np.isin(r.seeds, shared)].astype(np.float64) for r in e.rollouts]) for e in (entry, other)
    )
    return difference(a, b), len(shared)


def _check_starts(entry: Entry, other: Entry, shared: Sequence[int]) -> None:
    """Pairs are of one initial state, where both kept a fingerprint of it.

    Raises:
        ConfigError: if a seed started otherwise in the other run.
    """
    starts = [{e.seed: e.start for r in one.rollouts for e in r.episodes} for one in (entry, other)]
    differ = [s for s in shared if s in starts[0] and s in starts[1] and starts[0][s] != starts[1][s]]
    if differ:
        raise ConfigError(
            f"{entry.method} ({entry.run}) and {other.method} ({other.run}) started otherwise from {len(differ)} of "
            f"{len(shared)} seeds (the first: {differ[0]}), so they cannot be paired: the task, MuJoCo or vlmrl's "
            "fingerprint of a start was another; evaluate both again"
        )


def _who(name: str, entry: Entry, ink: str) -> str:
    count = plural(len(entry.rollouts[0].seeds), "initial state")
    seeds = f"{plural(len(entry.rollouts), 'training seed')} × {count}" if entry.trained else f"{count}, not trained"
    return (
        f"<th scope='row'><span class='arm'><i style='background:{ink}'></i>{escape(name)}</span>"
        f"<span class='what'>{seeds}</span></th>"
    )


def _rate(entry: Entry, ink: str) -> str:
    found = _success(entry)
    return (
        f"<td data-label='success'><span class='figure'>{interval(found)}</span>"
        f"{figures.bar(found, [float(r.success.mean()) for r in entry.rollouts], ink)}</td>"
    )


def _numbers(entry: Entry, *, scored: bool) -> list[str]:
    ends = [e.success_end for r in entry.rollouts for e in r.episodes]
    returns = float(np.mean([r.returns.mean() for r in entry.rollouts]))
    cells = [
        f"<td class='n' data-label='at the end'>{percent(float(np.mean(ends))) if ends else '–'}</td>",
        f"<td class='n' data-label='mean return'>{number(returns)}</td>",
    ]
    if scored:
        score = number(entry.reference.score(returns), 1) if entry.reference else "–"
        cells.append(f"<td class='n' data-label='D4RL score'>{score}</td>")
    return cells


def _forest(gap: tuple[Interval, int] | None, ink: str, reach: float) -> str:
    if gap is None:
        return "<span class='none'>–</span>"
    found, shared = gap
    return (
        f"<span class='figure'>{points(found.estimate)} {bounds(found, signed=True)}</span>"
        f"{figures.forest(found, ink, reach)}<span class='what'>{plural(shared, 'shared state')}</span>"
    )


def _explained(labelled: Labelled, gaps: Mapping[str, object]) -> str:
    entries = labelled.values()
    told = (
        "Success: the predicate held at any step; at the end: at the last one. Every episode runs to its horizon, and "
    )
    told += "one whose simulation fails counts as a failure. Intervals are 95 %: "
    if any(len(e.rollouts) > 1 for e in entries):
        told += "over training seeds and initial states by a two-way bootstrap, never narrower than over either alone "
        told += "(dots: single seeds). "
    else:
        told += "Wilson’s over initial states: of this policy, not of the method that trained it. "
    if any(e.stopped for e in entries):
        told += "Where the number of episodes was not fixed before, the interval is one that holds at any stop. "
    if gaps:
        told += "Differences are paired over the initial states that both have, in percentage points. "
    if any(e.reference for e in entries):
        told += "D4RL score: 0 is a random policy, 100 an expert. "
    return told


def _overall(tasks: Mapping[str, Labelled], inks: Mapping[str, str]) -> str:
    names = [name for name in _names(tasks) if all(name in labelled for labelled in tasks.values())]
    if len(tasks) < 2 or not names:
        return ""
    rows, bands = [], []
    for name in names:
        unit, scores = matrix([labelled[name].rollouts for labelled in tasks.values()])
        several = unit == "training seeds"
        mean = aggregate.interval(aggregate.mean, scores)
        cells = [f"<td><span class='figure'>{interval(mean)}</span>{figures.bar(mean, [], inks[name])}</td>"]
        for function in (aggregate.iqm, aggregate.optimality_gap):
            shown = interval(aggregate.interval(function, scores)) if several else "–"
            cells.append(f"<td>{shown}</td>")
        who = f"<span class='arm'><i style='background:{inks[name]}'></i>{escape(name)}</span>"
        rows.append(f"<tr><th scope='row'>{who}<span class='what'>{unit} drawn again</span></th>{''.join(cells)}</tr>")
        if several:
            bands.append((name, scores, inks[name]))
    head = "<th>policy</th><th>mean success</th><th>interquartile mean</th><th>optimality gap</th>"
    table = f"<table class='result'><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    words = (
        f"Over {plural(len(tasks), 'task')}. Intervals are 95 %, by drawing again within each task (stratified "
        "bootstrap): they say how the result varies with other training seeds on these tasks, not with other tasks. "
        "Interquartile mean and optimality gap need several training seeds (Agarwal et al. 2021)."
    )
    return section("overall", "Over all tasks", table, note(words), figures.profiles(bands))


def _films(tasks: Mapping[str, Labelled], inks: Mapping[str, str]) -> str:
    cards, left = [], MOST_FILM_BYTES
    for task, labelled in tasks.items():
        for name, entry in labelled.items():
            if entry.film is None:
                continue
            head = f"<span class='arm'><i style='background:{inks[name]}'></i>{escape(name)} in {escape(task)}</span>"
            if (size := entry.film.stat().st_size) > left:
                cards.append(f"<figure><p class='missing'>{escape(entry.film)} is too big for this page.</p></figure>")
                continue
            left -= size
            cards.append(
                f"<figure><video controls muted loop playsinline preload='metadata' aria-label='{escape(name)}' "
                f"src='{data_url(entry.film, 'video/mp4')}'></video><figcaption>{head}</figcaption></figure>"
            )
    if not cards:
        return ""
    words = (
        "The first successes and the first failures, chosen by nothing else, run again from the same seeds with a "
        "camera. Green: the success predicate has held. Bar: progress by the simulator. Blue line: the learned reward "
        "so far, where one was given."
    )
    return section("films", "Successes and failures", *cards, note(words))


def _made(entries: Sequence[Entry]) -> str:
    runs = {entry.run: entry for entry in entries}
    rows = []
    for run, entry in runs.items():
        meta = entry.meta
        packages = ", ".join(f"{k} {v}" for k, v in (meta.get("packages") or {}).items())
        facts = {"command": meta.get("command"), "commit": meta.get("commit"), "packages": packages}
        shown = [f"{key}: <code>{escape(value)}</code>" for key, value in facts.items() if value]
        sources = sorted({s for e in entries if e.run == run for s in e.sources})
        shown.append(f"policies: <code>{escape(', '.join(sources))}</code>")
        rows.append(f"<tr><th scope='row'>{escape(run)}</th><td>{'<br>'.join(shown)}</td></tr>")
    return section("settings", "What was run", f"<table class='settings'><tbody>{''.join(rows)}</tbody></table>")
