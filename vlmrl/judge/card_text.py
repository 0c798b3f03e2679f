"""The judge's card as a page to read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlmrl.judge.exam import KINDS, RESAMPLES
from vlmrl.judge.train import DIFFERENT, EQUAL

_CANNOT = """- It sees one picture of each side, scaled to a small square, and no time: nothing that two single pictures
  do not show (forces, speeds, what happened before, small or hidden contacts) can be judged.
- All scenes here are rendered ones of Meta-World: photographs, other robots and simulators are no part of this card.
- It says which of two states is nearer to the goal, not that a goal was reached.
- It does not know when a sentence has nothing to do with the scene: see "wrong sentence".
- A blank or broken picture is scored like any other: see "one side blank"."""


def markdown(figures: Mapping[str, Any], name: str) -> str:
    """Write the card; `name` is that of the pictures beside it."""
    groups: Mapping[str, Any] = figures["groups"]
    parts = [
        f"# {figures['checkpoint']}",
        _about(figures),
        "## Pairs told right",
        _accuracy(groups),
        f"![by gap]({name}-deciles.png)",
        "## What its probability is worth",
        *_trust(figures),
        "## Under stress",
        _stress(groups),
        "## What it cannot do",
        f"{_CANNOT}\n{_weak(figures['tasks'])}",
        "## Best and worst",
        f"Per task the pair it was surest about and right (left), and surest about and wrong (right).\n\n"
        f"![best and worst]({name}-pairs.png)",
        "## Every task",
        _tasks(figures["tasks"]),
    ]
    return "\n\n".join(parts) + "\n"


def _about(figures: Mapping[str, Any]) -> str:
    count = len(figures["tasks"])
    measured = "measured with the checkpoint" if figures["calibrated"] else "1 / logit scale: never measured"
    trained = f" Trained on: {figures['trained_on']}." if figures["trained_on"] else ""
    temperatures = ", ".join(f"{key} {value:.4f}" for key, value in figures["temperature"].items())
    return (
        f"Written by `vlmrl judge card`; all figures are in the JSON file beside it. Fingerprint "
        f"`{figures['fingerprint'][:12]}`.{trained} Examined on {figures['pictures']} pictures of {count} tasks, "
        f"{figures['episodes']} new episodes each. A pair is two pictures of one task from one view whose true "
        f"progress differs by more than {DIFFERENT}; equal scores count one half. Brackets: 95 % intervals, from "
        f"{RESAMPLES} resamples of the episodes (tasks and cameras stay). Temperature ({measured}): {temperatures}."
    )


def _accuracy(groups: Mapping[str, Any]) -> str:
    head = ["tasks", "n tasks", "all views", "stock cameras", "the paper's camera", "random views", "n pairs"]
    rows = [
        [
            name,
            group["tasks"],
            *(_interval(group["accuracy"][kind]) for kind in ("all", *KINDS)),
            group["accuracy"]["all"]["pairs"],
        ]
        for name, group in groups.items()
    ]
    return "Mean over tasks of the share of pairs told right.\n\n" + _table(head, rows)


def _trust(figures: Mapping[str, Any]) -> list[str]:
    groups = figures["groups"]
    rows = [
        [
            name,
            group["verdicts"]["pairs"],
            _percent(group["verdicts"]["decided"]),
            _percent(group["verdicts"]["accuracy"]),
            group["verdicts"]["equal_pairs"],
            _percent(group["verdicts"]["invented"]),
            _percent(group["calibration"]["ece"]),
        ]
        for name, group in groups.items()
    ]
    said = (
        f"A side is named from p = {figures['threshold']:.2f} on. Equal pairs differ by less than {EQUAL} in progress: "
        "a preference there is invented. ECE: mean distance between how sure it is and how often it is right."
    )
    if figures["calibrated"]:
        said += (
            " Temperatures were measured on other episodes and views: one number for tasks trained on; that of "
            "held-out tasks comes from yet other tasks, left out of a rehearsal."
        )
    head = ["tasks", "n pairs", "decided", "right of those", "n equal pairs", "invented", "ECE"]
    found = [f"{said}\n\n{_table(head, rows)}"]
    for name, group in groups.items():
        bins = [[_percent(b["sure"]), _percent(b["accuracy"]), b["pairs"]] for b in group["calibration"]["bins"]]
        found.append(f"Calibration, tasks {name}:\n\n" + _table(["says", "is right", "n pairs"], bins))
    return found


def _stress(groups: Mapping[str, Any]) -> str:
    keys = list(next(iter(groups.values()))["stress"]) if groups else []
    rows = [
        [
            key,
            *(f"{_percent(g['stress'][key]['mean'])} (n = {g['stress'][key]['tasks']} tasks)" for g in groups.values()),
        ]
        for key in keys
    ]
    said = (
        "Means over tasks, on pairs that differ. Sureness: |p - 1/2|, so 50 % is certain; asked with a sentence that "
        "has nothing to do with the scene it ought to be 0. Opposite: right where the answer turns round with the "
        "sentence. Reworded: the task's other sentences (tasks trained on were trained on these, too). Altered: a "
        "quarter of the episodes, both pictures alike. Blank: black, grey and white. Swapped: each picture is scored "
        "by itself, so that the order cannot matter; what is left is rounding."
    )
    return f"{said}\n\n{_table(['test', *groups], rows)}"


def _weak(tasks: Mapping[str, Any]) -> str:
    """Name the tasks whose interval does not exclude a coin, from all views or from some."""
    weak = [
        f"{name} ({kind} views {_percent(task[kind]['accuracy'])})"
        for name, task in tasks.items()
        for kind in ("all", *KINDS)
        if task[kind]["low"] is not None and task[kind]["low"] <= 0.5
    ]
    said = ", ".join(weak) or "none"
    return f"- Tasks that it does not tell better than a coin (the interval reaches 50 %): {said}."


def _tasks(tasks: Mapping[str, Any]) -> str:
    head = ["task", "sentence", "trained on", "all views", "stock", "paper", "random", "n pairs"]
    order = sorted(tasks, key=lambda name: (tasks[name]["trained"], name))
    rows = [
        [
            name,
            tasks[name]["sentence"],
            "yes" if tasks[name]["trained"] else "no",
            _interval(tasks[name]["all"]),
            *(_percent(tasks[name][kind]["accuracy"]) for kind in KINDS),
            tasks[name]["all"]["pairs"],
        ]
        for name in order
    ]
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _interval(value: Mapping[str, Any]) -> str:
    if value["accuracy"] is None:
        return "none"
    return f"{_percent(value['accuracy'])} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"
