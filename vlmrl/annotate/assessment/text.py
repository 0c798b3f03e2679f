"""The figures as a terminal prints them."""

from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]


def text(found: Figures) -> str:
    """Return all tables."""
    parts = [f"{found['pairs']} pairs; right means: as {found['reference']}"]
    parts += [_accuracy(found["annotators"]), divided(found)]
    parts += [_calibration(one) for one in found["annotators"] if one.get("calibration", {}).get("pairs")]
    parts += [_consistency(found["annotators"]), _agreement(found), _cost(found["annotators"]), *flags(found)]
    return "\n\n".join(part for part in parts if part)


def divided(found: Figures) -> str:
    """Return the accuracies by part and by difficulty."""
    parts = [rows for one in found["annotators"] for rows in _slices(one)]
    parts += [_gaps(one) for one in found["annotators"] if one.get("by_gap")]
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width."""
    lines = [head, *rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([shown[0], "-" * max(map(len, shown)), *shown[1:]])


def flags(found: Figures) -> list[str]:
    """Parts in which somebody is worse than elsewhere, and other warnings, a sentence each."""
    said: list[str] = []
    for one in found["annotators"]:
        for rows in one.get("slices", {}).values():
            for row in rows:
                if row["flagged"]:
                    rest = [r for r in rows if r is not row]
                    elsewhere = ", ".join(f"{estimate(r)} {r['part']}" for r in rest)
                    said.append(
                        f"FLAG {one['name']}: {row['part']}: right in {estimate(row)} "
                        f"(elsewhere {elsewhere}); judge these {row['differ'] + row['ties']} pairs apart"
                    )
        place = one["position"]["by_place_alone"]
        if place["whole"] and place["interval"][0] > 0.1:
            said.append(f"FLAG {one['name']}: the place alone decides {share(place)} of pairs asked both ways round")
    return said


def estimate(row: Figures) -> str:
    """A share with its interval and number of pairs."""
    if row["value"] is None:
        return f"- (n {row['pairs']})"
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}] (n {row['pairs']})"


def share(row: Figures) -> str:
    """A counted share with its Wilson interval."""
    if row["rate"] is None:
        return "-"
    return f"{row['rate']:.2f} [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}] of {row['whole']}"


def _accuracy(annotators: Sequence[Figures]) -> str:
    rows: list[list[str]] = []
    for one in annotators:
        right, verdicts = one.get("accuracy"), one["verdicts"]
        mixed = " ".join(f"{name} {verdicts[name]}" for name in ("a", "b", "tie", "unsure"))
        rows.append([one["name"], estimate(right) if right else "is the reference", str(one["pairs"]), mixed])
    return table(["annotator", "right, ties left out", "pairs", "answers"], rows)


def _slices(one: Figures) -> list[str]:
    rows = [
        [f"{title}: {row['part']}", estimate(row), str(row["ties"])]
        for title, parts in one.get("slices", {}).items()
        if len(parts) > 1
        for row in parts
    ]
    return [table([one["name"], "right, ties left out", "ties"], rows)] if rows else []


def _gaps(one: Figures) -> str:
    rows = [
        [
            f"{row['closest']:.3f} to {row['farthest']:.3f}",
            *(f"{row[name] / row['pairs']:.2f}" for name in ("right", "wrong", "no_side")),
            str(row["pairs"]),
        ]
        for row in one["by_gap"]
    ]
    return table([f"{one['name']}, gap", "right", "wrong", "no side", "pairs"], rows)


def _calibration(one: Figures) -> str:
    found = one["calibration"]
    rows = [
        [f"{r['low']:.2f} to {r['high']:.2f}", f"{r['sure']:.3f}", f"{r['right']:.3f}", str(r["pairs"])]
        for r in found["table"]
    ]
    title = f"{one['name']}: calibration error {found['error']:.3f}, log-loss {found['log_loss']:.3f}"
    return title + "\n" + table(["sure", "mean", "right", "pairs"], rows)


def _consistency(annotators: Sequence[Figures]) -> str:
    rows = [
        [
            one["name"],
            share(one["position"]["first"]),
            share(one["both_ways"]),
            share(one["position"]["by_place_alone"]),
            share(one["transitivity"]["edges"]),
            share(one["transitivity"]["triples"]),
        ]
        for one in annotators
    ]
    head = ["annotator", "first named", "same both ways", "by place alone", "answers on cycles", "cyclic triples"]
    return table(head, rows)


def _agreement(found: Figures) -> str:
    rows = [[f"{one['a']} | {one['b']}", two(one["kappa"]), estimate(one["same_side"])] for one in found["agreement"]]
    between = found["alpha"]
    last = f"Krippendorff's alpha: people {two(between['people'])}, everybody {two(between['everybody'])}"
    return (table(["between", "Cohen's kappa", "same side, ties left out"], rows) + "\n" if rows else "") + last


def two(row: Figures) -> str:
    """A coefficient with its interval and number of pairs."""
    if row["value"] is None:
        return f"- (n {row['pairs']})"
    return f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}] (n {row['pairs']})"


def _cost(annotators: Sequence[Figures]) -> str:
    rows: list[list[str]] = []
    for one in annotators:
        cost = one["cost"]
        each = cost.get("usd_per_correct")
        rows.append(
            [
                one["name"],
                str(cost["calls"]),
                str(cost["tokens"]),
                f"{cost['usd']:.4f}",
                "-" if each is None else f"{each:.6f}",
                "-" if not cost["median_s"] else f"{cost['median_s']:.1f}",
            ]
        )
    return table(["annotator", "calls", "tokens", "USD", "USD a correct label", "median s"], rows)
