"""What was asked, what was answered, and how often that is right."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmrl.evaluate.report.answers import EQUAL, Answers, Bin, by_difference
from vlmrl.evaluate.report.folder import Run
from vlmrl.evaluate.report.headline import who
from vlmrl.evaluate.report.markup import escape, interval, missing, note, number, percent, plural, section
from vlmrl.evaluate.report.pictures import Pictures
from vlmrl.store import Store

SHOWN = 4
"""Examples of each kind."""

KINDS: Mapping[str, tuple[str, str]] = {
    "right": ("Right", "chose the side that is farther"),
    "wrong": ("Wrong", "chose the side that is not as far"),
    "tie_missed": ("Tie, though the truth differs", "no side chosen"),
    "tie_right": ("Tie, and the truth is equal", "no side chosen"),
    "invented": ("Chose a side, though the truth is equal", "nothing to be right about"),
    "a": ("Chose A", "the truth is not known"),
    "b": ("Chose B", "the truth is not known"),
    "tie": ("Tie", "the truth is not known"),
}


def html(run: Run, store: Store, answers: Answers | None, pictures: Pictures | None) -> str:
    """The section about the questions."""
    if answers is None:
        return section("questions", "The questions", missing("No questions were asked in this run."))
    parts = [f"<p>{_words(run, answers)}</p>", _accuracy(answers), _examples(store, answers, pictures)]
    return section("questions", "The questions", *parts)


def _words(run: Run, answers: Answers) -> str:
    labels: Mapping[str, Any] = run.labels or {}
    verdicts = labels.get("verdicts") or {}
    names = {"a": "A is farther", "b": "B is farther", "tie": "a tie", "unsure": "unsure (never trained on)"}
    counted = [f"{number(int(n))} {escape(names.get(kind, kind))}" for kind, n in verdicts.items() if n]
    unreadable = int(labels.get("unreadable", 0))
    counted += [f"{number(unreadable)} unreadable"] if unreadable else []
    text = f"Each question shows two pictures, A and B. Answered by {who(run)}: {', '.join(counted) or 'nothing'}. "
    text += f"It took {plural(int(labels.get('calls', 0)), 'call')}, {plural(int(labels.get('tokens', 0)), 'token')} "
    text += f"and ${labels.get('usd', 0.0):.2f}; {plural(len(answers), 'answer')} went into training."
    return text


def _accuracy(answers: Answers) -> str:
    if answers.truth is None:
        return missing("The truth is not known for these data, so nothing here says how many answers are right.")
    found, kinds = answers.accuracy(), answers.kinds()
    if found is None:
        return missing("No answer chose a side where the truth differs: there is nothing to be right about.")
    decided = len(kinds["right"]) + len(kinds["wrong"])
    differ = decided + len(kinds["tie_missed"])
    text = (
        f"<p>Of {plural(len(answers), 'pair')}, {number(differ)} differ in true progress by more than {EQUAL:.1%} of the task. "
        f"In {number(decided)} of these a side was chosen, rightly in <b>{interval(found)}</b> (Wilson). "
        f"The other {number(differ - decided)} were called a tie.</p>"
    ).replace("0.1%", "0.1 %")
    bins = by_difference(answers)
    return text + (_drawn(bins) if bins else "")


def _drawn(bins: Sequence[Bin]) -> str:
    columns = "".join(_column(one) for one in bins)
    kind = "tenth" if len(bins) == 10 else "group"
    legend = (
        "<p class='legend'><span><i class='is-right'></i>right</span><span><i class='is-tie'></i>tie</span>"
        "<span><i class='is-wrong'></i>wrong</span></p>"
    )
    text = (
        f"Pairs whose truth differs, in {len(bins)} groups of equal size ({number(bins[0].total)} or so each), the closest on the left. "
        f"Below each: the largest difference of progress in that {kind}, in per cent of the task."
    )
    return f"{legend}<div class='bins' style='--n:{len(bins)}'>{columns}</div>{note(text)}"


def _column(one: Bin) -> str:
    parts = (("is-right", one.right), ("is-tie", one.tie), ("is-wrong", one.wrong))
    bars = "".join(f"<i class='{kind}' style='flex-grow:{n}'></i>" for kind, n in reversed(parts) if n)
    label = f"right {one.right}, tie {one.tie}, wrong {one.wrong}"
    return f"<div><div class='stack' role='img' aria-label='{label}' title='{label}'>{bars}</div><span>{_short(100 * one.high)}</span></div>"


def _short(value: float) -> str:
    return number(value, 1) if value < 9.95 else number(value)


def _examples(store: Store, answers: Answers, pictures: Pictures | None) -> str:
    if pictures is None:
        return missing("The store has no pictures of the camera that was asked for.")
    parts = []
    for kind, places in answers.kinds().items():
        title, meaning = KINDS[kind]
        count = f"{number(len(places))} of {number(len(answers))} ({percent(len(places) / len(answers))})"
        parts.append(f"<h3>{title}<span class='what'>{meaning}; {count}</span></h3>")
        cards = _cards(store, answers, pictures, kind, places[:SHOWN])
        parts.append(f"<div class='queries'>{cards}</div>" if cards else "<p class='what'>There is none.</p>")
    rule = f"The first {SHOWN} of each kind, in the order in which the pairs were drawn at random, before any was answered."
    return "".join(parts) + note(rule)


def _cards(store: Store, answers: Answers, pictures: Pictures, kind: str, places: Sequence[int]) -> str:
    table = store.episodes
    sides = (answers.a, answers.b)
    rows = [int(table.start[table.index(side[k][0])]) + side[k][1] for k in places for side in sides]
    addresses = pictures.addresses(rows)
    cards = []
    for i, k in enumerate(places):
        made = [_side(answers, int(k), s, addresses[2 * i + s]) for s in (0, 1)]
        cards.append(
            f"<div class='query {kind.replace('_', '-')}'>{''.join(made)}<p>{_verdict(answers, int(k))}</p></div>"
        )
    return "".join(cards)


def _side(answers: Answers, k: int, side: int, address: str) -> str:
    letter = "AB"[side]
    episode, row = (answers.a, answers.b)[side][k]
    p = answers.p_a[k] if side == 0 else 1 - answers.p_a[k]
    chosen = " class='chosen'" if p > 0.5 else ""
    caption = (
        f"<b>{letter}</b> {percent(float(answers.truth[k, side]))}" if answers.truth is not None else f"<b>{letter}</b>"
    )
    name = escape(f"{episode}, row {row}")
    return (
        f"<figure{chosen} title='{name}'><img src='{address}' alt='{name}'><figcaption>{caption}</figcaption></figure>"
    )


def _verdict(answers: Answers, k: int) -> str:
    p = float(answers.p_a[k])
    said = "called a tie" if p == 0.5 else f"chose {'A' if p > 0.5 else 'B'}"
    if 0 < p < 1 and p != 0.5:
        said += f" ({percent(max(p, 1 - p))} sure)"
    if answers.truth is None:
        return said
    difference = float(answers.difference()[k])
    if np.abs(difference) <= EQUAL:
        return f"{said}; both are equally far"
    return f"{said}; {'A' if difference > 0 else 'B'} is farther by {_short(100 * abs(difference))} %"
