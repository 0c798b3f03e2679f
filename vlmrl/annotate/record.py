"""Replies and items as rows of the ledger, and back."""

import json
import re
from collections.abc import Iterator
from typing import Any

from vlmrl.annotate.question import digest, item_to_json
from vlmrl.errors import DataError
from vlmrl.types import Answer, Cost, Frame, Item, Query, Reply, Verdict

REFUSED = "refused: "
"""How the error of a reply begins that the labeler would not give."""
_REFUSAL = re.compile(rf"{REFUSED}|HTTP 4\d\d\b(?!.* after \d+ tries$)", re.DOTALL)
"""Held back, or a request that the server rejects for itself; what it rejects for its load is tried again."""
COST_COLUMNS = ("calls", "prompt_tokens", "completion_tokens", "usd", "latency_s")


def is_refusal(error: str) -> bool:
    """Whether an error says that this question will not be answered, however often it is asked."""
    return _REFUSAL.match(error) is not None


def reply_to_row(reply: Reply) -> dict[str, Any]:
    """Return a reply as columns of the table `reply`."""
    kind, answer = _answer_to_text(reply.answer)
    return {
        "answer_type": kind,
        "answer": answer,
        "probability": reply.probability,
        "annotator": reply.annotator,
        "text": reply.text.replace("\0", "�"),  # PostgreSQL stores no NUL
        "error": reply.error.replace("\0", "�"),
        "served": reply.served,
        **{name: getattr(reply.cost, name) for name in COST_COLUMNS},
    }


def reply_from_row(row: Any) -> Reply:
    """Return the reply of a row of the table `reply`."""
    cost = Cost(**{name: getattr(row, name) for name in COST_COLUMNS})
    answer = _answer_from_text(row.answer_type, row.answer)
    return Reply(answer, row.annotator, row.probability, row.text, cost, row.error, row.served)


def _answer_to_text(answer: Answer | None) -> tuple[str, str]:
    match answer:
        case None:
            return "none", ""
        case Verdict():
            return "verdict", answer.value
        case bool():
            return "bool", str(answer).lower()
        case tuple():
            return "floats", json.dumps(answer)
        case _:
            return "float", repr(float(answer))


def _answer_from_text(kind: str, answer: str) -> Answer | None:
    match kind:
        case "none":
            return None
        case "verdict":
            return Verdict(answer)
        case "bool":
            return answer == "true"
        case "float":
            return float(answer)
        case "floats":
            return tuple(map(float, json.loads(answer)))
        case _:
            raise DataError(f"the ledger holds an answer of type {kind!r}; wanted verdict, float, floats, bool or none")


def subject_rows(key: str, query: Query) -> Iterator[dict[str, Any]]:
    """Yield which rows of which episodes a question is about."""
    occurrence = digest([item_to_json(item) for item in query.items])
    for position, item in enumerate(query.items):
        for part, place in enumerate(_places(item)):
            yield {"question": key, "occurrence": occurrence, "position": position, "part": part, **place}


def _places(item: Item) -> Iterator[dict[str, Any]]:
    if isinstance(item, Frame):
        yield {"episode": item.episode, "start": item.row, "stop": None, "camera": item.camera}
        return
    for span in item:
        yield {"episode": span.episode, "start": span.start, "stop": span.stop, "camera": span.camera}
