"""Questions to people, as the ledger keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmrl.annotate.ledger import Asked
from vlmrl.annotate.question import canonical, digest, item_from_json, item_to_json, question_key
from vlmrl.types import Item, Kind, Query

LABELER = "human"
"""Name under which the ledger keeps questions to people."""

PREFIX = "human:"
"""Of the annotator of a person's replies."""


@dataclass(frozen=True)
class Pair:
    """Two things to compare by a sentence; a is shown first."""

    a: Item
    b: Item
    sentence: str

    @property
    def id(self) -> str:
        """The same for both ways round."""
        return digest([sorted(canonical(item_to_json(item)) for item in (self.a, self.b)), self.sentence])

    @property
    def way(self) -> str:
        """Another one for each way round."""
        return digest([*(canonical(item_to_json(item)) for item in (self.a, self.b)), self.sentence])

    @property
    def swapped(self) -> "Pair":
        """The other way round."""
        return Pair(self.b, self.a, self.sentence)


@dataclass(frozen=True)
class PersonQuestion:
    """A pair as it is, or was, shown to a person."""

    key: str
    shown: Pair
    pictures: tuple[str, str]
    """Digests of what is seen of a and of b."""
    draw: int = 0
    """Tells apart who answers the pair first, second and so on."""
    repeat: str = ""
    """The person who is asked again, without being told; empty: whoever comes."""
    sighted: str = ""
    """The person who saw what others answered; empty: nobody does."""
    pair: str = ""
    """The same for both ways round."""
    drawn: bool = False
    """Put on the queue by the page itself, at random: no budget of routing pays for it."""


def ask(
    shown: Pair, pictures: tuple[str, str], *, draw: int = 0, repeat: str = "", sighted: str = "", drawn: bool = False
) -> tuple[Asked, PersonQuestion]:
    """Return a question as the ledger takes it, and as the page does."""
    content: dict[str, object] = {
        "labeler": LABELER,
        "version": 1,
        "kind": Kind.PREFERENCE.value,
        "instruction": shown.sentence,
        "items": [item_to_json(shown.a), item_to_json(shown.b)],
        "pictures": list(pictures),
        "draw": draw,
    }
    content |= {"repeat": repeat} if repeat else {}
    content |= {"sighted": sighted} if sighted else {}
    content |= {"drawn": True} if drawn else {}
    key = question_key(content)
    return Asked(key, content, Query(Kind.PREFERENCE, (shown.a, shown.b), shown.sentence)), parsed(key, content)


def parsed(key: str, content: Mapping[str, Any]) -> PersonQuestion:
    """Read a question's content."""
    a, b = (item_from_json(item) for item in content["items"])
    shown = Pair(a, b, content["instruction"])
    a_seen, b_seen = content["pictures"]
    repeat, sighted = str(content.get("repeat", "")), str(content.get("sighted", ""))
    draw, drawn = int(content["draw"]), bool(content.get("drawn"))
    return PersonQuestion(key, shown, (a_seen, b_seen), draw, repeat, sighted, shown.id, drawn)


def is_person(annotator: str) -> bool:
    """Whether an annotator is a person at the page."""
    return annotator.startswith(PREFIX)
