"""What a chat completion says, whatever its server makes of the protocol: text, probabilities of tokens, model."""

import math
import re
from collections.abc import Mapping
from typing import Any, cast

from vlmrl.annotate.compare import CallFailedError, Said
from vlmrl.annotate.reading import Token
from vlmrl.errors import LabelerError
from vlmrl.types import Cost, Kind, Query

_VERSION = re.compile(r"[-@:](?:\d{3}[\d.-]*|latest|main|[0-9a-f]{7,64})")
"""What servers add to the name of a model: a date, a tag, a revision. `-mini` is another model, as `-2` and `-72`."""


def said(completion: Any, *, cost: Cost, where: str) -> Said:
    """Return the answer of a completion.

    Raises:
        CallFailedError: if it is none, or of another shape.
    """
    try:
        choice = completion.choices[0]
        message = choice.message
        text, refusal = _text(message.content), _text(getattr(message, "refusal", None))
        reason = choice.finish_reason
        tokens = _tokens(getattr(choice, "logprobs", None))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as e:
        shown = " ".join(str(completion).split())
        raise CallFailedError(f"{where} sent no chat completion: {shown[:300]}", cost=cost) from e
    return Said(
        text=refusal or text,
        cost=cost,
        refused=bool(refusal) or reason == "content_filter",
        cut=reason == "length",
        tokens=tokens,
        served="@".join(part for part in served(completion) if part),
    )


def served(completion: Any) -> tuple[str, str]:
    """Return the model that answered and its fingerprint, empty where the server does not tell."""
    return str(getattr(completion, "model", None) or ""), str(getattr(completion, "system_fingerprint", None) or "")


def check_served(found: str, *, asked: str, accepted: str, before: str, where: str) -> None:
    """Refuse the answer of another model than the one that was asked, or than the one that answered `before`.

    Raises:
        LabelerError: if it is another.
    """
    if found and found != accepted and not same_model(found, asked):
        raise LabelerError(
            f"{where} answers as model {found!r}, asked was {asked!r}: set labeler.model to the model that is wanted, "
            f"or labeler.answers_as={found} if that is its name there"
        )
    if found and before and found != before:
        raise LabelerError(
            f"{where} has answered as model {before!r} and now does as {found!r}: it was changed under us; "
            f"name it exactly (labeler.model={found}), which asks anew, go back to the other, "
            f"or mix both in a new run (labeler.answers_as={found})"
        )


def same_model(found: str, asked: str) -> bool:
    """Whether a server's name of a model is the one asked for, perhaps with a date, a tag or a revision."""
    name, wanted = (n.strip().lower().removeprefix("models/") for n in (found, asked))
    stem = re.sub(r"[-:]latest$", "", wanted)
    version = name.removeprefix(stem)
    return name in (wanted, stem) or (version != name and _VERSION.fullmatch(version) is not None)


def response_format(query: Query) -> dict[str, Any]:
    """Return the JSON schema that the answer to a question is to have."""
    answer: dict[str, Any] = {
        Kind.PREFERENCE: {"enum": [0, 1, -1]},
        Kind.SUCCESS: {"enum": ["yes", "no"]},
        Kind.SCORE: {"type": "number", "minimum": -1, "maximum": 1},
        Kind.PROGRESS: {
            "type": "array",
            "items": {"type": "number", "minimum": 0, "maximum": 100},
            "minItems": len(query.items) - 1,
            "maxItems": len(query.items) - 1,
        },
    }[query.kind]
    whole = {"type": "object", "properties": {"answer": answer}, "required": ["answer"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": whole}}


def _text(content: Any) -> str:
    """Return a content as text, also where a server sends it in parts."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = [part if isinstance(part, Mapping) else vars(part) for part in cast("list[Any]", content)]
    return "".join(str(part["text"]) for part in parts if part.get("type", "text") == "text")


def _tokens(logprobs: Any) -> tuple[Token, ...]:
    content = getattr(logprobs, "content", None)
    return tuple(_token(piece) for piece in content or ())


def _token(piece: Any) -> Token:
    likely: dict[str, float] = {}
    for one in (*(getattr(piece, "top_logprobs", None) or ()), piece):
        likely[str(one.token)] = max(likely.get(str(one.token), 0.0), math.exp(min(float(one.logprob), 0.0)))
    listed = sum(likely.values())
    return Token(str(piece.token), likely, floor=min(min(likely.values()), max(0.0, 1 - listed)))
