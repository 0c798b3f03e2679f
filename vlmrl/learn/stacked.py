"""Several seeds of one learner as one batched program: a step of all costs fewer operations than a step of each.

The parameters of all seeds lie side by side, the losses are mapped over them by `torch.func.vmap`, and one optimiser
steps all: Adam, schedules and running averages work number by number, so that each seed gets what it would get alone,
up to rounding. Each draws its first weights and its batches from a generator of its own, and may have its own data.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from vlmrl.learn import bc, iql
from vlmrl.learn.batch import Batch


def stackable(config: Any) -> bool:
    """Whether a learner's update is one step on the sum of its `state.loss`, without chance, that can be mapped."""
    if isinstance(config, iql.Config):
        return config.order == "joint"
    return isinstance(config, bc.Config) and not config.recurrent


@dataclass
class Stack:
    """Fresh states of several seeds, and a further one whose networks hold the parameters of all."""

    states: Sequence[Any]
    joint: Any
    """The learner updates it as any other, on batches of all seeds side by side."""

    def __post_init__(self) -> None:
        for name, network in networks(self.joint).items():
            tensors = [networks(state)[name].state_dict() for state in self.states]
            for key, tensor in network.state_dict(keep_vars=True).items():
                # The optimiser holds the very parameters: what is in them changes, they do not.
                tensor.data = torch.stack([own[key] for own in tensors])

    def map_losses(self, module: ModuleType, config: Any) -> None:
        """Let the joint state's loss be that of each seed on its batch: a number of each instead of one."""
        held = _Losses(module, config, self.joint)

        def one(tensors: dict[str, Tensor], columns: dict[str, Tensor]) -> dict[str, Tensor]:
            return functional_call(held, tensors, (Batch(**columns),))

        def loss(batch: Batch) -> dict[str, Tensor]:
            tensors = {**dict(held.named_parameters()), **dict(held.named_buffers())}
            columns = {key: value for key, value in vars(batch).items() if value is not None}
            return vmap(one)(tensors, columns)

        self.joint.loss = loss

    def write_back(self) -> None:
        """Bring the networks of every seed's own state to where the joint ones are."""
        for name, network in networks(self.joint).items():
            for place, state in enumerate(self.states):
                own = {key: value[place] for key, value in network.state_dict().items()}
                networks(state)[name].load_state_dict(own)


class _Losses(nn.Module):
    """The losses as a function of parameters: `functional_call` puts some in the place of those of the state."""

    def __init__(self, module: ModuleType, config: Any, state: Any) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks(state))
        self.losses = lambda batch: module.loss(config, state, batch)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.losses(batch)


def networks(state: Any) -> dict[str, nn.Module]:
    """A state's networks by the names of their fields."""
    found = {field.name: getattr(state, field.name, None) for field in dataclasses.fields(state)}
    return {name: value for name, value in found.items() if isinstance(value, nn.Module)}


def abreast(batches: Sequence[Iterator[Batch]]) -> Iterator[Batch]:
    """A batch of each seed, side by side."""
    for parts in zip(*batches, strict=True):
        columns = [[value for value in vars(part).values() if value is not None] for part in parts]
        yield Batch(*(torch.stack(column) for column in zip(*columns, strict=True)))
