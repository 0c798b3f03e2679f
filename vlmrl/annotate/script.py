"""The messages of a prompt: versioned texts in conf/prompt/<name>/, filled with the goal and the pictures.

Two stages: a free analysis of the pictures, then a call without pictures that turns the analysis into an answer. One
stage: both in a single call. Change a text by adding a new name. Placeholders of a text:

- `$goal`, and in the second stage `$analysis`;
- `$picture_0`, `$picture_1`: the only picture of an item;
- `$clip_0`, `$clip_1`: all pictures of an item, in order of time;
- `$pictures`: the items but the first, each behind its number in brackets, and `$count`, how many they are;
- `$trajectory`: a space and the text of trajectory.txt where the way of the robot's hand is drawn, else nothing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any, Literal, get_args

from vlmrl.annotate.question import picture_digest
from vlmrl.content import find, places
from vlmrl.errors import ConfigError, unknown
from vlmrl.types import Query

Protocols = Literal["auto", "two_stage", "one_stage"]
Message = Sequence[str | int]
"""Text and numbers of pictures, interleaved as the model sees them."""

STAGES = {"two_stage": ("analysis", "label"), "one_stage": ("one_stage",)}
COMPARE = "compare-1"
"""RL-VLM-F's comparison of two pictures, in our own words."""
PROMPTS: Mapping[tuple[str, str], str] = {
    ("preference", "frame"): COMPARE,
    ("preference", "strip"): "clip-strip-1",
    ("preference", "images"): "clip-images-1",
    ("preference", "before_after"): "clip-before-after-1",
    ("progress", "frame"): "progress-1",
    ("yes", "frame"): "yes-frame-1",
    ("yes", "strip"): "yes-strip-1",
    ("yes", "images"): "yes-images-1",
    ("yes", "before_after"): "yes-images-1",
    ("score", "frame"): "score-1",
    ("success", "frame"): "success-frame-1",
    ("success", "strip"): "success-strip-1",
    ("success", "images"): "success-images-1",
    ("success", "before_after"): "success-images-1",
}
"""What each question is asked with, by how its items are shown."""

_NOTE = "trajectory"
_PLACE = re.compile(r"\$(picture_[01]|clip_[01]|pictures)\b")
_HAVE = "$goal, $analysis, $picture_0, $picture_1, $clip_0, $clip_1, $pictures, $count, $trajectory"


@dataclass(frozen=True)
class Script:
    """The messages of one protocol."""

    name: str
    protocol: str
    texts: Mapping[str, str]
    """Stage to template."""
    note: str = ""
    """What the way of the hand on the pictures is."""

    @property
    def calls(self) -> int:
        """Calls that one question takes."""
        return len(self.texts)

    def content(self, query: Query) -> dict[str, Any]:
        """Return everything sent but the analysis, which the rest determines."""
        messages = {s: self.message(s, query, analysis="$analysis") for s in self.texts}
        return {
            "kind": query.kind.value,
            "protocol": self.protocol,
            "messages": messages,
            "pictures": [picture_digest(p) for p in query.images],
        }

    def message(self, stage: str, query: Query, *, analysis: str = "") -> list[str | int]:
        """Return a stage's text with its pictures in place.

        Raises:
            ConfigError: if the text has a placeholder that does not exist, or wants other pictures than there are.
        """
        known = {
            "goal": query.instruction.strip().rstrip(".。"),
            "analysis": analysis,
            "count": str(len(query.items) - 1),
            _NOTE: self._told(query),
        }
        parts: list[str | int] = []
        for i, piece in enumerate(_PLACE.split(self.texts[stage])):
            if i % 2:
                parts += self._pictures(piece, query)
                continue
            try:
                parts.append(Template(piece).substitute(known).strip("\n"))
            except (KeyError, ValueError) as e:
                raise ConfigError(f"prompt {self.name!r}, {stage}: wrong placeholder {e}; have: {_HAVE}") from e
        return [p for p in parts if p != ""]

    def _told(self, query: Query) -> str:
        if query.traced and not (self.note and any(f"${_NOTE}" in text for text in self.texts.values())):
            raise ConfigError(
                f"prompt {self.name!r} does not tell what the line drawn on the pictures is: "
                f"add {_NOTE}.txt, and ${_NOTE} where it belongs"
            )
        return f" {self.note}" if query.traced else ""

    def _pictures(self, place: str, query: Query) -> Iterator[str | int]:
        kind, _, number = place.partition("_")
        if kind == "pictures":
            for item in range(1, len(query.items)):
                yield f"[{item}]"
                yield from query.places(item)
            return
        if int(number) >= len(query.items):
            raise ConfigError(
                f"prompt {self.name!r} shows ${place}, but a {query.kind.value} question is about {len(query.items)} "
                "item: choose another prompt"
            )
        places = query.places(int(number))
        if kind == "picture" and len(places) != 1:
            raise ConfigError(
                f"prompt {self.name!r} shows ${place}, one picture, but the item has {len(places)}: "
                "choose a prompt for clips, or another ask.show"
            )
        yield from places


def load_script(name: str, *, protocol: str = "auto") -> Script:
    """Read the texts of a prompt; auto takes two stages where it has them.

    Raises:
        ConfigError: if there is no such prompt or protocol; the message lists those there are.
    """
    if protocol not in get_args(Protocols):
        raise unknown("protocol", protocol, get_args(Protocols))
    have = {p.name for place in places("conf") for p in place.glob("prompt/*") if p.is_dir()}
    if name not in have:
        raise unknown("prompt", name, have)
    folder = find("conf", f"prompt/{name}")
    if protocol == "auto":
        protocol = "two_stage" if (folder / "analysis.txt").is_file() else "one_stage"
    paths = {stage: folder / f"{stage}.txt" for stage in STAGES[protocol]}
    if missing := [path for path in paths.values() if not path.is_file()]:
        own = ", ".join(sorted(p.stem for p in folder.glob("*.txt")))
        raise ConfigError(f"prompt {name!r} has no {missing[0]} for protocol {protocol}; it has: {own or 'no text'}")
    note = folder / f"{_NOTE}.txt"
    texts = {stage: path.read_text(encoding="utf-8").strip() for stage, path in paths.items()}
    return Script(name, protocol, texts, note.read_text(encoding="utf-8").strip() if note.is_file() else "")


def default_prompt(question: str, show: str) -> str:
    """Return the prompt of a question about items that are shown so.

    Raises:
        ConfigError: if it cannot be asked about them.
    """
    if (question, show) not in PROMPTS:
        have = (s for q, s in PROMPTS if q == question)
        raise ConfigError(f"question={question} cannot be asked with ask.show={show}; have: {', '.join(have)}")
    return PROMPTS[question, show]
