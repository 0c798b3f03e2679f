"""What the inputs that are vectors share: a normaliser and a multi-layer perceptron as trunk."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmrl.nn import Normaliser, StackedMLP


class Prepare(nn.Module):
    """Vectors at zero mean and unit deviation."""

    def __init__(self, normaliser: Normaliser) -> None:
        super().__init__()
        self.normaliser = normaliser

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Normalised vectors."""
        return self.normaliser.apply_to(x.float())


class Trunk(nn.Module):
    """Perceptrons of equal shape side by side, over the leading `columns` of a vector; no layers: the vector itself."""

    def __init__(self, columns: int, hidden: Sequence[int], groups: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.columns, self.groups = columns, groups
        self.layers = StackedMLP(groups, (columns, *hidden), layer_norm=False, generator=generator) if hidden else None
        self.features = hidden[-1] if hidden else columns

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B groups F"]:
        """Features of each group."""
        seen = x[:, : self.columns]
        if self.layers is None:
            return seen[:, None].expand(-1, self.groups, -1)
        return torch.relu(self.layers(seen)).transpose(0, 1)
