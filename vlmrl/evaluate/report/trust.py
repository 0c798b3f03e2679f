"""Who judged, and how far to trust that on these very data."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmrl.evaluate.report.folder import Run
from vlmrl.interval import Interval
from vlmrl.page.markup import bounds, escape, listed, missing, note, number, percent, plural

TRUTHS = ("A is farther", "B is farther", "equal")
ANSWERED = ("A", "B", "tie", "unsure")


def html(run: Run) -> str:
    """The part of the questions' section about the one who answered."""
    labels: Mapping[str, Any] = run.labels or {}
    judge, trust = labels.get("judge") or {}, labels.get("trust")
    title = "<h3>Who answered, and how far to trust it here</h3>"
    if not trust:
        return title + missing("This run did not measure how far its answers can be trusted.")
    rows = [("answered by", escape(labels.get("labeler", "an unnamed labeler"))), *_checkpoint(judge), *_figures(trust)]
    body = "".join(f"<tr><th scope='row'>{name}</th><td>{value}</td></tr>" for name, value in rows)
    return f"{title}<table class='plain'><tbody>{body}</tbody></table>{_confusion(trust)}"


def _checkpoint(judge: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not judge:
        return []
    seen = {
        True: "yes: a new task may be judged worse",
        False: "no: this is how a new task is judged",
        None: "not known: its training is not recorded",
    }[judge.get("seen")]
    temperature = f"differences of score are divided by {judge.get('temperature', float('nan')):.3g}"
    if judge.get("calibrated"):
        certainty = f"{temperature}, as measured with the checkpoint"
    else:
        certainty = f"uncalibrated: {temperature}, which nobody measured for this model and these prompts"
    threshold = float(judge.get("threshold", 0.5))
    fingerprint = escape(str(judge.get("fingerprint", ""))[:12])
    rows = [
        ("checkpoint", f"{escape(judge.get('checkpoint', ''))} <code>{fingerprint}</code>"),
        ("reads", escape(listed([f"“{s}”" for s in judge.get("sentences", ())]))),
        ("sentence seen in its training", seen),
        ("certainty", f"{certainty}; a side is named from {percent(threshold)} on"),
    ]
    return rows + ([("trained on", escape(judge["trained_on"]))] if judge.get("trained_on") else [])


def _figures(trust: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("named a side", f"{_share(trust['decided'])} of {plural(int(trust['asked']), 'pair')}")]
    right, honest, order = trust.get("accuracy"), trust.get("calibration"), trust["order"]
    if right is None:
        rows.append(("right", "not known: these data hold no truth"))
    elif right["whole"]:
        rows.append(("right, where truth differs", f"{_rate(right)} of {plural(right['whole'], 'pair')} with a side"))
    if honest and honest["pairs"]:
        text = (
            f"calibration error {number(honest['error'], 3)}, log-loss {number(honest['log_loss'], 3)} "
            f"(a coin: 0.693), over {plural(honest['pairs'], 'pair')}"
        )
        rows.append(("its probabilities", text))
    rows.append(("sides swapped", _order(order)))
    return rows


def _order(order: Mapping[str, Any]) -> str:
    if not order["whole"]:
        return "not checked"
    text = f"the same answer in {_rate(order)} of {plural(order['whole'], 'pair')} asked both ways round"
    gap = order.get("gap")
    return text + (f"; |p + p swapped − 1| is {number(gap, 3)} on average" if gap is not None else "")


def _rate(found: Mapping[str, Any]) -> str:
    return f"<b>{percent(found['rate'])} {bounds(Interval(found['rate'], *found['interval']))}</b>"


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def _confusion(trust: Mapping[str, Any]) -> str:
    counts: Sequence[Sequence[int]] | None = trust.get("confusion")
    if counts is None:
        return ""
    head = "".join(f"<th scope='col' class='n'>answered {name}</th>" for name in ANSWERED)
    rows = "".join(
        f"<tr><th scope='row'>{name}</th>{''.join(f'<td class=n>{number(n)}</td>' for n in row)}</tr>"
        for name, row in zip(TRUTHS, counts, strict=True)
    )
    text = "Every pair that was answered, unsure ones too, which are never trained on."
    table = (
        f"<table class='plain'><thead><tr><th scope='col'>in truth</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )
    return f"<h3>Answers against the truth</h3>{table}{note(text)}"
