"""D4RL's normalised score: 0 is a random policy, 100 an expert (Fu et al. 2020).

    100 · (return − random) / (expert − random)

The published references are those of D4RL's own code (Farama-Foundation/D4RL at 61b0d257: `d4rl/infos.py` and
`d4rl/hand_manipulation_suite/__init__.py`), measured in the environments of its day (gym's v2 locomotion on 1,000
steps, mj_envs' hands on 200, the pen on 100). Gymnasium's v4 and v5 and gymnasium-robotics' hands differ from them in
details of physics and reward: a score there is a scale for reading, not an entry for D4RL's tables. Episodes must be of
the same length, for returns grow with it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vlmrl.errors import ConfigError
from vlmrl.sim import Task


@dataclass(frozen=True)
class Reference:
    """Mean returns of a random policy and of an expert."""

    random: float
    expert: float
    source: str

    def score(self, returns: float | int) -> float:
        """The normalised score of a return."""
        return 100 * (returns - self.random) / (self.expert - self.random)


PUBLISHED: Mapping[str, tuple[float, float, int]] = {
    "HalfCheetah": (-280.178953, 12135.0, 1000),
    "Hopper": (-20.272305, 3234.3, 1000),
    "Walker2d": (1.629008, 4592.3, 1000),
    "Ant": (-325.6, 3879.7, 1000),
    "AdroitHandDoor": (-56.512833, 2880.5693087298737, 200),
    "AdroitHandHammer": (-274.856578, 12794.134825156867, 200),
    "AdroitHandPen": (96.262799, 3076.8331017826877, 100),
    "AdroitHandRelocate": (-6.425911, 4233.877797728884, 200),
}
"""Random, expert, and the length of an episode, by Gymnasium's names without their version."""


def reference(task: Task) -> Reference | None:
    """The task's own references (`reference: {random: …, expert: …}`), else D4RL's of its Gymnasium id, else none.

    Raises:
        ConfigError: if the task's own make no scale.
    """
    own = task.reference
    if own:
        if set(own) != {"random", "expert"} or own["random"] == own["expert"]:
            raise ConfigError(f"task {task.name!r}: reference has two different numbers random and expert, found {own}")
        return Reference(own["random"], own["expert"], f"task {task.name}")
    key = re.sub(r"-v\d+$", "", task.physics.name)
    # Other arguments may mean another reward (sparse), and what varies another environment.
    if key not in PUBLISHED or task.physics.options.get("arguments") or task.variation.active:
        return None
    random, expert, length = PUBLISHED[key]
    return Reference(random, expert, "D4RL") if task.horizon == length else None
