"""Learning curves: one thin line a training seed, and their mean."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmrl.evaluate.report.arms import colour, title
from vlmrl.evaluate.report.folder import Run
from vlmrl.page.markup import escape, missing, note, plural, section
from vlmrl.page.plot import Plot, ticks

Records = Sequence[Mapping[str, Any]]


def html(run: Run) -> str:
    """The section about training."""
    if not run.curves:
        return section("learning", "Learning", missing("No policy was trained in this run."))
    measured = any(
        "success" in record for by_seed in run.curves.values() for records in by_seed.values() for record in records
    )
    key = "success" if measured else "actor_loss"
    values = [r[key] for s in run.curves.values() for records in s.values() for r in records if key in r]
    if not values:
        return section("learning", "Learning", missing("Nothing was recorded while the policies were trained."))
    y = (0.0, 1.0) if measured else (float(min(values)), float(max(values)))
    steps = max(int(records[-1]["step"]) for by_seed in run.curves.values() for records in by_seed.values())
    panels = "".join(_panel(arm, by_seed, key, x=(0.0, float(steps)), y=y) for arm, by_seed in run.curves.items())
    return section(
        "learning", "Learning", f"<div class='panels'>{panels}</div>", note(_explained(run, measured=measured))
    )


def _explained(run: Run, *, measured: bool) -> str:
    if not measured:
        return (
            "Success was not measured during training. This is the actor’s loss against updates; it does not tell "
            "how good a policy is."
        )
    episodes = int((run.config.get("evaluate") or {}).get("curve_episodes", 0))
    return (
        f"Success against updates, {plural(episodes, 'episode')} a point. Thin: one training seed each; "
        "thick: their mean. These episodes start from states of their own, neither in the data nor in the table, "
        "and choose nothing: the table evaluates the last update, whatever the curve says."
    )


def _panel(
    arm: str, by_seed: Mapping[int, Records], key: str, *, x: tuple[float, float], y: tuple[float, float]
) -> str:
    plot = Plot(x=x, y=y, label=f"{key} of {title(arm)} against updates", height=150)
    plot.y_labels = [(0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")] if key == "success" else ticks(*y)
    plot.x_labels = ticks(*x, most=3)
    plot.grid(y=[value for value, _ in plot.y_labels])
    lines = {
        seed: [(float(r["step"]), float(r[key])) for r in records if key in r] for seed, records in by_seed.items()
    }
    for line in lines.values():
        plot.line([x for x, _ in line], [y for _, y in line], colour=colour(arm), kind="faint")
    mean = _mean([dict(line) for line in lines.values()])
    plot.line(list(mean), list(mean.values()), colour=colour(arm))
    if mean:
        plot.dots([max(mean)], [mean[max(mean)]], colour=colour(arm))
    head = f"<span class='arm'><i style='background:{colour(arm)}'></i>{escape(title(arm))}</span>"
    return f"<figure><figcaption>{head}</figcaption>{plot.html()}</figure>"


def _mean(lines: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """Mean over seeds at the steps that all of them have."""
    shared = set.intersection(*(set(line) for line in lines)) if lines else set[float]()
    return {step: float(np.mean([line[step] for line in lines])) for step in sorted(shared)}
