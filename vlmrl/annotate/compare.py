"""How a vision-language model is asked which of two pictures is better: RL-VLM-F's protocol in our own words.

Two stages: a free analysis of both pictures, then a call without pictures that turns the analysis into a label. One
stage: both in a single call. The texts are versioned files in conf/prompt/<name>/; change one by adding a new name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Template
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from vlmrl.annotate.question import picture_digest
from vlmrl.annotate.verdict import read_verdict
from vlmrl.content import find, places
from vlmrl.errors import ConfigError, unknown
from vlmrl.types import Cost, Kind, Query, Reply

Protocols = Literal["two_stage", "one_stage"]
Picture = UInt8[np.ndarray, "_ _ 3"]
Message = Sequence[str | int]
"""Text and numbers of pictures, interleaved as the model sees them."""

SEPARATOR = "\n----\n"
"""Between the texts of the two stages in a reply."""
_STAGES = {"two_stage": ("analysis", "label"), "one_stage": ("one_stage",)}
_PICTURE = re.compile(r"\$picture_([01])\b")


@dataclass(frozen=True)
class Said:
    """What a model answered to one message."""

    text: str
    cost: Cost = field(default_factory=Cost)
    refused: bool = False
    """The server marked it as a refusal, or cut it: no answer to go on with."""


class CallFailedError(Exception):
    """One message got no answer; others may."""


@runtime_checkable
class Speaker(Protocol):
    """A model that answers messages."""

    async def say(self, message: Message, pictures: Sequence[Picture], *, stage: str) -> Said:
        """Answer one message.

        Raises:
            CallFailedError: if this message cannot be answered.
            LabelerError: if none can.
        """
        ...


@dataclass(frozen=True)
class Script:
    """The messages of one protocol."""

    name: str
    protocol: str
    texts: Mapping[str, str]
    """Stage to template."""

    @property
    def calls(self) -> int:
        """Calls that one question takes."""
        return len(self.texts)

    def content(self, query: Query) -> dict[str, Any]:
        """Return everything sent but the analysis, which the rest determines."""
        messages = {s: self.message(s, goal=query.instruction, analysis="$analysis") for s in self.texts}
        return {
            "kind": query.kind.value,
            "protocol": self.protocol,
            "messages": messages,
            "pictures": [picture_digest(p) for p in query.images],
        }

    def message(self, stage: str, *, goal: str, analysis: str = "") -> list[str | int]:
        """Return a stage's text with its pictures in place.

        Raises:
            ConfigError: if the text has a placeholder that does not exist.
        """
        known = {"goal": goal.strip().rstrip("."), "analysis": analysis}
        try:
            pieces = _PICTURE.split(self.texts[stage])
            parts = [int(p) if i % 2 else Template(p).substitute(known).strip("\n") for i, p in enumerate(pieces)]
        except (KeyError, ValueError) as e:
            raise ConfigError(
                f"prompt {self.name!r}, {stage}: wrong placeholder {e}; have: $goal, $analysis, $picture_0, $picture_1"
            ) from e
        return [p for p in parts if p != ""]


def load_script(name: str, *, protocol: str) -> Script:
    """Read the texts of a prompt.

    Raises:
        ConfigError: if there is no such prompt or protocol; the message lists those there are.
    """
    if protocol not in get_args(Protocols):
        raise unknown("protocol", protocol, get_args(Protocols))
    have = {p.name for place in places("conf") for p in place.glob("prompt/*") if p.is_dir()}
    if name not in have:
        raise unknown("prompt", name, have)
    texts = {s: find("conf", f"prompt/{name}/{s}.txt").read_text(encoding="utf-8").strip() for s in _STAGES[protocol]}
    return Script(name, protocol, texts)


async def compare(speaker: Speaker, script: Script, query: Query, *, annotator: str) -> Reply:
    """Ask a model which picture is better; a failed call becomes a reply that says so.

    Raises:
        LabelerError: if the model can answer nothing any more.
    """
    if query.kind is not Kind.PREFERENCE or len(query.images) != 2:
        raise ConfigError(f"{annotator} compares two pictures; got {query.kind.value}, {len(query.images)} pictures")
    said: list[Said] = []
    error = ""
    for stage in script.texts:
        message = script.message(stage, goal=query.instruction, analysis=said[-1].text if said else "")
        try:
            said.append(await speaker.say(message, query.images, stage=stage))
        except CallFailedError as e:
            error = str(e)
            break
        if said[-1].refused or not said[-1].text.strip():
            break
    complete = len(said) == script.calls and not said[-1].refused
    return Reply(
        answer=read_verdict(said[-1].text) if complete else None,
        annotator=annotator,
        text=SEPARATOR.join(s.text for s in said),
        cost=sum((s.cost for s in said), Cost()),
        error=error,
    )
