"""How a vision-language model is asked: the messages of a prompt, one after the other, and what it says of them.

Of two pictures this is RL-VLM-F's protocol. What is asked otherwise is told by the question's kind and its prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from vlmrl.annotate.reading import Read, Token, read
from vlmrl.annotate.record import REFUSED
from vlmrl.annotate.script import Message, Script
from vlmrl.errors import ConfigError, LabelerError
from vlmrl.types import Cost, Kind, Query, Reply

Picture = UInt8[np.ndarray, "_ _ 3"]

SEPARATOR = "\n----\n"
"""Between the texts of the two stages in a reply."""
_ITEMS = {Kind.PREFERENCE: 2, Kind.SUCCESS: 1, Kind.SCORE: 1}
"""How many a question is about; progress is about a first picture and any number of others."""


@dataclass(frozen=True)
class Said:
    """What a model answered to one message."""

    text: str
    cost: Cost = field(default_factory=Cost)
    refused: bool = False
    """The server marked it as a refusal, or held it back: no answer to go on with."""
    cut: bool = False
    """It was going to say more than it was allowed to."""
    tokens: tuple[Token, ...] = ()
    """Empty where the model does not tell probabilities."""
    served: str = ""
    """The model as the server calls it."""


class CallFailedError(Exception):
    """One message got no answer; others may."""

    def __init__(self, why: str, *, cost: Cost = Cost()) -> None:  # noqa: B008
        """`cost` is what the message took all the same."""
        super().__init__(why)
        self.cost = cost


class UnfitError(LabelerError):
    """The labeler cannot go on, for what was said."""

    def __init__(self, why: str, *, said: Said) -> None:
        """`said` was paid for."""
        super().__init__(why)
        self.said = said


class LastReplyError(LabelerError):
    """The labeler cannot go on; what was said and paid till then is a reply without an answer."""

    def __init__(self, why: str, *, reply: Reply) -> None:
        """`reply` has no answer."""
        super().__init__(why)
        self.reply = reply


@runtime_checkable
class Speaker(Protocol):
    """A model that answers messages."""

    async def say(self, message: Message, pictures: Sequence[Picture], *, stage: str, query: Query) -> Said:
        """Answer one message.

        Raises:
            CallFailedError: if this message cannot be answered.
            LabelerError: if none can; an UnfitError where an answer shows it.
        """
        ...


async def compare(speaker: Speaker, script: Script, query: Query, *, annotator: str) -> Reply:
    """Ask a model one question; a failed call becomes a reply that says so.

    Raises:
        LabelerError: if the model can answer nothing any more; a LastReplyError where something was said before.
    """
    check(query, annotator)
    said: list[Said] = []
    error, lost = "", Cost()
    for stage in script.texts:
        message = script.message(stage, query, analysis=said[-1].text if said else "")
        try:
            said.append(await speaker.say(message, query.images, stage=stage, query=query))
        except CallFailedError as e:
            error, lost = str(e), e.cost
            break
        except LabelerError as e:
            said += [e.said] if isinstance(e, UnfitError) else []
            if not said:
                raise
            raise LastReplyError(str(e), reply=_reply(said, annotator, Read(None), lost=lost, error=str(e))) from e
        if said[-1].refused or not said[-1].text.strip():
            break
    if said and said[-1].refused:
        error = f"{REFUSED}the answer was held back"
    complete = len(said) == script.calls and not error
    last = said[-1] if said else Said("")
    found = read(query, last.text, tokens=last.tokens, cut=last.cut) if complete else Read(None)
    return _reply(said, annotator, found, lost=lost, error=error)


def _reply(said: Sequence[Said], annotator: str, found: Read, *, lost: Cost, error: str) -> Reply:
    return Reply(
        answer=found.answer,
        annotator=annotator,
        probability=found.probability,
        text=SEPARATOR.join(s.text for s in said),
        cost=sum((s.cost for s in said), lost),
        error=error,
        served=said[-1].served if said else "",
    )


def check(query: Query, annotator: str) -> None:
    """Refuse a question that no prompt asks.

    Raises:
        ConfigError: if it is of another kind, or about too few or too many items.
    """
    count, wanted = len(query.items), _ITEMS.get(query.kind)
    if query.kind is Kind.RANKING or (count < 2 if wanted is None else count != wanted):
        raise ConfigError(
            f"{annotator} compares two items, judges one, or tells the progress of several after a first; "
            f"got a {query.kind.value} question about {count}"
        )
    if sum(query.counts or (1,) * count) != len(query.images) or 0 in query.counts:
        raise ConfigError(
            f"{annotator} wants pictures of each of {count} items; got {query.counts or len(query.images)}"
        )
