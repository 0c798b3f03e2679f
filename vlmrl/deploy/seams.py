"""Action chunks in the order of control ticks, and what happens where one chunk meets the next.

A chunk is asked for at one tick and comes at a later one. How many of its actions are over by then is counted in ticks
that were truly executed, never estimated from latencies.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from vlmrl.errors import ConfigError, unknown

Seam = Literal["hold", "fade", "ensemble", "anchor"]
"""hold: a chunk is executed to its end, the robot holds, and looks again. fade: from the old chunk linearly to the new
one. ensemble: all chunks that have an action for a tick are averaged, the oldest weighing most (Zhao et al. 2023,
temporal ensembling). anchor: the new chunk is shifted to begin where the old one would go on, and the shift fades."""

_DECAY = 0.01
"""Of an ensemble's weights, by each younger chunk: that of Zhao et al. 2023."""


@dataclass
class ActionQueue:
    """What is to be asked for at the next ticks."""

    seam: str = "hold"
    """One of Seam."""
    fade: int = 5
    """Ticks over which fade and anchor go from one chunk to the next."""
    jumps: list[float] = field(default_factory=list[float])
    """Largest change of any number of the action at each seam."""
    stale: int = 0
    """Ticks that took the last action of a chunk that came when all its ticks were over."""
    behind: int = 0
    """Ticks since that for which the action taken last was meant."""
    _plan: dict[int, Float[np.ndarray, " A"]] = field(default_factory=dict)
    _chunks: list[tuple[int, Float[np.ndarray, "h A"]]] = field(default_factory=list)
    _last: Float[np.ndarray, " A"] | None = None
    _makeshift: int = 0
    """By how many ticks what is planned, the end of a chunk, comes too late: used unless a better one comes in time."""
    _seam: bool = False
    """Whether the next action that is taken is the first of its chunk."""

    def __post_init__(self) -> None:
        if self.seam not in get_args(Seam):
            raise unknown("seam", self.seam, get_args(Seam))
        if self.fade < 1:
            raise ConfigError(f"fade wants at least 1 tick, found {self.fade}")

    def clear(self) -> None:
        """Start an episode."""
        self._plan, self._chunks, self._last = {}, [], None
        self.behind, self._makeshift, self._seam = 0, 0, False

    def left(self, tick: int) -> int:
        """Actions that were meant for this tick and those after it."""
        return 0 if self._makeshift else sum(k >= tick for k in self._plan)

    def put(self, chunk: Float[np.ndarray, "h A"], asked: int, tick: int) -> None:
        """Take a chunk that was asked for at one tick, and comes before another is executed."""
        waited = not self.left(tick)
        over = 0 if self.seam == "hold" and waited else tick - asked
        makeshift = max(0, over - len(chunk) + 1)
        if makeshift and not waited:
            return  # what was meant for these ticks is here already
        fresh = chunk[-1:] if makeshift else chunk[over:]
        if self._last is not None and self._last.shape != fresh.shape[1:]:
            # No action of this robot; the safety chain says so when its turn comes.
            self.clear()
        old = [self._plan[k] for k in sorted(self._plan) if k >= tick]
        if self._makeshift:
            old, self._chunks = [], self._chunks[:-1]
        self._makeshift = makeshift
        if self.seam == "ensemble":
            self._chunks = [(start, c) for start, c in self._chunks if start + len(c) > tick] + [(tick, fresh)]
            joined = [self._average(k) for k in range(tick, max(start + len(c) for start, c in self._chunks))]
        else:
            joined = self._joined(old, fresh)
        self._plan, self._seam = dict(enumerate(joined, tick)), True

    def take(self, tick: int) -> Float[np.ndarray, " A"] | None:
        """The action of a tick; None where there is none."""
        action = self._plan.pop(tick, None)
        if action is None:
            return None
        if self._seam and self._last is not None:
            self.jumps.append(float(np.abs(action - self._last).max()))
        self.stale += self._makeshift > 0
        self._last, self._seam, self.behind = action, False, self._makeshift
        return action

    @property
    def last(self) -> Float[np.ndarray, " A"] | None:
        """The action that was taken last."""
        return self._last

    def _joined(
        self, old: list[Float[np.ndarray, " A"]], fresh: Float[np.ndarray, "h A"]
    ) -> list[Float[np.ndarray, " A"]]:
        if self.seam == "fade":
            count = min(self.fade, len(old), len(fresh))
            shares = np.arange(1, count + 1) / (count + 1)
            faded = [(1 - s) * a + s * b for s, a, b in zip(shares, old, fresh, strict=False)]
            return [*faded, *fresh[count:]]
        before = old[0] if old else self._last
        if self.seam == "anchor" and before is not None and len(fresh) > 1:  # a single one would never leave its place
            shares = np.clip(1 - np.arange(len(fresh)) / self.fade, 0, 1)
            return list(fresh + shares[:, None] * (before - fresh[0]))
        return list(fresh) if self.seam == "anchor" else [*old, *fresh]

    def _average(self, tick: int) -> Float[np.ndarray, " A"]:
        votes = [c[tick - start] for start, c in self._chunks if start <= tick < start + len(c)]
        weights = np.exp(-_DECAY * np.arange(len(votes)))
        return (weights[:, None] * np.array(votes)).sum(0) / weights.sum()
