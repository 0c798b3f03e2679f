"""Flow matching of action chunks (Lipman et al. 2023, arXiv 2210.02747; straight paths as in Liu et al. 2023,
arXiv 2209.03003): the network of `diffusion`, a chunk in few evaluations, reward unread.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmrl.learn.chunks import ChunkBatch, ChunkConfig, ChunkPolicy, ChunkState, chunk_batches, fresh, looked, step
from vlmrl.learn.sampling import FLOW_TIME
from vlmrl.types import Transitions


@dataclass(frozen=True)
class Config(ChunkConfig):
    """Settings of flow policies; network and schedule as in `diffusion`, so that the two compare."""

    steps: int = 5
    """Euler steps for a chunk, one network evaluation each."""


State = ChunkState


def batches(config: Config, transitions: Transitions, *, generator: torch.Generator) -> Iterator[ChunkBatch]:
    """Endless uniform batches, in the network's units."""
    return chunk_batches(config, transitions, generator=generator)


def init(config: Config, transitions: Transitions, *, generator: torch.Generator) -> State:
    """A fresh network whose normalisers fit `transitions`."""
    return fresh(config, transitions, "euler", steps=config.steps, training_steps=0, generator=generator)


def loss(config: Config, state: State, batch: ChunkBatch) -> dict[str, Tensor]:
    """Mean squared error of the velocity chunk - noise found at (1 - t) * noise + t * chunk, t uniform."""
    noise = torch.randn(batch.chunk.shape, generator=state.generator).to(batch.chunk)
    time = torch.rand(len(noise), generator=state.generator).to(noise)
    share = time[:, None, None]
    found = state.net((1 - share) * noise + share * batch.chunk, FLOW_TIME * time, batch.obs)
    return {"velocity_loss": (found - (batch.chunk - noise)).square().mean()}


def update(config: Config, state: State, batch: ChunkBatch) -> dict[str, Tensor]:
    """One gradient step."""
    losses = loss(config, state, looked(state, batch))
    step(state, losses["velocity_loss"])
    return {name: value.detach() for name, value in losses.items()}


def policy(state: State) -> ChunkPolicy:
    """The flow, its weights averaged over training."""
    return state.averaged
