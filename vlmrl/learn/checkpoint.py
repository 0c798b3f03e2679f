"""A training cut in the middle: its whole state in one file, from which it goes on bit by bit as if it had not been.

The state of any learner is a dataclass of networks, optimisers, schedules, tensors and numbers, some of them in further
dataclasses; all chance comes from one generator. Never pickle: tensors as safetensors, the rest as JSON in its header.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vlmrl.errors import DataError

GENERATOR = "/generator"
"""No field of a state is called so."""


def walk(state: Any, prefix: str = "") -> Iterator[tuple[str, Any, str, Any]]:
    """Every part of a learner's state: whose field it is, which, its dotted name, and itself."""
    for field in dataclasses.fields(state):
        value, name = getattr(state, field.name, None), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{name}.")
        else:
            yield state, field.name, name, value


def clip_gradients(state: Any, norm: float, *, seeds: int = 1) -> None:
    """From now on scale the gradient of every group of parameters to at most `norm` before each optimiser's step.

    Of several seeds trained together, whose parameters lie side by side, each has its own norm.
    """

    def clip(optimiser: Optimizer, *_: Any) -> None:
        for group in optimiser.param_groups:
            gradients = [p.grad.view(seeds, -1) for p in group["params"] if p.grad is not None]
            if not gradients:  # a step that this group has no part in
                continue
            total = torch.stack([gradient.square().sum(1) for gradient in gradients]).sum(0).sqrt()
            for gradient in gradients:
                gradient.mul_((norm / (total + 1e-6)).clamp(max=1)[:, None])

    for _, _, _, part in walk(state):
        if isinstance(part, Optimizer):
            part.register_step_pre_hook(clip)


def save(path: Path, state: Any, generators: Sequence[torch.Generator], *, step: int, facts: Mapping[str, Any]) -> None:
    """Replace the file whole; `facts` are what decides the training."""
    tensors, numbers = dict[str, Tensor](), dict[str, Any]()
    tensors |= {f"{GENERATOR}{k}": generator.get_state() for k, generator in enumerate(generators)}
    for _, _, name, part in walk(state):
        if isinstance(part, nn.Module):
            tensors |= {f"{name}/{key}": value for key, value in part.state_dict().items()}
        elif isinstance(part, Optimizer):
            saved = part.state_dict()
            numbers[name] = saved["param_groups"]
            for index, slots in saved["state"].items():
                tensors |= {f"{name}/{index}/{key}": value for key, value in slots.items()}
        elif isinstance(part, LRScheduler):
            numbers[name] = part.state_dict()
        elif isinstance(part, Tensor):
            tensors[name] = part
        elif isinstance(part, int | float):
            numbers[name] = part
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    header = {"step": json.dumps(step), "facts": json.dumps(facts, sort_keys=True), "numbers": json.dumps(numbers)}
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, temporary, metadata=header)
    temporary.replace(path)


def restore(path: Path, state: Any, generators: Sequence[torch.Generator], *, facts: Mapping[str, Any]) -> int:
    """Bring a fresh state to where the file has it; returns the updates done, 0 where it is of another training.

    Raises:
        DataError: if the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            if json.loads(header["facts"]) != json.loads(json.dumps(facts)):
                return 0
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no mapping
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); remove it, and the training starts anew") from error
    numbers = json.loads(header["numbers"])
    for owner, field, name, part in walk(state):
        own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
        if isinstance(part, nn.Module):
            part.load_state_dict(own)
        elif isinstance(part, Optimizer):
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in own.items():
                index, _, slot = key.partition("/")
                slots.setdefault(int(index), {})[slot] = value
            part.load_state_dict({"state": slots, "param_groups": numbers[name]})
        elif isinstance(part, LRScheduler):
            part.load_state_dict(numbers[name])
        elif isinstance(part, Tensor) and part.requires_grad and part.is_leaf:
            part.data.copy_(tensors[name])
        elif name in tensors:
            # Also where a fresh state has none yet.
            setattr(owner, field, tensors[name])
        elif name in numbers:
            setattr(owner, field, numbers[name])
    for k, generator in enumerate(generators):
        generator.set_state(tensors[f"{GENERATOR}{k}"])
    return int(json.loads(header["step"]))
