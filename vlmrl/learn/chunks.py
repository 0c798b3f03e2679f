"""What learners of action chunks share: windows of a store's rows, the network, and the average of its weights."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlmrl.errors import ConfigError
from vlmrl.learn.batch import descend, polyak
from vlmrl.learn.sampling import Sampler, denoise, rounds
from vlmrl.learn.unet import UNet
from vlmrl.nn import Normaliser, saved_normaliser
from vlmrl.types import Transitions


@dataclass(frozen=True)
class ChunkConfig:
    """Settings that all learners of action chunks have."""

    updates: int = 10_000
    batch: int = 256
    hidden: tuple[int, ...] = (64, 128)
    """Channels of the U-Net; time halves from each to the next. The paper's low-dimensional network is
    [256,512,1024]: 30 times the work."""
    time_width: int = 64
    """Numbers that tell the network how far denoising is."""
    horizon: int = 16
    """Tp: actions predicted; divisible by two once for each width but the first."""
    execute: int = 8
    """Ta: actions of these that are executed before the policy looks again."""
    lr: float = 1e-4
    weight_decay: float = 1e-6
    warm_up: int = 500
    """Updates until the learning rate is reached; from there it falls as a cosine."""


@dataclass(frozen=True)
class ChunkBatch:
    """Windows in the network's units."""

    obs: Float[Tensor, "B D"]
    chunk: Float[Tensor, "B T A"]


@dataclass
class ChunkState:
    """Everything that an update changes."""

    network: "ChunkPolicy"
    averaged: "ChunkPolicy"
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generator: torch.Generator


def windows(transitions: Transitions, length: int) -> Int64[np.ndarray, "N T"]:
    """For each row the rows that follow it, the last one of its run repeated where the run is over.

    A run is a stretch of an episode without a gap: each row's next observation is the following row's.
    """
    goes_on = (transitions.episode[1:] == transitions.episode[:-1]) & (
        transitions.next_obs[:-1] == transitions.obs[1:]
    ).all(1)
    last = np.flatnonzero(np.append(~goes_on, True))
    ends = last[np.searchsorted(last, np.arange(len(transitions)))]
    return np.minimum(np.arange(len(transitions))[:, None] + np.arange(length), ends[:, None]).astype(np.int64)


def chunk_batches(config: ChunkConfig, transitions: Transitions, *, generator: torch.Generator) -> Iterator[ChunkBatch]:
    """Endless uniform batches with replacement: an observation and the actions from there on."""
    network = Normaliser.range(transitions.obs), Normaliser.range(transitions.action)
    obs, action = (
        normaliser.apply_to(torch.from_numpy(column))
        for normaliser, column in zip(network, (transitions.obs, transitions.action), strict=True)
    )
    index = torch.from_numpy(windows(transitions, config.horizon))
    while True:
        rows = torch.randint(len(obs), (config.batch,), generator=generator)
        yield ChunkBatch(obs[rows], action[index[rows]])


class ChunkPolicy(nn.Module):
    """Draws action chunks by denoising; observations and actions are brought to -1 and 1 by minimum and maximum."""

    KIND = "chunk policy"
    acts_without_chance = False
    proposes = True

    def __init__(
        self,
        observation: Normaliser,
        action: Normaliser,
        settings: Mapping[str, Any],
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.observation, self.action, self._settings = observation, action, dict(settings)
        widths, horizon = tuple(settings["hidden"]), int(settings["horizon"])
        if horizon % 2 ** (len(widths) - 1) or not 1 <= settings["execute"] <= horizon:
            raise ConfigError(
                f"horizon divisible by {2 ** (len(widths) - 1)} and execute from 1 to it wanted, "
                f"found {horizon} and {settings['execute']}"
            )
        count = len(action.shift)
        self.sampler, self.steps = cast("Sampler", settings["sampler"]), int(settings["steps"])
        self.chance = (rounds(self.sampler, self.steps), horizon, count)
        self.net = UNet(count, len(observation.shift), widths, time_width=settings["time_width"], generator=generator)

    @torch.inference_mode()
    def draw(self, obs: Float[Tensor, "B D"], chance: Float[Tensor, "B R T A"]) -> Float[Tensor, "B h A"]:
        """The first `execute` actions of a denoised chunk, in the data's units."""
        chunk = denoise(
            self.net,
            self.observation.apply_to(obs),
            chance,
            sampler=self.sampler,
            steps=self.steps,
            training_steps=self._settings["training_steps"],
        )
        return self.action.invert(chunk[:, : self._settings["execute"]])

    def settings(self) -> dict[str, Any]:
        """Sizes, and how it samples."""
        return dict(self._settings)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "ChunkPolicy":
        """The policy that was saved."""
        keys = ("hidden", "horizon", "execute", "time_width", "sampler", "steps", "training_steps")
        normalisers = (saved_normaliser(tensors, name) for name in ("observation", "action"))
        policy = cls(*normalisers, {key: settings[key] for key in keys}, generator=torch.Generator())
        policy.load_state_dict(tensors)
        return policy


def fresh(
    config: ChunkConfig,
    transitions: Transitions,
    sampler: Sampler,
    *,
    steps: int,
    training_steps: int,
    generator: torch.Generator,
) -> ChunkState:
    """A fresh network whose normalisers fit `transitions`."""
    settings = {
        "hidden": list(config.hidden),
        "horizon": config.horizon,
        "execute": config.execute,
        "time_width": config.time_width,
        "sampler": sampler,
        "steps": steps,
        "training_steps": training_steps,
    }
    network = ChunkPolicy(
        Normaliser.range(transitions.obs), Normaliser.range(transitions.action), settings, generator=generator
    )
    optimiser = torch.optim.AdamW(
        network.net.parameters(), lr=config.lr, betas=(0.95, 0.999), weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warmed(config, step))
    return ChunkState(network, copy.deepcopy(network), optimiser, schedule, generator)


def warmed(config: ChunkConfig, step: int) -> float:
    """Share of the learning rate: a linear rise, then a cosine to 0 over what remains of `updates`."""
    rise = min(config.warm_up, config.updates // 2)
    if step < rise:
        return step / rise
    return float(0.5 * (1 + np.cos(np.pi * min((step - rise) / max(config.updates - rise, 1), 1))))


def step(state: ChunkState, loss: Tensor) -> None:
    """One gradient step, and the running average: its decay is 1 - (1 + t)^(-3/4), at most 0.9999."""
    descend(state.optimiser, loss)
    state.schedule.step()
    polyak(state.averaged, state.network, max((1 + state.schedule.last_epoch) ** -0.75, 1e-4))
