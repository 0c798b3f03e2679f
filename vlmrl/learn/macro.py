"""Several actions in a row as one, so that any learner of single actions learns chunks of them.

As in Q-chunking (Li, Zhou, Levine 2025, arXiv 2507.07969): the value of a chunk is the discounted sum of the rewards on
its way and what follows it, without a bias, since the whole chunk is what is executed.
"""

from dataclasses import replace

import numpy as np

from vlmrl.errors import ConfigError, DataError
from vlmrl.learn.batch import windows
from vlmrl.types import Transitions

LEARNERS = ("bc", "iql", "td3bc")
"""Those that learn of single actions and look at no row beside their own, and so learn of what stands for one."""


def chunked(transitions: Transitions, length: int, discount: float) -> Transitions:
    """Rows that have `length` actions before a gap or the end of their episode, with these actions one after the other.

    Rewards are summed, the i-th times discount**i; the mask carries the discount of all steps but one, which the
    learner multiplies itself; the next observation is the one after the chunk.

    Raises:
        ConfigError: if the length makes no sense.
        DataError: if no episode is that long.
    """
    if length < 1:
        raise ConfigError(f"chunk {length} given; wanted at least 1")
    if length == 1:
        return transitions
    around = windows(transitions, 0, length - 1)
    whole = np.flatnonzero(around[:, -1] - np.arange(len(around)) == length - 1)
    if not len(whole):
        raise DataError(f"chunk={length}: no episode has {length} actions without a gap")
    rows, last = around[whole], around[whole, -1]
    decay = (discount ** np.arange(length)).astype(np.float32)
    taken = transitions.take(whole)
    return replace(
        taken,
        action=transitions.action[rows].reshape(len(rows), -1),
        reward=transitions.reward[rows] @ decay,
        mask=transitions.mask[last] * decay[-1],
        next_obs=transitions.next_obs[last],
        pictures=replace(taken.pictures, step=length) if taken.pictures else None,
    )
