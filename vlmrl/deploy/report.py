"""What a run was like: times, lateness, seams, clipping, stops and success, and the thresholds that fail it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlmrl.errors import RobotError
from vlmrl.interval import wilson
from vlmrl.safety import Reason

_LEVELS = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
_MEANS = {
    "observe": "reading the joints",
    "infer": "policy, in its process",
    "send": "sending positions",
    "tick": "all of a tick's work",
    "late": "start after its deadline",
}


@dataclass
class Tally:
    """Counted while the robot runs."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _MEANS})
    ticks: int = 0
    overruns: int = 0
    """Ticks that were not over when the next was due."""
    reasons: Counter[Reason] = field(default_factory=Counter[Reason])
    """Ticks at which each reason spoke."""
    person: int = 0
    """Ticks at which a person was in command."""
    missed: int = 0
    """Readings of the joints that failed."""


@dataclass(frozen=True)
class Limits:
    """Thresholds that fail the command; null: none."""

    success: float | None = None
    """Least share of episodes that succeed."""
    overruns: float | None = None
    """Largest share of late ticks."""
    tick_p99_s: float | None = None
    """Largest 99th percentile of a tick's work."""
    late_p99_s: float | None = None
    """Largest 99th percentile of how late ticks start."""
    clipped: float | None = None
    """Largest share of ticks whose command was changed by more than what speed and acceleration allow."""
    jump: float | None = None
    """Largest change of an action where two chunks meet; actions reach from -1 to 1."""


@dataclass(frozen=True)
class Report:
    """Of one run."""

    pilot: str
    ended: str
    """Why it ended."""
    outcomes: Sequence[int]
    """Of each episode: 1, 0, or -1 where nobody said."""
    tally: Tally
    jumps: Sequence[float] = ()
    stale: int = 0
    """Chunks that came when their time was over."""
    restarts: int = 0
    """Of the policy's process."""
    priority: str = ""
    note: str = ""
    discarded: int = 0

    @property
    def clipped(self) -> float:
        """Share of ticks with a reason that is not mere speed."""
        told = sum(n for reason, n in self.tally.reasons.items() if reason is not Reason.SPEED)
        return told / max(self.tally.ticks, 1)

    def percentiles(self) -> dict[str, dict[str, float]]:
        """By what is timed, s."""
        return {
            name: {level: float(np.percentile(values, p)) for level, p in _LEVELS.items()}
            for name, values in self.tally.seconds.items()
            if values
        }

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        judged = [o for o in self.outcomes if o >= 0]
        found = wilson(sum(judged), len(judged)) if judged else None
        return {
            "pilot": self.pilot,
            "ended": self.ended,
            "episodes": len(self.outcomes),
            "outcomes": list(self.outcomes),
            "success": vars(found) | {"n": len(judged)} if found else None,
            "seconds": self.percentiles(),
            "ticks": self.tally.ticks,
            "overruns": self.tally.overruns,
            "missed_readings": self.tally.missed,
            "person_ticks": self.tally.person,
            "reasons": {reason.name.lower(): n for reason, n in self.tally.reasons.most_common()},
            "clipped": self.clipped,
            "jumps": {"count": len(self.jumps), "largest": max(self.jumps, default=0.0)},
            "late_actions": self.stale,
            "policy_restarts": self.restarts,
            "priority": self.priority,
            "discarded": self.discarded,
            "note": self.note,
        }

    def text(self) -> str:
        """For the terminal."""
        tally, judged = self.tally, [o for o in self.outcomes if o >= 0]
        lines = [f"{self.pilot}: {len(self.outcomes)} episodes; {self.ended}"]
        if judged:
            lines.append(f"success {wilson(sum(judged), len(judged)).percent()}, {sum(judged)} of {len(judged)}")
        head = "".join(f"{level:>9}" for level in _LEVELS)
        lines += ["", f"{'ms':<28}{head}"]
        for name, row in self.percentiles().items():
            values = "".join(f"{1e3 * value:9.2f}" for value in row.values())
            lines.append(f"{name:8}{_MEANS[name][:19]:<20}{values}")
        lines += [
            "",
            f"{tally.overruns} of {tally.ticks} ticks were late, {tally.missed} readings failed; priority: "
            f"{self.priority or 'as it was'}",
            f"{len(self.jumps)} seams, largest change {max(self.jumps, default=0.0):.3f}; {self.stale} ticks took "
            f"an action that came too late, {self.restarts} restarts of the policy",
        ]
        told = ", ".join(f"{r.name.lower()} {n / max(tally.ticks, 1):.1%}" for r, n in tally.reasons.most_common())
        lines.append(f"commands changed: {told or 'never'}; a person in command {tally.person} ticks")
        return "\n".join([*lines, *([f"steering: {self.note}"] if self.note else [])])

    def check(self, limits: Limits) -> None:
        """Fail where a threshold is crossed.

        Raises:
            RobotError: naming every one.
        """
        judged, seconds = [o for o in self.outcomes if o >= 0], self.percentiles()
        share = sum(judged) / len(judged) if judged else 0.0
        most: Mapping[str, float] = {
            "overruns": self.tally.overruns / max(self.tally.ticks, 1),
            "tick_p99_s": seconds.get("tick", {}).get("p99", 0.0),
            "late_p99_s": seconds.get("late", {}).get("p99", 0.0),
            "clipped": self.clipped,
            "jump": max(self.jumps, default=0.0),
        }
        wrong = [
            f"{name} {value:.4g} above {getattr(limits, name):g}"
            for name, value in most.items()
            if getattr(limits, name) is not None and value > getattr(limits, name)
        ]
        if limits.success is not None and share < limits.success:
            wrong.insert(0, f"success {share:.2f} below {limits.success:g}")
        if wrong:
            raise RobotError(f"thresholds crossed: {'; '.join(wrong)}")
