"""How often each row of a mixed store is trained on: better episodes more often, sources in stated shares.

By return as in Hong et al. 2023 (arXiv 2306.13085): an episode's weight is exp(its return, brought to 0 and 1 by the
least and the largest, over a temperature).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from vlmrl.errors import ConfigError, unknown
from vlmrl.types import Transitions


@dataclass(frozen=True)
class Sampling:
    """Which rows a learner draws more often than others."""

    temperature: float | None = None
    """Draw rows of an episode by exp(return / this), the least return of the store being 0 and the largest 1: 0.1
    draws the best e^10 times as often as the worst; null: all alike."""
    shares: tuple[str, ...] = ()
    """Share of each batch, on average, by an episode's source (`vlmrl data show` lists them), as [SOURCE:0.5,...];
    sources that are not named divide the rest by their rows."""

    def by_source(self) -> dict[str, float]:
        """The shares as numbers.

        Raises:
            ConfigError: if one is not SOURCE:NUMBER.
        """
        found: dict[str, float] = {}
        for text in self.shares:
            name, _, share = text.rpartition(":")
            try:
                found[name.strip()] = float(share)
            except ValueError as error:
                raise ConfigError(f"sampling.shares: SOURCE:NUMBER wanted, found {text!r}") from error
        return found


def weighted(config: Sampling, transitions: Transitions, sources: Sequence[str]) -> Transitions:
    """The transitions with their weights, times those they had; `sources` says where each episode comes from.

    Raises:
        ConfigError: if shares or temperature make no sense.
    """
    if config.temperature is None and not config.shares:
        return transitions
    weight = np.ones(len(transitions)) if transitions.weight is None else transitions.weight
    weight = weight if config.temperature is None else weight * by_return(transitions, config.temperature)
    if config.shares:
        weight = shared(weight, np.array(sources)[transitions.episode], config.by_source())
    return replace(transitions, weight=weight)


def by_return(transitions: Transitions, temperature: float) -> Float64[np.ndarray, " N"]:
    """exp(return / temperature) of each row's episode, returns brought to 0 and 1."""
    if temperature <= 0:
        raise ConfigError(f"sampling.temperature is above 0, found {temperature}")
    _, index = np.unique(transitions.episode, return_inverse=True)
    total = np.bincount(index, weights=transitions.reward.astype(np.float64))
    spread = total.max() - total.min()
    # From the largest down, so that nothing overflows.
    return np.exp((total - total.max()) / (spread if spread > 0 else 1.0) / temperature)[index]


def shared(
    weight: Float64[np.ndarray, " N"], source: np.ndarray, shares: Mapping[str, float]
) -> Float64[np.ndarray, " N"]:
    """The weights rescaled so that each named source has its share of the whole."""
    names = set(source.tolist())
    for name in shares:
        if name not in names:
            raise unknown("source", name, names)
    rest = 1 - sum(shares.values())
    others = ~np.isin(source, list(shares))
    if min(shares.values()) < 0 or rest < -1e-9 or (rest > 1e-9) != bool(others.any()):
        raise ConfigError(
            f"sampling.shares: shares from 0 up wanted that leave something for {sorted(names - set(shares)) or 'none'}"
            f", found {dict(shares)}"
        )
    weight = weight.copy()
    for rows, share in [*((source == name, share) for name, share in shares.items()), (others, rest)]:
        if rows.any():
            weight[rows] *= share / weight[rows].sum()
    return weight
