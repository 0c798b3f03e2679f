"""Replies to many questions, without their texts: what a job holds of them, some 20 bytes each."""

from array import array
from collections.abc import Iterable, Sequence
from math import isnan, nan
from typing import overload

from vlmrl.types import Answer, Cost, Reply

_NOBODY = -1


class Replies(Sequence[Reply | None]):
    """A sequence of replies that grows at its end; a reply is made when it is looked at, without text and cost."""

    def __init__(self, replies: Iterable[Reply | None] = ()) -> None:
        """Start with some replies."""
        self._answer = list[Answer | None]()
        self._probability, self._by = array("d"), array("i")
        self._names = dict[tuple[str, str], int]()
        self._who = list[tuple[str, str]]()
        self.cost = Cost()
        """Of all together."""
        self.extend(replies)

    def extend(self, replies: Iterable[Reply | None]) -> None:
        """Append replies, None where there is none."""
        for reply in replies:
            self.append(reply)

    def append(self, reply: Reply | None) -> None:
        """Append one."""
        if reply is None:
            self._add(None, None, _NOBODY)
            return
        who = reply.annotator, reply.served
        if who not in self._names:
            self._names[who] = len(self._who)
            self._who.append(who)
        self._add(reply.answer, reply.probability, self._names[who])
        self.cost += reply.cost

    def _add(self, answer: Answer | None, probability: float | None, by: int) -> None:
        self._answer.append(answer)
        self._probability.append(nan if probability is None else probability)
        self._by.append(by)

    @property
    def served(self) -> set[str]:
        """Models that answered, as their servers call them."""
        return {served for _, served in self._who if served}

    def __len__(self) -> int:
        return len(self._answer)

    @overload
    def __getitem__(self, index: int) -> Reply | None: ...
    @overload
    def __getitem__(self, index: slice) -> "Replies": ...
    def __getitem__(self, index: "int | slice") -> "Reply | Replies | None":
        if isinstance(index, slice):
            return Replies(self[i] for i in range(*index.indices(len(self))))
        if self._by[index] == _NOBODY:
            return None
        (annotator, served), p = self._who[self._by[index]], self._probability[index]
        return Reply(self._answer[index], annotator, None if isnan(p) else p, served=served)

    def __repr__(self) -> str:
        return f"Replies({len(self)})"
