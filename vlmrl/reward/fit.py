"""Trains an ensemble on labelled pairs: P(a better than b) = sigmoid(score(a) - score(b)).

One update touches each row of a batch once, however many of its clips show it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from vlmrl import loop
from vlmrl.errors import ConfigError
from vlmrl.nn import Normaliser, product_dtype
from vlmrl.reward import losses, noise
from vlmrl.reward.heads import RowHead, SegmentHead
from vlmrl.reward.inputs import image
from vlmrl.reward.network import Network, Shape, compact, make, score, score_clips
from vlmrl.reward.pairs import Pairs
from vlmrl.reward.settings import Config
from vlmrl.runfolder import Metrics

FIRST_FLIP_RATE = 0.1
"""Where the estimate of a flip rate starts."""
ESTIMATES = 10
"""Times that flip rates are estimated anew in a training."""


@dataclass(frozen=True)
class Batch:
    """Some pairs."""

    a: Int64[Tensor, "B L"]
    b: Int64[Tensor, "B L"]
    p_a: Float[Tensor, " B"]
    weight: Float[Tensor, "B members"]
    """How often each pair is in each member's own bootstrap."""
    annotator: Int64[Tensor, " B"]


@dataclass
class State:
    """Everything that an update changes, and the rows it reads."""

    network: Network
    optimiser: torch.optim.Optimizer
    stack: Tensor
    flip_rates: Float[Tensor, " K"]
    """Of each annotator."""
    generator: torch.Generator


def init(config: Config, stack: np.ndarray, shape: Shape, *, annotators: int, seed: int) -> State:
    """A fresh ensemble for a stack of rows.

    Raises:
        ConfigError: if the choices do not go together.
    """
    _check(config)
    normaliser = Normaliser.standard(stack) if stack.ndim == 2 else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make(config, shape, normaliser).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    rates = torch.full((annotators,), FIRST_FLIP_RATE if config.flip_rate is None else config.flip_rate)
    return State(network, optimiser, torch.from_numpy(stack), rates, torch.Generator().manual_seed(seed))


def _check(config: Config) -> None:
    losses.pick(config.loss)
    if config.flip_rate is not None and not 0 <= config.flip_rate < 0.5:
        raise ConfigError(f"reward.flip_rate is {config.flip_rate}: from 0 to below 0.5 wanted, or null")
    votes = config.loss == "votes" or (config.loss in losses.FLIPS and config.flip_rate is None)
    if votes and config.trunk == "shared":
        raise ConfigError(
            f"reward.loss={config.loss} asks members about labels that they have not seen, but a shared trunk has seen "
            "all: say reward.trunk=independent, or a reward.flip_rate"
        )


def bootstrap(config: Config, pairs: Pairs, *, generator: torch.Generator) -> Float[Tensor, "Q members"]:
    """How often each pair is in each member's training set."""
    return torch.poisson(torch.ones(len(pairs), config.members), generator=generator)


def batches(
    config: Config, pairs: Pairs, weight: Float[Tensor, "Q members"], *, generator: torch.Generator
) -> Iterator[Batch]:
    """Endless batches of pairs drawn with replacement."""
    a, b, p_a, annotator = (torch.from_numpy(column) for column in (pairs.a, pairs.b, pairs.p_a, pairs.annotator))
    while True:
        rows = torch.randint(len(pairs), (config.batch,), generator=generator)
        yield Batch(a[rows], b[rows], p_a[rows], weight[rows], annotator[rows])


def loss(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """Mean loss, and the accuracy of the ensemble on pairs that are no ties."""
    stack, place = compact(state.stack, torch.cat([batch.a, batch.b]))
    if config.input == "image":
        stack = image.augment(stack, config.shift, generator=state.generator)
    # Vectors gain nothing: their products are smaller than the conversions.
    half = config.input == "image" and product_dtype(config.precision) == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        score_a, score_b = state.network.clips(stack, place).chunk(2)
    difference = score_a - score_b
    target, flip = (column[:, None].expand_as(difference) for column in (batch.p_a, state.flip_rates[batch.annotator]))
    paid = losses.LOSSES[config.loss](difference, target, flip)
    correct = (difference.mean(1) > 0) == (batch.p_a > 0.5)
    clear = batch.p_a != 0.5
    return {
        "loss": (batch.weight * paid).mean(),
        "train_accuracy": (correct & clear).sum() / clear.sum().clamp(min=1),
    }


def update(config: Config, state: State, batch: Batch) -> dict[str, Tensor]:
    """One gradient step."""
    paid = loss(config, state, batch)
    state.optimiser.zero_grad(set_to_none=True)
    paid["loss"].backward()
    state.optimiser.step()
    return {name: value.detach() for name, value in paid.items()}


def train(
    config: Config,
    stack: np.ndarray,
    shape: Shape,
    pairs: Pairs,
    *,
    annotators: int,
    seed: int,
    metrics: Metrics,
    name: str,
    quiet: bool,
) -> State:
    """An ensemble trained on pairs; with the loss `votes` twice, the second time on labels that the first voted on."""
    once = partial(_train, config, stack, shape, annotators=annotators, seed=seed, metrics=metrics, quiet=quiet)
    if config.loss == "votes":
        first, weight = once(pairs, name=f"{name}/votes")
        votes, p_a = _votes(first, pairs, weight), pairs.p_a.astype(np.float64)
        pairs = replace(pairs, p_a=noise.revised(votes, p_a).astype(np.float32))
    return once(pairs, name=name)[0]


def _train(
    config: Config,
    stack: np.ndarray,
    shape: Shape,
    pairs: Pairs,
    *,
    annotators: int,
    seed: int,
    metrics: Metrics,
    name: str,
    quiet: bool,
) -> tuple[State, Float[Tensor, "Q members"]]:
    """The ensemble, and how often each pair was in each member's training set."""
    state = init(config, stack, shape, annotators=annotators, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    weight = bootstrap(config, pairs, generator=generator)
    estimated = config.loss in losses.FLIPS and config.flip_rate is None
    every = max(1, config.updates // ESTIMATES)
    done = 0

    def step(batch: Batch) -> dict[str, Tensor]:
        nonlocal done
        done += 1
        if estimated and done % every == 0:
            estimate(state, pairs, weight)
        return update(config, state, batch)

    loop.fit(
        step,
        batches(config, pairs, weight, generator=generator),
        updates=config.updates,
        name=name,
        metrics=metrics,
        every=max(1, config.updates // 20),
        quiet=quiet,
    )
    state.network.eval()
    centre(state, pairs)
    return state, weight


def estimate(state: State, pairs: Pairs, weight: Float[Tensor, "Q members"]) -> None:
    """Renew the flip rates from the votes of the members that have not seen a pair."""
    votes, p_a = _votes(state, pairs, weight), pairs.p_a.astype(np.float64)
    rates = noise.flip_rates(votes, p_a, pairs.annotator, state.flip_rates.double().numpy())
    state.flip_rates = torch.from_numpy(rates).float()


def _votes(state: State, pairs: Pairs, weight: Float[Tensor, "Q members"]) -> Float64[np.ndarray, " Q"]:
    a, b = (score_clips(state.network, state.stack.numpy(), side) for side in (pairs.a, pairs.b))
    difference = a - b
    return noise.out_of_bag(difference.astype(np.float64), weight.double().numpy())


@torch.no_grad()
def centre(state: State, pairs: Pairs) -> None:
    """Give every member zero mean over the rows it was trained on, where preferences do not fix a reward's zero.

    Left in, members would seem to disagree where they only stand elsewhere. An advantage has its zero, and so has a sum
    over clips of different lengths.
    """
    head = state.network.head
    if isinstance(head, SegmentHead):
        both = np.concatenate([pairs.a, pairs.b])
        head.bias.sub_(torch.from_numpy(score_clips(state.network, state.stack.numpy(), both).mean(0)))
    elif isinstance(head, RowHead) and not head.tanh and (head.shiftless or pairs.equally_long):
        head.bias.sub_(torch.from_numpy(score(state.network, state.stack.numpy()).mean(0)))
