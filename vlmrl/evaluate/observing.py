"""Does a policy look? Its episodes again, but shown what another episode saw at the same time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from vlmrl.errors import ConfigError, DataError
from vlmrl.evaluate.lanes import LanePool
from vlmrl.evaluate.rollout import Rollouts, rollout
from vlmrl.evaluate.statistics import difference, mean_difference
from vlmrl.interval import Interval
from vlmrl.sim import Task
from vlmrl.types import Policy, cameras, history

_Seen = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Looks:
    """Own observations minus another episode's, over the same initial states."""

    episodes: int
    success: Interval
    returns: Interval

    @property
    def proven(self) -> bool:
        """Whether seeing its own episode made the policy better."""
        return self.success.low > 0 or self.returns.low > 0


@dataclass
class _Taped:
    """Notes what a policy sees, episode by episode; or shows it what the next episode of a tape saw."""

    policy: Policy
    tape: list[list[_Seen]] = field(default_factory=list)
    shown: Sequence[Sequence[_Seen]] | None = None
    _episode: dict[int, int] = field(default_factory=dict)
    _asked: dict[int, int] = field(default_factory=dict)
    _started: int = 0

    def __post_init__(self) -> None:
        self.name, self.history, self.cameras = self.policy.name, history(self.policy), cameras(self.policy)

    def reset(self, mask: Bool[np.ndarray, " B"], instructions: Sequence[str], generator: np.random.Generator) -> None:
        for k in np.flatnonzero(mask).tolist():
            self._episode[k], self._asked[k] = self._started, 0
            self._started += 1
            self.tape.append([])
        self.policy.reset(mask, instructions, generator)

    def act(self, observations: _Seen) -> Float[np.ndarray, "B h A"]:
        count = len(next(iter(observations.values())))
        seen = [self._see({key: value[k] for key, value in observations.items()}, k) for k in range(count)]
        return self.policy.act({key: np.stack([one[key] for one in seen]) for key in observations})

    def _see(self, own: _Seen, robot: int) -> _Seen:
        episode, turn = self._episode[robot], self._asked[robot]
        self._asked[robot] += 1
        if self.shown is None:
            self.tape[episode].append(own)
            return own
        other = self.shown[(episode + 1) % len(self.shown)]
        return other[min(turn, len(other) - 1)]


def looks(task: Task, policy: Policy, seeds: Sequence[int], *, envs: LanePool) -> Looks:
    """Run each episode twice: seeing itself, and seeing the episode of the next seed.

    Raises:
        ConfigError: if there are fewer than two initial states to exchange.
    """
    if len(seeds) < 2:
        raise ConfigError("check=observations exchanges episodes, so it needs at least two")
    taped = _Taped(policy)
    own = rollout(task, taped, seeds, envs=envs)
    other = rollout(task, _Taped(policy, shown=taped.tape), seeds, envs=envs)
    pairs = [[getattr(found, key)[None].astype(np.float64) for found in (own, other)] for key in ("success", "returns")]
    return Looks(len(seeds), difference(*pairs[0]), mean_difference(*pairs[1]))


def demand(found: Looks, policy: str, task: str) -> None:
    """Fail where nothing shows that the policy looks.

    Raises:
        DataError: with the figures.
    """
    if not found.proven:
        raise DataError(
            f"{policy} in {task}: no better with its own observations than with those of another episode "
            f"(success {found.success}, return {found.returns}, own minus other's, {found.episodes} episodes): "
            "it may ignore what it sees, or the episodes are too few or too alike to tell"
        )


def blind(rollouts: Rollouts) -> bool:
    """Whether every episode got the same actions to the bit although the episodes started differently."""
    starts, actions = ({getattr(e, key) for e in rollouts.episodes} for key in ("start", "actions"))
    return len(starts) > 1 and len(actions) == 1
