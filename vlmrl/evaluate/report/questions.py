"""What was asked, what was answered, and how often that is right."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmrl.annotate.audit import DIGITS, Accuracy
from vlmrl.evaluate.report import trust
from vlmrl.evaluate.report.answers import Answers
from vlmrl.evaluate.report.folder import Run
from vlmrl.evaluate.report.headline import who
from vlmrl.page.markup import escape, interval, missing, note, number, percent, plural, section
from vlmrl.store import Store
from vlmrl.store.pictures import Pictures

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
    parts = [f"<p>{_words(run, answers)}</p>", trust.html(run), _accuracy(answers), _examples(store, answers, pictures)]
    return section("questions", "The questions", *parts)


def _words(run: Run, answers: Answers) -> str:
    labels: Mapping[str, Any] = run.labels or {}
    verdicts = labels.get("verdicts") or {}
    names = {"a": "A", "b": "B", "tie": "tie", "unsure": "unsure (never trained on)"}
    counted = [f"{escape(names.get(kind, kind))} {number(int(n))}" for kind, n in verdicts.items() if n]
    unreadable = int(labels.get("unreadable", 0))
    counted += [f"unreadable {number(unreadable)}"] if unreadable else []
    text = (
        "Each question shows two pictures, A and B, and asks which is closer to what the sentence says. "
        f"Answered by {who(run)}. Answers: {', '.join(counted) or 'none'}. "
        f"It took {plural(int(labels.get('calls', 0)), 'call')}, {plural(int(labels.get('tokens', 0)), 'token')} "
        f"and ${labels.get('usd', 0.0):.2f}; {plural(len(answers), 'answer')} went to the reward."
    )
    return text


def _accuracy(answers: Answers) -> str:
    audit = answers.audit()
    if audit is None:
        return missing("The truth is not known for these data, so nothing here says how many answers are right.")
    found, overall = answers.accuracy(), audit.overall
    if found is None:
        return missing("No answer chose a side where the truth differs: there is nothing to be right about.")
    text = (
        f"<p>Of {plural(len(answers), 'pair')}, {number(overall.pairs)} differ in true progress by more than "
        f"{_short(100 * 10.0**-DIGITS)} % of the task. In {number(overall.decided)} of these a side was chosen, "
        f"rightly in <b>{interval(found)}</b> (Wilson). "
        f"The other {number(overall.ties)} were called a tie. "
        f"Of the {plural(audit.equal, 'pair')} that are equal, {number(len(answers.kinds()['invented']))} "
        "were given a side all the same.</p>"
    )
    return text + _drawn(audit.by_difficulty)


def _drawn(bins: Sequence[Accuracy]) -> str:
    columns = "".join(_column(one) for one in bins)
    kind = "tenth" if len(bins) == 10 else "group"
    legend = (
        "<p class='legend'><span><i class='is-right'></i>right</span><span><i class='is-tie'></i>tie</span>"
        "<span><i class='is-wrong'></i>wrong</span></p>"
    )
    text = (
        f"Pairs whose truth differs, in {plural(len(bins), 'group')} of about {number(bins[0].pairs)}, the closest on "
        f"the left. Below each: the largest difference of progress in that {kind}, in per cent of the task."
    )
    return f"{legend}<div class='bins' style='--n:{len(bins)}'>{columns}</div>{note(text)}"


def _column(one: Accuracy) -> str:
    wrong = one.decided - one.correct
    parts = (("is-right", one.correct), ("is-tie", one.ties), ("is-wrong", wrong))
    bars = "".join(f"<i class='{kind}' style='flex-grow:{n}'></i>" for kind, n in reversed(parts) if n)
    label = f"right {one.correct}, tie {one.ties}, wrong {wrong}"
    stack = f"<div class='stack' role='img' aria-label='{label}' title='{label}'>{bars}</div>"
    return f"<div>{stack}<span>{_short(100 * one.farthest)}</span></div>"


def _short(value: float) -> str:
    return number(value, 1) if 0.05 <= value < 9.95 else number(value)


def _examples(store: Store, answers: Answers, pictures: Pictures | None) -> str:
    if pictures is None:
        return missing("The store has no pictures of the camera that was asked for.")
    parts = []
    for kind, places in answers.kinds().items():
        title, meaning = KINDS[kind]
        count = f"{number(len(places))} of {number(len(answers))} ({percent(len(places) / len(answers))})"
        parts.append(f"<h3>{title}<span class='what'>{meaning}; {count}</span></h3>")
        cards = _cards(store, answers, pictures, kind, places[:SHOWN].tolist())
        parts.append(f"<div class='queries'>{cards}</div>" if cards else "")
    rule = (
        f"The first {SHOWN} of each kind, in the order in which the pairs were drawn: at random, before any was "
        "answered. A frame marks the side that was chosen."
    )
    if answers.truth is not None:
        rule += " Below each picture: its true progress, which the learned reward never sees."
    return "".join(parts) + note(rule)


def _cards(store: Store, answers: Answers, pictures: Pictures, kind: str, places: Sequence[int]) -> str:
    table = store.episodes
    sides = (answers.a, answers.b)
    rows = [int(table.start[table.index(side[k].episode)]) + side[k].row for k in places for side in sides]
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
    frame = (answers.a, answers.b)[side][k]
    p = answers.p_a[k] if side == 0 else 1 - answers.p_a[k]
    chosen = " class='chosen'" if p > 0.5 else ""
    caption = f"<b>{letter}</b>"
    if answers.truth is not None:
        caption += f" {_short(100 * float(answers.truth[k, side]))} %"
    name = escape(f"{frame.episode}, row {frame.row}")
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
    if difference == 0:
        return f"{said}; both are equally far"
    return f"{said}; {'A' if difference > 0 else 'B'} is farther by {_short(100 * abs(difference))} %"
