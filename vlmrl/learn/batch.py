"""What every offline learner shares: the batch, its sampler, and the steps around a loss."""

import math
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vlmrl.learn.looking import look, read_ahead, shown
from vlmrl.nn import Normaliser
from vlmrl.types import Transitions
from vlmrl.vision import Eyes

BatchT = TypeVar("BatchT")
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


@dataclass(frozen=True)
class Batch:
    """Transitions in the networks' units; of seeds that are trained together, those of each side by side."""

    obs: Float[Tensor, "*seeds B D"]
    """Or the latest observations one after the other, of learners that look back. Cropped pictures stand behind the
    numbers, 0 to 255, until `look` has made features of them."""
    action: Float[Tensor, "*seeds B A"]
    reward: Float[Tensor, "*seeds B"]
    mask: Float[Tensor, "*seeds B"]
    next_obs: Float[Tensor, "*seeds B _"]
    to_go: Float[Tensor, "*seeds B"] | None = None
    """Return from here to the end of the episode, for learners that ask for it."""


def sample(
    transitions: Transitions,
    reward: Float32[np.ndarray, " N"],
    size: int,
    *,
    generator: torch.Generator,
    to_go: Float32[np.ndarray, " N"] | None = None,
    history: int = 1,
    bootstraps: bool = True,
) -> Iterator[Batch]:
    """Endless batches with replacement, rows by their weights; of a `history` the oldest observation comes first.

    Pictures of next observations are read for learners that bootstrap. All columns lie side by side in one matrix, so
    that a batch is one gather and a few views.
    """
    obs, action = Normaliser.standard(transitions.obs), Normaliser.range(transitions.action)
    columns = [
        obs.apply_to(torch.from_numpy(transitions.obs)),
        obs.apply_to(torch.from_numpy(transitions.next_obs)),
        action.apply_to(torch.from_numpy(transitions.action)),
        torch.from_numpy(reward)[:, None],
        torch.from_numpy(transitions.mask)[:, None],
        *([] if to_go is None else [torch.from_numpy(to_go)[:, None]]),
    ]
    table, widths = torch.cat(columns, 1), [column.shape[1] for column in columns]
    around = torch.from_numpy(windows(transitions, history - 1, 0)) if history > 1 else None
    step = transitions.pictures.step if transitions.pictures else 0

    def batch(rows: Int64[Tensor, " B"], own: torch.Generator) -> Batch:
        obs_, next_obs, action_, reward_, mask, *rest = table.index_select(0, rows).split(widths, 1)
        if around is not None:
            obs_ = columns[0][around[rows]]
        obs_ = shown(transitions, obs_, rows if around is None else around[rows], own).flatten(1)
        next_obs = shown(transitions, next_obs, rows, own, after=step) if bootstraps else next_obs
        return Batch(obs_, action_, reward_[:, 0], mask[:, 0], next_obs, *(one[:, 0] for one in rest))

    yield from drawn(transitions, size, batch, generator=generator)


def drawn(
    transitions: Transitions,
    size: int,
    make: Callable[[Int64[Tensor, " B"], torch.Generator], BatchT],
    *,
    generator: torch.Generator,
) -> Iterator[BatchT]:
    """Endless batches of drawn rows; those with pictures are made in the background, a few ahead."""

    def batches(own: torch.Generator) -> Iterator[BatchT]:
        return (make(rows, own) for rows in drawn_rows(transitions, size, generator=own))

    return batches(generator) if transitions.pictures is None else read_ahead(batches, generator=generator)


def looked(eyes: Eyes | None, batch: Batch) -> Batch:
    """The batch with features in the place of pictures; those of next observations without a gradient."""
    if eyes is None:
        return batch
    with torch.no_grad():
        after = look(eyes, batch.next_obs)
    return replace(batch, obs=look(eyes, batch.obs), next_obs=after)


def windows(transitions: Transitions, before: int, after: int) -> Int64[np.ndarray, "N T"]:
    """For each row the rows around it, from `before` before it to `after` after; a run's ends stand for what is not.

    A run is a stretch of an episode without a gap: each row's next observation is the following row's.
    """
    rows, last = np.arange(len(transitions)), np.flatnonzero(np.append(~goes_on(transitions), True))
    run = np.searchsorted(last, rows)
    first = np.concatenate([[0], last[:-1] + 1])
    around = rows[:, None] + np.arange(-before, after + 1)
    return around.clip(first[run][:, None], last[run][:, None]).astype(np.int64)


def goes_on(transitions: Transitions) -> Bool[np.ndarray, " M"]:
    """Whether each row but the last is followed by the row after it, without a gap."""
    found = (transitions.episode[1:] == transitions.episode[:-1]) & (
        transitions.next_obs[:-1] == transitions.obs[1:]
    ).all(1)
    return found if transitions.pictures is None else found & (np.diff(transitions.pictures.row) == 1)


def drawn_rows(transitions: Transitions, size: int, *, generator: torch.Generator) -> Iterator[Int64[Tensor, " B"]]:
    """Endless numbers of rows, drawn with replacement by their weights."""
    if transitions.weight is None:
        while True:
            yield torch.randint(len(transitions), (size,), generator=generator)
    below = torch.from_numpy(transitions.weight).cumsum(0)
    below = below / below[-1]
    while True:
        place = torch.rand(size, dtype=torch.float64, generator=generator)
        yield torch.searchsorted(below, place, right=True)


def standardise_reward(transitions: Transitions) -> Float32[np.ndarray, " N"]:
    """Rewards with unit deviation, and zero mean unless an episode terminates.

    Where episodes end, a shift changes how good it is to end early, and so the task; there only the scale changes.
    """
    reward = transitions.reward
    shift = reward.mean() if transitions.mask.all() else np.float32(0)
    std = reward.std()
    return ((reward - shift) / (std if std > 1e-8 else 1)).astype(np.float32)


def compiled(function: FunctionT, when: str, *, updates: int, least: int = 20_000) -> FunctionT:
    """The function through `torch.compile`, where that pays.

    Compiling takes 5 to 60 s, a C++ compiler and Python's headers, and saves a third of each update: `auto` wants
    `least` of them.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++")) is not None
    headers = (Path(sysconfig.get_path("include")) / "Python.h").is_file()
    pays = updates >= least and compiler and headers
    return cast("FunctionT", torch.compile(function)) if when == "always" or (when == "auto" and pays) else function


def cosine(step: int, steps: int) -> float:
    """Decay from 1 to 0 over `steps`."""
    return 0.5 * (1 + math.cos(math.pi * min(step / steps, 1)))


def descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One gradient step; of seeds trained together, on the loss of each."""
    optimiser.zero_grad(set_to_none=True)
    loss.sum().backward()
    optimiser.step()


@torch.no_grad()
def polyak(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Target <- (1 - rate) * target + rate * source."""
    get_ema_multi_avg_fn(1 - rate)(list(target.parameters()), list(source.parameters()), 0)


def average(target: nn.Module, source: nn.Module, rate: float, *, step: int) -> None:
    """Running average of weights; faster at first, so that the initial weights are soon forgotten."""
    polyak(target, source, max(rate, 9 / (10 + step)))
