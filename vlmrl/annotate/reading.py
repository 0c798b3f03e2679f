"""Reads what a model said as the answer to a question: its text strictly, its probability from the tokens' own.

A model that tells the probabilities of the tokens it chose between tells more than the one it chose: of a comparison
p(a) = P("0") / (P("0") + P("1")) at the place of the digit, of a yes-or-no question P(yes) / (P(yes) + P(no)).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from vlmrl.annotate.verdict import LABELS, alone, cleaned, label_line, objects, read_verdict
from vlmrl.types import Answer, Kind, Query, Verdict

LEAST = 0.05
"""Both answers together must be at least this likely at the place of the answer, or nothing follows from them."""

_WORDS = {"yes": True, "true": True, "no": False, "false": False}
_FIRST = re.compile(r"[\s*_\"'(\[]*(yes|no|true|false)\b", re.IGNORECASE)
_NUMBER = r"-1|0?\.\d+|0|1(?:\.0+)?"
_SCORE = label_line(_NUMBER, "score")
_VERDICT = label_line("-1|0|1")
_EACH = re.compile(r"\W*(?:[^\W\d_]+\W*)?(\d+)\W*[:=]\W*(\d+(?:\.\d+)?)\s*%?\W*")
_PADDING = " \t\n\"'`*_▁Ġ()[]"


@dataclass(frozen=True)
class Token:
    """A piece of an answer."""

    text: str
    likely: Mapping[str, float]
    """Probabilities of what might have stood here, by text; the one that does among them."""
    floor: float = 0.0
    """No other text was more likely than this."""


@dataclass(frozen=True)
class Read:
    """What an answer says."""

    answer: Answer | None
    probability: float | None = None


def read(query: Query, text: str, *, tokens: Sequence[Token] = (), cut: bool = False) -> Read:
    """Return the answer to a question, None when the text is not plainly one.

    Of a text that was `cut` only a leading yes or no counts: what else it was going to say is not known.
    """
    if query.kind is Kind.SUCCESS:
        said = read_yes(text)
        return Read(said, None if said is None else _of_yes(tokens, said))
    if cut:
        return Read(None)
    if query.kind is Kind.SCORE:
        return Read(read_score(text))
    if query.kind is Kind.PROGRESS:
        return Read(read_progress(text, len(query.items) - 1))
    verdict = read_verdict(text)
    return Read(verdict, None if verdict is None else _of_verdict(tokens, verdict))


def is_answer(text: str) -> bool:
    """Whether a token's text may be a digit or word that we read."""
    return _bare(text) in {"0", "1", "-1", "-", *_WORDS}


def read_yes(text: str) -> bool | None:
    """Return what a text says that begins with yes or no, or is a JSON object of one; None when it says both."""
    text = cleaned(text)
    if "{" in text:
        found = objects(text)
        return _WORDS.get(str(found[0]).strip().lower()) if len(found) == 1 else None
    first = _FIRST.match(text)
    if first is None:
        return None
    said = _WORDS[first[1].lower()]
    others = {_WORDS[w.lower()] for w in re.findall(r"\b(yes|no|true|false)\b", text, re.IGNORECASE)}
    return said if others == {said} else None


def read_score(text: str) -> float | Verdict | None:
    """Return the number from 0 to 1 that stands alone on a line or under a usual key of a JSON object; -1 is UNSURE."""
    text = cleaned(text)
    if "{" in text:
        found = [str(v).strip() for v in objects(text, "score")]
        said = set(found) if len(found) == 1 and re.fullmatch(_NUMBER, found[0]) else set[str]()
    else:
        said = alone(text, _SCORE)
    if len({float(s) for s in said}) != 1:
        return None
    number = float(said.pop())
    return Verdict.UNSURE if number < 0 else number


def read_progress(text: str, count: int) -> tuple[float, ...] | None:
    """Return the share done (0 to 1) of each of `count` numbered pictures, said in percent, a line each or as JSON."""
    text = cleaned(text)
    percent = (_listed(text) if text[:1] in ("{", "[") else None) or _lines(text)
    if percent is None or sorted(percent) != list(range(1, count + 1)):
        return None
    values = [percent[k] for k in range(1, count + 1)]
    return tuple(v / 100 for v in values) if all(0 <= v <= 100 for v in values) else None


def _lines(text: str) -> dict[int, float] | None:
    found = [(int(m[1]), float(m[2])) for line in text.splitlines() if (m := _EACH.fullmatch(line.strip()))]
    return dict(found) if len({k for k, _ in found}) == len(found) else None


def _listed(text: str) -> dict[int, float] | None:
    try:
        whole: Any = json.loads(text)
        if isinstance(whole, dict):
            fields = cast("dict[str, Any]", whole)
            lists = [v for v in fields.values() if isinstance(v, list)]
            whole = lists[0] if len(lists) == len(fields) == 1 else {int(k): float(v) for k, v in fields.items()}
        if isinstance(whole, list):
            whole = {k: float(v) for k, v in enumerate(cast("list[Any]", whole), 1)}
    except (json.JSONDecodeError, TypeError, ValueError):
        return None
    return cast("dict[int, float]", whole) if isinstance(whole, dict) else None


def _of_verdict(tokens: Sequence[Token], verdict: Verdict) -> float | None:
    named = next(label for label, v in LABELS.items() if v is verdict)
    json_ = any("{" in token.text for token in tokens)

    def answers(line: str, label: str) -> bool:
        return label == named and (json_ or _VERDICT.fullmatch(cleaned(line)) is not None)

    return _share(tokens, {"0"}, {"1"}, answers)


def _of_yes(tokens: Sequence[Token], said: bool) -> float | None:
    yes, no = ({word for word, value in _WORDS.items() if value is side} for side in (True, False))
    return _share(tokens, yes, no, lambda _, label: _WORDS.get(label) is said)


def _share(
    tokens: Sequence[Token], first: set[str], second: set[str], answers: Callable[[str, str], bool]
) -> float | None:
    """Probability of the first kind of answer among both, at the last token that is the answer."""
    text = "".join(token.text for token in tokens)
    end = len(text)
    for i in reversed(range(len(tokens))):
        start, label = end - len(tokens[i].text), _bare(tokens[i].text)
        if label == "-" and i + 1 < len(tokens):
            label += _bare(tokens[i + 1].text)
        minus = label == "1" and i > 0 and _bare(tokens[i - 1].text).endswith("-")
        line = text[text.rfind("\n", 0, end - len(tokens[i].text.lstrip())) + 1 :].partition("\n")[0]
        if not minus and answers(line, label):
            return _among(tokens[i], first, second)
        end = start
    return None


def _among(token: Token, first: set[str], second: set[str]) -> float | None:
    a, b = (sum(p for text, p in token.likely.items() if _bare(text) in words) for words in (first, second))
    if a + b < LEAST:
        return None
    # What is not listed is at most as likely as the least that is.
    a, b = max(a, token.floor), max(b, token.floor)
    return a / (a + b)


def _bare(text: str) -> str:
    return text.strip(_PADDING).replace("−", "-").lower()
