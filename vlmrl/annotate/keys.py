"""The keys of many questions, 32 bytes each instead of a text of 64 letters."""

from collections.abc import Iterable, Sequence
from typing import overload

_BYTES = 32
NO_KEY = "0" * 2 * _BYTES
"""Of a query that was not looked at; no question has it."""


class Keys(Sequence[str]):
    """A sequence of sha256 digests in hexadecimal that grows at its end."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Start with some keys."""
        self._digests = bytearray()
        self.extend(keys)

    def extend(self, keys: Iterable[str]) -> None:
        """Append keys."""
        for key in keys:
            self._digests += bytes.fromhex(key)

    def fill(self, count: int) -> None:
        """Append NO_KEY until there are `count` keys."""
        self._digests += bytes(max(0, count - len(self)) * _BYTES)

    def __len__(self) -> int:
        return len(self._digests) // _BYTES

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Keys": ...
    def __getitem__(self, index: "int | slice") -> "str | Keys":
        if isinstance(index, slice):
            return Keys(self[i] for i in range(*index.indices(len(self))))
        place = range(len(self))[index] * _BYTES
        return self._digests[place : place + _BYTES].hex()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Keys):
            return self._digests == other._digests
        return isinstance(other, Sequence) and list(self) == list(other)  # pyright: ignore[reportUnknownArgumentType]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Keys({len(self)})"
