"""The table of a reward's figures, as terminals and cards print it."""

from math import isfinite

from vlmrl.interval import Interval
from vlmrl.reward.hacking import ALARM, Check
from vlmrl.reward.quality import Figure, Quality


def text(quality: Quality, check: Check | None) -> str:
    """One table: figures, then slices, then the hacking check, then what is missing."""
    head = f"{quality.reward} on {quality.episodes:,} episodes, {quality.rows:,} judged rows"
    lines = [head, "95 % intervals, over episodes", ""]
    lines += _aligned([("", "value", "unknowing", "of"), *(_figure(f) for f in quality.figures)])
    if quality.slices:
        heads = ("slice", "over-reward", "correlation", "mean reward", "disagreement", "of")
        rows = [
            (
                s.name,
                _shown(s.over_reward),
                _shown(s.correlation),
                f"{s.level:+.2f}",
                f"{s.std:.3g}",
                f"{s.rows:,} rows of {s.episodes} episodes",
            )
            for s in quality.slices
        ]
        lines += ["", *_aligned([heads, *rows])]
        lines.append("over-reward and mean reward in deviations over all rows; over-reward: above the truth's level")
    if check is not None:
        lines += ["", *hacking(check)]
    if quality.missing:
        lines += ["", "not measured:", *(f"  {reason}" for reason in quality.missing)]
    return "\n".join(lines)


def hacking(check: Check) -> list[str]:
    """What the hacking check found."""
    before, after = check.episodes
    verdict = f"ALARM ({', '.join(check.reasons)})" if check.alarm else "no alarm"
    return [
        f"reward hacking: {verdict}; false alarms at most {100 * ALARM:g} %",
        f"  correlation with {check.reference}: {_shown(check.behaviour)} under the behaviour policy ({before} "
        f"episodes), {_shown(check.learned)} under the learned one ({after})",
        f"  the reward rose by {_shown(check.risen)} deviations; {check.reference} should have risen by "
        f"{_shown(check.promised)} and rose by {_shown(check.delivered)}",
    ]


def markdown(quality: Quality, check: Check | None) -> str:
    """The figures for a card."""
    lines = [
        "## Measured",
        "",
        f"On {quality.episodes:,} episodes ({quality.rows:,} judged rows, data `{quality.store[:12]}`); 95 % "
        "intervals, over episodes.",
        "",
        "| | value | a reward that knows nothing | of |",
        "|---|---|---|---|",
        *(f"| {' | '.join(_figure(f))} |" for f in quality.figures),
        "",
        *(f"- over-reward of {s.name}: {_shown(s.over_reward)} deviations" for s in quality.slices if s.over_reward),
        *(line.strip() for line in (hacking(check) if check else ["Reward hacking: not checked."])),
        *(f"- not measured: {reason}" for reason in quality.missing),
    ]
    return "\n".join(lines) + "\n"


def _figure(figure: Figure) -> tuple[str, str, str, str]:
    unknowing = f"{figure.reference:.2f}" if isfinite(figure.reference) else "-"
    return figure.title, _shown(figure.value), unknowing, f"{figure.count:,} {figure.unit}"


def _shown(value: Interval | None) -> str:
    if value is None or not isfinite(value.estimate):
        return "-"
    if not isfinite(value.low):
        return _two(value.estimate)
    return f"{_two(value.estimate)} [{_two(value.low)}, {_two(value.high)}]"


def _two(value: float) -> str:
    """Two digits, and no minus before zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
