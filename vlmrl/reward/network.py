"""The ensemble: trunks that turn a row into features, and heads that turn features into numbers of rows and clips.

Members are batched into one program. With independent trunks each has its own first weights and its own bootstrap of
the labels, so that their disagreement says something; with a shared trunk only the heads differ, which is cheap and
says less.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from vlmrl.nn import Normaliser
from vlmrl.reward import heads
from vlmrl.reward.heads import Head, SegmentHead
from vlmrl.reward.inputs import image, vectors
from vlmrl.reward.settings import Config


@dataclass(frozen=True)
class Shape:
    """What must be known of the data to build the network that saved weights fit."""

    row: tuple[int, ...]
    """One row of the stack."""
    actions: int
    """Its trailing columns that are an action."""
    window: int
    """Rows of the longest clip."""


class Network(nn.Module):
    """What a row goes through: made ready, through the trunk, through the head."""

    def __init__(self, prepare: nn.Module, trunk: nn.Module, head: Head) -> None:
        super().__init__()
        self.prepare, self.trunk, self.head = prepare, trunk, head

    @property
    def members(self) -> int:
        """How many rewards it holds."""
        return len(self.head.weight)

    def features(self, stack: Tensor) -> Float[Tensor, "B groups F"]:
        """Features of each row by each trunk."""
        return self.trunk(self.prepare(stack))

    def forward(self, stack: Tensor, first: Int64[Tensor, " B"] | None = None) -> Float[Tensor, "B members"]:
        """Reward of each row by each member; `first` is the place of its episode's first row, by default row 0."""
        x = self.prepare(stack)
        return self.head.rows(self.trunk(x), x, torch.zeros(len(x), dtype=torch.int64) if first is None else first)

    def clips(self, stack: Tensor, place: Int64[Tensor, "C L"]) -> Float[Tensor, "C members"]:
        """Score of clips whose rows are at `place` in the stack, NO_ROW where there is none."""
        x = self.prepare(stack)
        return self.head.clips(self.trunk(x), x, place)


def make(config: Config, shape: Shape, normaliser: Normaliser | None = None) -> Network:
    """A network with fresh weights from torch's global generator; without a normaliser weights are to be loaded.

    Raises:
        ConfigError: if the choices do not go together.
    """
    groups = config.members if config.trunk == "independent" else 1
    if len(shape.row) == 3:
        prepare, trunk = image.Prepare(), image.Trunk(shape.row, config.channels, groups)
    else:
        (width,) = shape.row
        prepare = vectors.Prepare(normaliser or Normaliser(torch.zeros(width), torch.ones(width)))
        columns = width - shape.actions if config.model == "regret" else width
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        trunk = vectors.Trunk(columns, config.hidden, groups, generator=generator)
    head = heads.build(
        config.model,
        members=config.members,
        features=trunk.features,
        tanh=config.tanh,
        actions=shape.actions,
        window=shape.window,
    )
    return Network(prepare, trunk, head)


@torch.inference_mode()
def score(
    network: Network, stack: np.ndarray, first: Int64[np.ndarray, " M"] | None = None, *, batch: int = 128
) -> Float32[np.ndarray, "M members"]:
    """Reward of each row by each member; `first` is the place of the first row of each row's episode."""
    if not len(stack):
        return np.zeros((0, network.members), np.float32)
    first = np.zeros(len(stack), np.int64) if first is None else first
    # A window looks back within its episode, so that episodes must stay whole.
    whole = isinstance(network.head, SegmentHead)
    starts = np.unique(first) if whole else np.arange(0, len(stack), batch)
    parts = [
        network(torch.from_numpy(stack[a:b]), torch.from_numpy(first[a:b] - a))
        for a, b in zip(starts, [*starts[1:], len(stack)], strict=True)
    ]
    return torch.cat(parts).numpy()


@torch.inference_mode()
def score_clips(
    network: Network, stack: np.ndarray, place: Int64[np.ndarray, "C L"], *, batch: int = 256
) -> Float32[np.ndarray, "C members"]:
    """Score of clips by each member."""
    parts = [
        network.clips(*compact(torch.from_numpy(stack), torch.from_numpy(place[k : k + batch])))
        for k in range(0, len(place), batch)
    ]
    return torch.cat(parts).numpy() if parts else np.zeros((0, network.members), np.float32)


def compact(stack: Tensor, place: Int64[Tensor, "C L"]) -> tuple[Tensor, Int64[Tensor, "C L"]]:
    """The rows that some clips are about, each once however many clips show it, and the clips' places among them."""
    if place.shape[1] == 1:
        return stack[place[:, 0]], torch.arange(len(place))[:, None]
    used, local = place.unique(return_inverse=True)
    if used[0] == heads.NO_ROW:
        used, local = used[1:], local - 1
    return stack[used], local
