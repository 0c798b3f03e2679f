"""Diffusion Policy (Chi et al. 2023, arXiv 2303.04137, CNN variant): a denoiser of action chunks, reward unread.

As there: noise predicted, 100 steps of training on the squared-cosine schedule, minimum and maximum to -1 and 1, AdamW
with warm-up, weights averaged, two observations seen (To), sixteen actions predicted from the older on (Tp), eight of
them carried out whole (Ta). Different: a smaller network, and every row of an episode has a window, whose ends repeat
the first and last row where the episode has no more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlmrl.learn.chunks import ChunkBatch, ChunkConfig, ChunkPolicy, ChunkState, chunk_batches, fresh, looked, step
from vlmrl.learn.sampling import schedule
from vlmrl.types import Transitions


@dataclass(frozen=True)
class Config(ChunkConfig):
    """Settings of diffusion policies; the paper's values where not said otherwise."""

    training_steps: int = 100
    sampler: Literal["ddpm", "ddim", "dpm_solver"] = "ddim"
    """Of the saved policy. ddpm draws chance in each step; with ddim and dpm_solver all chance is in the first."""
    steps: int = 16
    """Network evaluations for a chunk (paper: 100 by ddpm, 10 to 16 by ddim). Fewer make actions too alike where no
    chance comes in between: of a deviation of 0.3 a perfect network keeps 82 (ddim) and 84 % (dpm_solver) with 10
    steps, 90 and 94 % with 20, 95 % by ddpm with 100. Five of ddpm did a task as well as 100 (docs/learning.md)."""


@dataclass
class State(ChunkState):
    """Everything that an update changes."""

    kept: Tensor
    """Share of the signal's power at each step of training: alpha bar."""


def batches(config: Config, transitions: Transitions, *, generator: torch.Generator) -> Iterator[ChunkBatch]:
    """Endless uniform batches, in the network's units."""
    return chunk_batches(config, transitions, generator=generator)


def init(config: Config, transitions: Transitions, *, generator: torch.Generator) -> State:
    """A fresh network whose normalisers fit `transitions`."""
    state = fresh(
        config,
        transitions,
        config.sampler,
        steps=config.steps,
        training_steps=config.training_steps,
        generator=generator,
    )
    return State(**vars(state), kept=schedule("ddim", config.training_steps).alphas_cumprod)


def loss(config: Config, state: State, batch: ChunkBatch) -> dict[str, Tensor]:
    """Mean squared error of the noise found in sqrt(abar) * chunk + sqrt(1 - abar) * noise, at random steps."""
    at = torch.randint(config.training_steps, (len(batch.chunk),), generator=state.generator).to(batch.chunk.device)
    noise = torch.randn(batch.chunk.shape, generator=state.generator).to(batch.chunk)
    kept = state.kept[at][:, None, None]
    found = state.net(kept.sqrt() * batch.chunk + (1 - kept).sqrt() * noise, at.float(), batch.obs)
    return {"denoising_loss": (found - noise).square().mean()}


def update(config: Config, state: State, batch: ChunkBatch) -> dict[str, Tensor]:
    """One gradient step."""
    losses = loss(config, state, looked(state, batch))
    step(state, losses["denoising_loss"])
    return {name: value.detach() for name, value in losses.items()}


def policy(state: State) -> ChunkPolicy:
    """The denoiser, its weights averaged over training."""
    return state.averaged
