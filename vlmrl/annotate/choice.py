"""Which pairs are worth asking about: by what an ensemble disagrees on, or by what they would cover.

Disagreement and entropy are the samplers of PEBBLE and B-Pref (Lee et al. 2021), k-centre is the greedy 2-approximation
of Gonzalez (1985) as Sener and Savarese (2018) use it, and the batch is the greedy maximum of a facility-location
function, which is submodular, so that greedy reaches 1 - 1/e of the best (Nemhauser et al. 1978).
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float64, Int64

from vlmrl.errors import ConfigError

Method = Literal["uniform", "disagreement", "entropy", "k_centre", "submodular"]
Rows = Int64[np.ndarray, "Q 2"]

_MOST = 4_000
"""Candidates of a batch, for it compares each with each."""


@dataclass(frozen=True)
class Config:
    """How pairs are chosen."""

    method: Method = "uniform"
    """Any other than uniform trains rewards in between on what was answered: see `rounds`."""
    rounds: int = 4
    """Of choosing; the pairs are spread over them evenly, and the first is uniform. Uniform choice needs one."""
    pool: int = 10
    """Candidates for each pair that is chosen."""
    extend: bool = False
    """Whether the pairs that the ledger already holds of this labeler and camera count, so that only what is missing
    to `pairs` is drawn anew, and none of them again."""
    audit: int = 0
    """Pairs drawn first, uniformly and of episodes of their own, which are asked about and never trained on."""
    audit_episodes: float = 0.1
    """Share of the episodes that are kept for the audit pairs alone, where there are any."""

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("pool", 1), ("audit", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"choice: {name} is {getattr(self, name)}; wanted at least {least}")
        if not 0 < self.audit_episodes < 1:
            raise ConfigError(f"choice: audit_episodes is {self.audit_episodes}; wanted above 0 and below 1")


@runtime_checkable
class Opinion(Protocol):
    """What a trained ensemble makes of frames, given by their global rows."""

    def members(self, rows: Int64[np.ndarray, " N"]) -> Float[np.ndarray, "N M"]:
        """Return each member's score of each frame."""
        ...

    def features(self, rows: Int64[np.ndarray, " N"]) -> Float[np.ndarray, "N D"]:
        """Return a vector for each frame, near for those that look alike."""
        ...


def choose(
    method: Method,
    candidates: Rows,
    *,
    count: int,
    opinion: Opinion,
    known: Rows,
    generator: np.random.Generator,
) -> Int64[np.ndarray, " count"]:
    """Return the places of `count` candidates, the most useful first; `known` are the pairs asked so far.

    Raises:
        ConfigError: if there are fewer candidates than wanted.
    """
    if count > len(candidates):
        raise ConfigError(
            f"choice: {count} pairs wanted of {len(candidates)} candidates; a larger choice.pool is needed"
        )
    if method == "uniform":
        return generator.permutation(len(candidates))[:count]
    if method in _VALUE:
        value = _VALUE[method](_p_a(candidates, opinion))
        return np.argsort(-value, kind="stable")[:count]
    if method == "k_centre":
        return k_centre(_vectors(candidates, opinion), _vectors(known, opinion), count=count)
    some = generator.permutation(len(candidates))[: max(_MOST, count)]
    value = disagreement(_p_a(candidates[some], opinion))
    return some[facility_location(_vectors(candidates[some], opinion), value, count=count)]


def disagreement(p_a: Float[np.ndarray, "Q M"]) -> Float[np.ndarray, " Q"]:
    """Return the standard deviation over members of the probability that a is better."""
    return p_a.std(1)


def entropy(p_a: Float[np.ndarray, "Q M"]) -> Float[np.ndarray, " Q"]:
    """Return the entropy of the ensemble's answer, in nats: largest where it is least sure, for whatever reason."""
    p = np.clip(p_a.mean(1), 1e-12, 1 - 1e-12)
    return -(p * np.log(p) + (1 - p) * np.log1p(-p))


_VALUE: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"disagreement": disagreement, "entropy": entropy}


def k_centre(
    vectors: Float[np.ndarray, "Q D"], known: Float[np.ndarray, "K D"], *, count: int
) -> Int64[np.ndarray, " count"]:
    """Return the places of vectors that are each the farthest from all known and chosen before."""
    distance = np.full(len(vectors), np.inf)
    for vector in known:
        distance = np.minimum(distance, _apart(vectors, vector))
    chosen = np.empty(count, np.int64)
    for k in range(count):
        chosen[k] = int(np.argmax(distance))
        distance = np.minimum(distance, _apart(vectors, vectors[chosen[k]]))
        distance[chosen[k]] = -1.0
    return chosen


def facility_location(
    vectors: Float[np.ndarray, "Q D"], value: Float[np.ndarray, " Q"], *, count: int
) -> Int64[np.ndarray, " count"]:
    """Return the batch that greedily maximises the sum of value times likeness to the nearest chosen one.

    Lazily (Minoux 1978): a gain only ever shrinks, so one that is still the largest after an update is the largest.
    """
    square = np.stack([_apart(vectors, vector) ** 2 for vector in vectors]).astype(np.float32)
    likeness = np.exp(-square / max(float(np.median(square)), 1e-12))
    weight = value.astype(np.float32) + np.float32(1e-9)  # where nothing is in doubt, cover everything
    covered = np.zeros(len(vectors), np.float32)
    bounds = [(-float(weight @ likeness[j]), j) for j in range(len(vectors))]
    heapq.heapify(bounds)
    chosen: list[int] = []
    while len(chosen) < count:
        _, j = heapq.heappop(bounds)
        gain = float(weight @ np.maximum(likeness[j] - covered, 0))
        if bounds and gain < -bounds[0][0] - 1e-12:
            heapq.heappush(bounds, (-gain, j))
            continue
        chosen.append(j)
        covered = np.maximum(covered, likeness[j])
    return np.array(chosen, np.int64)


def _p_a(rows: Rows, opinion: Opinion) -> Float64[np.ndarray, "Q M"]:
    a, b = (opinion.members(side).astype(np.float64) for side in rows.T)
    return 1 / (1 + np.exp(np.clip(b - a, -700, 700)))


def _vectors(rows: Rows, opinion: Opinion) -> Float64[np.ndarray, "Q D"]:
    """Both sides' features, one after the other."""
    return np.concatenate([opinion.features(side).astype(np.float64) for side in rows.T], axis=1)


def _apart(vectors: Float[np.ndarray, "Q D"], vector: Float[np.ndarray, " D"]) -> Float[np.ndarray, " Q"]:
    """Distance of pairs whose sides may be swapped."""
    swapped = np.roll(vector, len(vector) // 2)
    return np.minimum(*(np.sqrt(((vectors - v) ** 2).sum(1)) for v in (vector, swapped)))
