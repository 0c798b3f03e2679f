"""Reads a model's text as a verdict, strictly: what is not plainly one of the three labels is unreadable.

RL-VLM-F's digits: 0 the first picture is better, 1 the second, -1 unsure or no difference. Its -1 says both things at
once and its pairs are dropped there, so here -1 is UNSURE (never trained on); TIE needs a labeler that can tell.
"""

import json
import re
from typing import Any

from vlmrl.types import Verdict

LABELS = {"0": Verdict.A_BETTER, "1": Verdict.B_BETTER, "-1": Verdict.UNSURE}
_KEYS = ("answer", "label", "choice", "verdict", "preference", "output", "result", "response")
_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^```\w*$|`", re.MULTILINE)
_OBJECT = re.compile(r"\{[^{}]*\}")
_MARKER = re.compile(r"\W*\d[.)][\W_]*")


def label_line(label: str, *keys: str) -> re.Pattern[str]:
    """Return what matches a line that holds a label alone, perhaps as `Answer: 1` or `**1**`."""
    return re.compile(
        rf"[\s*_\"'(\[]*(?:(?:the |my )?(?:final )?(?:{'|'.join((*_KEYS, *keys))})(?: is)?[\s*_]*[:=]?[\s*_\"'(\[]*)?"
        rf"({label})[\s*_\"')\].]*",
        re.IGNORECASE,
    )


_LINE = label_line("-1|0|1")


def read_verdict(text: str) -> Verdict | None:
    """Return the verdict, or None when there is none or more than one.

    Understood are a line that holds a label alone (perhaps as `Answer: 1`, `**1**`) and a JSON object with the label
    under a usual key. Digits within prose never count: "image 1 shows a closed drawer" is no answer.
    """
    text = cleaned(text)
    if "{" in text:
        found = [v for v in objects(text) if not isinstance(v, bool)]
        return LABELS.get(str(found[0]).strip()) if len(found) == 1 else None
    said = alone(text, _LINE)
    return LABELS[said.pop()] if len(said) == 1 else None


def alone(text: str, line: re.Pattern[str]) -> set[str]:
    """Return the different labels that stand alone on a line."""
    lines = [stripped for one in text.splitlines() if (stripped := one.strip())]
    # Among other lines `1.` numbers a list.
    labels = lines if len(lines) == 1 else [one for one in lines if not _MARKER.fullmatch(one)]
    return {m.group(1) for one in labels if (m := line.fullmatch(one))}


def cleaned(text: str) -> str:
    """Return a text without thoughts and fences, with plain minus signs."""
    return _FENCE.sub("", _THOUGHT.sub("", text)).replace("−", "-").strip()


def objects(text: str, *keys: str) -> list[Any]:
    """Return what stands under the usual keys of the only JSON object of a text; none where there are several."""
    found = _OBJECT.findall(text)
    if len(found) != 1:
        return []
    try:
        fields: dict[str, Any] = json.loads(found[0])
    except json.JSONDecodeError:
        return []
    return [v for k, v in fields.items() if k.strip().lower() in (*_KEYS, *keys)]
