"""Reads a model's text as a verdict, strictly: what is not plainly one of the three labels is unreadable.

RL-VLM-F's digits: 0 the first picture is better, 1 the second, -1 unsure or no difference. Its -1 says both things at
once and its pairs are dropped there, so here -1 is UNSURE (never trained on); TIE needs a labeler that can tell.
"""

import json
import re
from typing import Any

from vlmrl.types import Verdict

_LABELS = {"0": Verdict.A_BETTER, "1": Verdict.B_BETTER, "-1": Verdict.UNSURE}
_KEYS = ("answer", "label", "choice", "verdict", "preference", "output", "result", "response")
_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^```\w*$|`", re.MULTILINE)
_OBJECT = re.compile(r"\{[^{}]*\}")
_MARKER = re.compile(r"\W*\d[.)][\W_]*")
_LINE = re.compile(
    rf"[\s*_\"'(\[]*(?:(?:the |my )?(?:final )?(?:{'|'.join(_KEYS)})(?: is)?[\s*_]*[:=]?[\s*_\"'(\[]*)?"
    r"(-1|0|1)[\s*_\"')\].]*",
    re.IGNORECASE,
)


def read_verdict(text: str) -> Verdict | None:
    """Return the verdict, or None when there is none or more than one.

    Understood are a line that holds a label alone (perhaps as `Answer: 1`, `**1**`) and a JSON object with the label
    under a usual key. Digits within prose never count: "image 1 shows a closed drawer" is no answer.
    """
    text = _FENCE.sub("", _THOUGHT.sub("", text)).replace("−", "-").strip()
    if "{" in text:
        return _read_object(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # Among other lines `1.` numbers a list.
    labels = lines if len(lines) == 1 else [line for line in lines if not _MARKER.fullmatch(line)]
    found = {m.group(1) for line in labels if (m := _LINE.fullmatch(line))}
    return _LABELS[found.pop()] if len(found) == 1 else None


def _read_object(text: str) -> Verdict | None:
    objects = _OBJECT.findall(text)
    if len(objects) != 1:
        return None
    try:
        fields: dict[str, Any] = json.loads(objects[0])
    except json.JSONDecodeError:
        return None
    found = [str(v).strip() for k, v in fields.items() if k.strip().lower() in _KEYS and not isinstance(v, bool)]
    return _LABELS.get(found[0]) if len(found) == 1 else None
