"""The promotion gate: a challenger takes the incumbent's place only by a rule that was stated before."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from vlmrl.errors import ConfigError
from vlmrl.evaluate.rollout import Rollouts
from vlmrl.evaluate.statistics import difference
from vlmrl.interval import Interval, wilson

FIRST_GATE_SEED = 3_000_000
"""Initial states of gates: neither those of the data, nor those of evaluations, nor those of learning curves."""


@dataclass(frozen=True)
class Rule:
    """When a challenger is promoted: both must hold of its success minus the incumbent's, from the same starts."""

    episodes: int = 100
    """Starts, run by both."""
    first: int = FIRST_GATE_SEED
    """Initial state of the first episode; the next has the next. No episode that was learned from may start there."""
    margin: float = 0.05
    """No loss: the low end of the paired difference's 95 % interval lies above minus this."""
    gain: float = 0.0
    """A gain: the difference itself lies above this."""

    def __post_init__(self) -> None:
        if self.episodes < 1 or not 0 <= self.margin < 1 or not -1 < self.gain < 1:
            raise ConfigError(
                f"gate: episodes from 1, margin from 0 to 1, gain between -1 and 1 wanted, found {self.episodes}, "
                f"{self.margin}, {self.gain}"
            )


@dataclass(frozen=True)
class Decision:
    """Of one gate."""

    promoted: bool
    reason: str
    challenger: Interval
    incumbent: Interval | None = None
    """None where there was none."""
    difference: Interval | None = None


def decide(rule: Rule, challenger: Rollouts, incumbent: Rollouts | None) -> Decision:
    """Promote or refuse, with the reason; without an incumbent anybody is promoted.

    Raises:
        ConfigError: if they did not start alike.
    """
    ours = _rate(challenger.success)
    if incumbent is None:
        return Decision(True, "there is no incumbent", ours)
    if min(len(challenger.seeds), len(incumbent.seeds)) > 1 and not np.array_equal(challenger.seeds, incumbent.seeds):
        raise ConfigError("challenger and incumbent did not start from the same initial states")
    gap = difference(*(one.success[None].astype(np.float64) for one in (challenger, incumbent)))
    found = f"difference {gap.percent()}, {max(len(challenger.seeds), len(incumbent.seeds))} starts"
    wrong = list[str]()
    if not gap.estimate > rule.gain:
        wrong.append(f"no gain above {rule.gain:.0%}")
    if not gap.low > -rule.margin:
        wrong.append(f"a loss of {rule.margin:.0%} is not ruled out")
    reason = f"{' and '.join(wrong)}: {found}" if wrong else f"a gain, and no loss of {rule.margin:.0%}: {found}"
    return Decision(not wrong, reason, ours, _rate(incumbent.success), gap)


def _rate(success: Bool[np.ndarray, " N"]) -> Interval:
    return wilson(int(success.sum()), len(success))


def held_out(rule: Rule, seeds: Sequence[int]) -> None:
    """Refuse to judge a policy from starts that it was trained on.

    Raises:
        ConfigError: if one of the seeds of the data is a start of the gate.
    """
    shared = [seed for seed in seeds if rule.first <= seed < rule.first + rule.episodes]
    if shared:
        raise ConfigError(
            f"{len(shared)} recorded episodes start as the gate does ({min(shared)} to {max(shared)}): say another "
            f"gate.first; the gate takes {rule.episodes} from there"
        )
