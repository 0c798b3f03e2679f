"""Value-guided policy steering (V-GPS, Nakamoto et al. 2024): draw several chunks, execute the one a critic likes best.

Any Proposer, any ActionValue, neither of which knows of the other. The first action of each chunk is scored and the
whole chunk of the winner kept, at every decision, as in the paper. Not in the paper: a critic of several actions in a
row scores that many, samples can be averaged by their values, and there is a time budget.

Candidates come from the very generator that the policy would act by, so that one sample is what the policy alone draws;
choices have a stream of their own.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int64

from vlmrl.errors import ConfigError
from vlmrl.sight import INSTRUCTIONS
from vlmrl.types import ActionValue, Policy, Proposer, cameras, chunk, history

REST = 10
"""Calls for which the policy acts alone after one that came late."""


@dataclass(frozen=True)
class Choices:
    """What re-ranking has done since the policy was made."""

    decisions: int
    """Chunks asked for, one for each robot and decision."""
    late: int
    """Of these, the policy's own because the choice was not ready in time, or had not been shortly before."""
    kept_first: float
    """Share of ranked decisions that took the first sample: what the policy alone would have drawn."""
    gain: float
    """Mean over ranked decisions of the chosen value minus the mean value of the samples."""
    spread: float
    """Mean deviation of the samples' values: where it is small against the critic's error, choosing is chance."""
    latency_s: float
    """Mean wall-clock time of a ranked call, for all its robots."""

    def text(self) -> str:
        """One line."""
        return (
            f"{self.decisions} decisions, {self.late} late, first sample kept in {self.kept_first:.0%}, "
            f"value gained {self.gain:.3g} (spread {self.spread:.3g}), {1e3 * self.latency_s:.1f} ms a call"
        )


@dataclass
class _Sums:
    """Of what `Choices` gives means of."""

    decisions: int = 0
    late: int = 0
    calls: int = 0
    first: float = 0.0
    gain: float = 0.0
    spread: float = 0.0
    seconds: float = 0.0

    def add(self, values: Float[np.ndarray, "B n"], shares: Float[np.ndarray, "B n"], took_s: float) -> float:
        """Count one ranked call, which executed so much of each sample; returns the sum of the values executed."""
        self.calls += 1
        self.seconds += took_s
        self.first += float(shares[:, 0].sum())
        executed = (np.where(shares > 0, values, 0) * shares).sum(1)
        sound = np.isfinite(values).all(1)  # a critic may rule a chunk out by minus infinity
        self.gain += float((executed[sound] - values[sound].mean(1)).sum())
        self.spread += float(values[sound].std(1).sum())
        return float(executed.sum())

    def means(self) -> Choices:
        """As a reader wants them; nothing ranked gives zeros."""
        ranked, calls = max(self.decisions - self.late, 1), max(self.calls, 1)
        return Choices(
            decisions=self.decisions,
            late=self.late,
            kept_first=self.first / ranked,
            gain=self.gain / ranked,
            spread=self.spread / ranked,
            latency_s=self.seconds / calls,
        )


@dataclass
class RerankedPolicy:
    """Executes, of several chunks that a policy draws, one that a critic values."""

    base: Policy
    """Also a `Proposer`."""
    critic: ActionValue
    samples: int = 10
    """K: chunks drawn for each decision. More is not always better: a weak critic is exploited."""
    temperature: float = 0.0
    """Of the softmax over values, in their unit; 0: the highest."""
    average: bool = False
    """Execute the mean of all chunks, weighted by that softmax, instead of one of them: what of a sample is chance and
    says nothing of its value cancels out. For policies whose samples lie around one way of doing the task."""
    budget_s: float = float("inf")
    """A choice that comes later is thrown away for the first sample, and the policy acts alone for a while. Nothing is
    interrupted: it is the calls after a late one that keep the budget."""
    clock: Callable[[], float] = time.perf_counter
    _chance: dict[int, tuple[np.random.Generator, np.random.Generator]] = field(default_factory=dict, repr=False)
    _sentence: dict[int, str] = field(default_factory=dict, repr=False)
    _sums: _Sums = field(default_factory=_Sums, repr=False)
    _rest: int = 0
    chosen_value: float | None = None
    """The critic's value of what was executed last, mean over robots; None where the policy acted alone."""

    def __post_init__(self) -> None:
        if not isinstance(self.base, Proposer):
            raise ConfigError(f"policy {self.base.name!r} cannot be re-ranked: it proposes nothing to choose from")
        if self.samples < 1 or not 0 <= self.temperature < float("inf") or not self.budget_s > 0:
            found = f"{self.samples}, {self.temperature} and {self.budget_s}"
            raise ConfigError(f"samples from 1, temperature from 0 and a budget above 0 s wanted, found {found}")
        if self.average and not self.temperature:
            raise ConfigError(
                "average=true weighs chunks by the softmax of values: temperature above 0 wanted, found 0"
            )
        self._proposer: Proposer = self.base
        self.history = history(self.base)
        self.cameras = tuple(dict.fromkeys([*cameras(self.base), *cameras(self.critic)]))
        how = f" at temperature {self.temperature:g}" if self.temperature else ""
        what = f"mean of {self.samples}" if self.average else f"1 of {self.samples}"
        self.name = f"{self.base.name}, {what} by {self.critic.name}{how}"

    def reset(self, mask: Bool[np.ndarray, " B"], instructions: Sequence[str], generator: np.random.Generator) -> None:
        """Start an episode: chunks are drawn from the generator, choices from a child of it."""
        self.base.reset(mask, instructions, generator)
        (choosing,) = generator.spawn(1)
        starting = np.flatnonzero(mask).tolist()
        self._chance |= dict.fromkeys(starting, (generator, choosing))
        self._sentence |= {k: instructions[k] for k in starting if k < len(instructions)}

    def act(self, observations: Mapping[str, np.ndarray]) -> Float[np.ndarray, "B h A"]:
        """The chosen chunk of each robot, whole."""
        count = len(next(iter(observations.values())))
        self.chosen_value = None
        self._sums.decisions += count
        if self._rest:
            self._rest -= 1
            self._sums.late += count
            return self.base.act(observations)
        start = self.clock()
        chunks = self._proposer.propose(observations, self.samples, [self._chance[k][0] for k in range(count)])
        if self.clock() - start <= self.budget_s:
            told = np.array([self._sentence.get(k, "") for k in range(count)])
            values = self.critic.value({**observations, INSTRUCTIONS: told}, self._scored(chunks))
            if (took := self.clock() - start) <= self.budget_s:
                return self._chosen(chunks, values, took)
        self._sums.late += count
        self._rest = REST
        return chunks[:, 0]

    def _scored(self, chunks: Float[np.ndarray, "B n h A"]) -> Float[np.ndarray, "B n _"]:
        """What the critic values of each chunk.

        Raises:
            ConfigError: if chunks are shorter than that.
        """
        length = chunk(self.critic)
        if chunks.shape[2] < length:
            raise ConfigError(
                f"critic {self.critic.name!r} values {length} actions in a row, policy {self.base.name!r} draws "
                f"{chunks.shape[2]}: train one of them with another chunk"
            )
        return chunks[:, :, :length].reshape(*chunks.shape[:2], -1)

    def _chosen(
        self, chunks: Float[np.ndarray, "B n h A"], values: Float[np.ndarray, "B n"], took_s: float
    ) -> Float[np.ndarray, "B h A"]:
        if self.average:
            shares = softmax(values, self.temperature)
            made = np.einsum("bn,bnha->bha", shares, np.where(shares[:, :, None, None] > 0, chunks, 0))
        else:
            uniform = np.array([self._chance[k][1].random() for k in range(len(values))])
            taken = choose(values, self.temperature, uniform)
            shares = np.eye(self.samples, dtype=np.float32)[taken]
            made = chunks[np.arange(len(values)), taken]
        self.chosen_value = self._sums.add(values, shares, took_s) / len(values)
        return made.astype(chunks.dtype)

    @property
    def choices(self) -> Choices:
        """Statistics of what was chosen so far."""
        return self._sums.means()


def choose(
    values: Float[np.ndarray, "B n"], temperature: float, uniform: Float[np.ndarray, " B"]
) -> Int64[np.ndarray, " B"]:
    """One index a row: the highest value at temperature 0, else a draw from softmax(value / temperature).

    `uniform` has one number from [0, 1) a row, at which the distribution function is inverted.
    """
    values = np.where(np.isnan(values), -np.inf, values)
    if not temperature:
        return values.argmax(1)
    below = softmax(values, temperature).cumsum(1)
    return np.minimum((below <= uniform[:, None] * below[:, -1:]).sum(1), values.shape[1] - 1)


def softmax(values: Float[np.ndarray, "B n"], temperature: float) -> Float[np.ndarray, "B n"]:
    """The weights of a row's values, which sum to one; at temperature 0 all on the highest."""
    values = np.where(np.isnan(values), -np.inf, values)
    if not temperature:
        return np.eye(values.shape[1])[values.argmax(1)]
    weights = np.exp((values - values.max(1, keepdims=True)).astype(np.float64) / temperature)
    return weights / weights.sum(1, keepdims=True)
