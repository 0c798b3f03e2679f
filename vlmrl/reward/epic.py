"""EPIC distance between rewards (Gleave et al. 2021): 0 where they order policies alike, sqrt(1/2) where unrelated.

Canonically shaped, C(R)(s, a, s') = R(s, a, s') + E[γ R(s', A, S') - R(s, A, S') - γ R(S, A, S')], the expectation
over S, A, S' drawn independently: potential shaping falls out. The distance is sqrt((1 - ρ) / 2), ρ being the Pearson
correlation over a coverage of transitions: shift and positive scale fall out too.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float64, Int64

Reward = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""R(s, a, s') of index arrays that broadcast against each other: into states, into actions, into states."""

SAMPLES = 512
"""Independent draws of S, A and S' for the expectations."""


def arrival(values: Float[np.ndarray, " N"]) -> Reward:
    """A reward that looks at the state arrived at alone, as that of a picture does; `values` by state."""

    def reward(state: np.ndarray, action: np.ndarray, arrived: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values[arrived], np.broadcast_shapes(state.shape, action.shape, arrived.shape))

    return reward


def canonical(
    reward: Reward,
    transitions: tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]],
    coverage: tuple[Int64[np.ndarray, " M"], Int64[np.ndarray, " M"], Int64[np.ndarray, " M"]],
    *,
    discount: float,
) -> Float64[np.ndarray, " N"]:
    """The canonically shaped reward of transitions (s, a, s'), its expectations over the M draws (S, A, S')."""
    state, action, arrived = transitions
    first, chosen, then = coverage
    from_arrived = reward(arrived[:, None], chosen[None], then[None]).mean(1)
    from_state = reward(state[:, None], chosen[None], then[None]).mean(1)
    overall = reward(first, chosen, then).mean()
    return reward(state, action, arrived) + discount * from_arrived - from_state - discount * overall


def draw_coverage(
    states: Int64[np.ndarray, " N"], *, generator: np.random.Generator, samples: int = SAMPLES
) -> tuple[Int64[np.ndarray, " M"], Int64[np.ndarray, " M"], Int64[np.ndarray, " M"]]:
    """S, A and S', each drawn by itself from the states and the actions of the data."""
    first, chosen, then = generator.choice(states, (3, samples))
    return first, chosen, then


def distance(correlation: Float[np.ndarray, " D"]) -> Float64[np.ndarray, " D"]:
    """The distance that belongs to a correlation of canonically shaped rewards."""
    return np.sqrt((1 - correlation) / 2)
