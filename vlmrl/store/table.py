"""The table of all committed episodes of a store."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int8, Int64

from vlmrl.errors import DataError
from vlmrl.store.part import Part


@dataclass(frozen=True)
class EpisodeTable:
    """One entry per episode, in store order."""

    id: list[str]
    start: Int64[np.ndarray, " E"]
    """First global row."""
    stop: Int64[np.ndarray, " E"]
    """Exclusive last global row."""
    terminated: Bool[np.ndarray, " E"]
    truncated: Bool[np.ndarray, " E"]
    success: Int8[np.ndarray, " E"]
    """1, 0, or -1 where unknown."""
    task: list[str]
    robot: list[str]
    instruction: list[str]
    source: list[str]
    seed: Int64[np.ndarray, " E"]
    part: Int64[np.ndarray, " E"]
    """Which part of the store holds it."""
    _places: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._places.update({name: i for i, name in enumerate(self.id)})

    def __len__(self) -> int:
        return len(self.id)

    def __contains__(self, id: object) -> bool:
        return id in self._places

    @property
    def length(self) -> Int64[np.ndarray, " E"]:
        """Rows of each episode."""
        return self.stop - self.start

    def index(self, id: str) -> int:
        """Place of an episode in the store."""
        if id not in self._places:
            have = ", ".join(self.id[:5]) + (f" and {len(self.id) - 5} more" if len(self.id) > 5 else "")
            raise DataError(f"unknown episode {id!r}; have: {have or 'none'}")
        return self._places[id]

    def of_row(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Place of the episode that holds each global row."""
        return np.searchsorted(self.stop, rows, side="right").astype(np.int64)


def read_table(parts: Sequence[Part]) -> EpisodeTable:
    """Join the tables of all parts."""
    facts = [part.facts for part in parts]
    lengths = [np.diff(f["end"], prepend=0) for f in facts]
    stop = np.cumsum(_join(lengths, np.int64))

    def texts(key: str) -> list[str]:
        return [str(value) for f in facts for value in f[key]]

    return EpisodeTable(
        id=texts("id"),
        start=stop - _join(lengths, np.int64),
        stop=stop,
        terminated=_join([f["terminated"] for f in facts], np.bool_),
        truncated=_join([f["truncated"] for f in facts], np.bool_),
        success=_join([f["success"] for f in facts], np.int8),
        task=texts("task"),
        robot=texts("robot"),
        instruction=texts("instruction"),
        source=texts("source"),
        seed=_join([f["seed"] for f in facts], np.int64),
        part=np.repeat(np.arange(len(parts)), [len(n) for n in lengths]).astype(np.int64),
    )


def _join(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype)
