"""The figures as one self-contained HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmrl.annotate.assessment.text import flags
from vlmrl.page import write_page
from vlmrl.page.markup import THIN, escape, missing, note, number, percent, plural, section
from vlmrl.page.plot import Plot, ticks

Figures = Mapping[str, Any]
_COLOURS = ("var(--arm-learned)", "var(--arm-bc)", "var(--arm-ground-truth)", "var(--arm-constant)", "var(--arm-other)")


def write(path: Path, found: Figures) -> Path:
    """Write the page of an audit."""
    head = (
        f"<p class='eyebrow'>{escape(found['store'])}</p><h1>How far to trust these labels</h1>"
        f"<p class='facts'>{words(found)}</p>"
    )
    warnings = "".join(f"<p class='warning'>{escape(flag.removeprefix('FLAG '))}</p>" for flag in flags(found))
    return write_page(path, title="How far to trust these labels", body=head + warnings + sections(found))


def words(found: Figures) -> str:
    """What the figures are about, as HTML."""
    return (
        f"{plural(found['pairs'], 'pair')}. Right means: as {escape(found['reference'])}. "
        "Intervals are 95 %, over episodes (bootstrap) or, for plain counts, Wilson's."
    )


def sections(found: Figures) -> str:
    """All sections, as HTML."""
    everybody = found["annotators"]
    compared = [one for one in everybody if "accuracy" in one]
    parts = [_accuracy(everybody), _slices(compared), _gaps(compared), _calibration(compared)]
    return "".join([*parts, _consistency(everybody), _agreement(found), _cost(everybody)])


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are HTML; the first column names the row."""
    top = "".join(f"<th scope='col'>{escape(text)}</th>" for text in head)
    lines = "".join(
        f"<tr><th scope='row'>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return f"<div class='scroll'><table class='plain'><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>"


def _accuracy(annotators: Sequence[Figures]) -> str:
    rows: list[list[str]] = []
    for one in annotators:
        right, verdicts = one.get("accuracy"), one["verdicts"]
        mixed = " · ".join(f"{name} {number(verdicts[name])}" for name in ("a", "b", "tie", "unsure") if verdicts[name])
        shown = _estimate(right) if right else "<span class='none'>the reference</span>"
        rows.append([escape(one["name"]), shown, number(one["pairs"]), mixed])
    said = note("Ties are left out: right counts pairs whose reference differs and of which a side was named.")
    return section("right", "Who is right", html_table(["annotator", "right", "pairs", "answers"], rows), said)


def _slices(annotators: Sequence[Figures]) -> str:
    parts: list[str] = []
    for one in annotators:
        rows = [
            [f"{escape(row['part'])}{' <b>flagged</b>' if row['flagged'] else ''}", _estimate(row), number(row["ties"])]
            for divided in one["slices"].values()
            if len(divided) > 1
            for row in divided
        ]
        if rows:
            parts.append(f"<h3>{escape(one['name'])}</h3>" + html_table(["part", "right", "ties"], rows))
    said = note("Flagged: the interval lies wholly below that of all other pairs, of 30 pairs at least on either side.")
    return section("parts", "Where", *(parts or [missing("These pairs have no parts.")]), said)


def _gaps(annotators: Sequence[Figures]) -> str:
    parts: list[str] = []
    for one in (one for one in annotators if one["by_gap"]):
        columns = "".join(_column(row) for row in one["by_gap"])
        legend = (
            "<p class='legend'><span><i class='is-right'></i>right</span><span><i class='is-tie'></i>no side</span>"
            "<span><i class='is-wrong'></i>wrong</span></p>"
        )
        bins = f"<div class='bins' style='--n:{len(one['by_gap'])}'>{columns}</div>"
        parts.append(f"<h3>{escape(one['name'])}</h3>{legend}{bins}")
    said = note("Groups of equally many pairs, from the closest in true progress to the farthest; below, the gap.")
    return section("difficulty", "How hard", *parts, said) if parts else ""


def _column(row: Figures) -> str:
    heights = {"is-wrong": row["wrong"], "is-tie": row["no_side"], "is-right": row["right"]}
    stack = "".join(f"<i class='{kind}' style='flex-grow:{n}'></i>" for kind, n in heights.items() if n)
    right = percent(row["right"] / row["pairs"])
    return f"<div><div class='stack'>{stack}</div>{right}<br>{number(row['farthest'], 2)}</div>"


def _calibration(annotators: Sequence[Figures]) -> str:
    told = [one for one in annotators if one["calibration"]["pairs"]]
    if not told:
        return section("honest", "How honest about doubt", missing("Nobody gave probabilities of pairs that differ."))
    plot = Plot((0.5, 1.0), (0.0, 1.0), "how often right, by how sure", height=240)
    plot.grid(x=(0.6, 0.7, 0.8, 0.9), y=(0.25, 0.5, 0.75))
    plot.line((0.5, 1.0), (0.5, 1.0), colour="var(--mid)", kind="thin")
    plot.x_labels, plot.y_labels = ticks(0.5, 1.0, most=5), ticks(0.0, 1.0)
    rows: list[list[str]] = []
    for one, colour in zip(told, _COLOURS * len(told), strict=False):
        found = one["calibration"]
        sure, right = [r["sure"] for r in found["table"]], [r["right"] for r in found["table"]]
        plot.line(sure, right, colour=colour)
        plot.dots(sure, right, colour=colour)
        name = f"<span class='arm'><i style='background:{colour}'></i>{escape(one['name'])}</span>"
        rows.append([name, number(found["error"], 3), number(found["log_loss"], 3), number(found["pairs"])])
    said = note("Across: how sure. Up: how often right. On the line, a probability means what it says.")
    head = ["annotator", "calibration error", "log-loss (a coin: 0.693)", "pairs"]
    return section("honest", "How honest about doubt", html_table(head, rows), plot.html(), said)


def _consistency(annotators: Sequence[Figures]) -> str:
    rows = [
        [
            escape(one["name"]),
            html_share(one["position"]["first"]),
            html_share(one["both_ways"]),
            html_share(one["position"]["by_place_alone"]),
            html_share(one["transitivity"]["edges"]),
            html_share(one["transitivity"]["triples"]),
        ]
        for one in annotators
    ]
    head = ["annotator", "first named", "same both ways", "by place alone", "answers on cycles", "cyclic triples"]
    said = note(
        "First named: half is fair. By place alone: asked one way round and the other, the same place was named twice. "
        "On cycles: no order of the pictures gives all of these answers; dice make a quarter of all triples cyclic."
    )
    return section("consistent", "Do the answers fit together?", html_table(head, rows), said)


def _agreement(found: Figures) -> str:
    rows = [
        [f"{escape(one['a'])}<br>{escape(one['b'])}", _two(one["kappa"]), _estimate(one["same_side"])]
        for one in found["agreement"]
    ]
    between = found["alpha"]
    said = note(
        f"Krippendorff's alpha of people {_two(between['people'])}, of everybody {_two(between['everybody'])}. "
        "Blind answers only; unsure counts as no answer. Kappa: a, b and tie; 1 is full agreement, 0 that of chance."
    )
    shown = html_table(["between", "Cohen's kappa", "same side, ties left out"], rows)
    none = missing("No pair was judged by two annotators.")
    return section("agree", "Who agrees with whom", shown if rows else none, said)


def _cost(annotators: Sequence[Figures]) -> str:
    rows = [
        [
            escape(one["name"]),
            number(one["cost"]["calls"]),
            number(one["cost"]["tokens"]),
            number(one["cost"]["usd"], 2),
            _money(one["cost"].get("usd_per_correct")),
            number(one["cost"]["median_s"], 1) if one["cost"]["median_s"] else "–",
        ]
        for one in annotators
    ]
    head = ["annotator", "calls", "tokens", "USD", "USD a correct label", "median s"]
    return section("price", "At what price", html_table(head, rows))


def _money(value: float | None) -> str:
    return "–" if value is None else number(value, 5)


def _estimate(row: Figures) -> str:
    if row["value"] is None:
        return f"– <span class='ci'>(n {number(row['pairs'])})</span>"
    ends = f"[{number(100 * row['low'], 1)}, {number(100 * row['high'], 1)}]"
    return f"<b>{number(100 * row['value'], 1)}{THIN}%</b> <span class='ci'>{ends} (n {number(row['pairs'])})</span>"


def _two(row: Figures) -> str:
    if row["value"] is None:
        return f"– <span class='ci'>(n {number(row['pairs'])})</span>"
    ends = f"[{number(row['low'], 2)}, {number(row['high'], 2)}]"
    return f"<b>{number(row['value'], 2)}</b> <span class='ci'>{ends} (n {number(row['pairs'])})</span>"


def html_share(row: Figures) -> str:
    """A counted share with its Wilson interval."""
    if row["rate"] is None:
        return "–"
    ends = f"[{number(100 * row['interval'][0])}, {number(100 * row['interval'][1])}]"
    return f"{percent(row['rate'])} <span class='ci'>{ends} of {number(row['whole'])}</span>"
