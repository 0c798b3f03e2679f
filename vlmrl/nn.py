"""Small networks shared by rewards and learners, and the normalisers that travel with them."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from vlmrl.errors import ConfigError
from vlmrl.vision import Eyes, eyes_settings, saved_eyes


class StackedMLP(nn.Module):
    """Several MLPs of one shape as one batched product: critics, ensembles.

    ReLU between layers; LayerNorm (without gain and bias, which the next layer holds) before each ReLU where asked: it
    keeps bootstrapped values bounded off the data (Ball et al. 2023). Initial weights are torch's own for `nn.Linear`,
    drawn from `generator`.
    """

    def __init__(self, members: int, sizes: Sequence[int], *, layer_norm: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.layer_norm = layer_norm
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)
            for parameters, shape in ((self.weights, (members, fan_in, fan_out)), (self.biases, (members, 1, fan_out))):
                parameters.append(nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator)))

    def forward(
        self, x: Float[Tensor, "*members B D"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "members B out"]:
        """Outputs of every member; `x` is shared by all of them, or has one slice a member."""
        return together([(self, x)], dtype)[0]


def together(nets: Sequence[tuple[StackedMLP, Tensor]], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Outputs of several stacks of equal hidden sizes, their hidden layers as one batched product.

    Matrix products run in `dtype`, everything else and the result in float32. On a CPU with small networks the
    number of operations is the cost: this halves it.
    """
    if torch.compiler.is_compiling():
        return _compilable(nets, dtype)
    first = [_layer(net, 0, _each(net, x), dtype) for net, x in nets]
    if (layers := len(nets[0][0].weights)) == 1:
        return [one.float() for one in first]
    h = torch.cat(first)
    for k in range(1, layers - 1):
        weight = torch.cat([net.weights[k] for net, _ in nets]).to(dtype)
        bias = torch.cat([net.biases[k] for net, _ in nets]).to(dtype)
        h = torch.baddbmm(bias, _activate(h, nets[0][0].layer_norm), weight)
    slices = _activate(h, nets[0][0].layer_norm).split([len(net.biases[0]) for net, _ in nets])
    return [_layer(net, layers - 1, part, dtype).float() for (net, _), part in zip(nets, slices, strict=True)]


def _each(net: StackedMLP, x: Tensor) -> Tensor:
    """The input of every member."""
    return x if x.dim() == 3 else x.expand(len(net.biases[0]), *x.shape)


def _layer(net: StackedMLP, k: int, h: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.baddbmm(net.biases[k].to(dtype), h.to(dtype), net.weights[k].to(dtype))


def _activate(h: Tensor, layer_norm: bool) -> Tensor:
    return torch.relu(nn.functional.layer_norm(h, h.shape[-1:]) if layer_norm else h)


def _compilable(nets: Sequence[tuple[StackedMLP, Tensor]], dtype: torch.dtype) -> list[Tensor]:
    """The same for a compiler, which makes one pass of all that lies between two products.

    So biases cost nothing there, and first and last layers are one product too, narrower ones filled up with zeros.
    """
    layers = list(zip(*(zip(net.weights, net.biases, strict=True) for net, _ in nets), strict=True))
    widest = max(x.shape[-1] for _, x in nets)
    h = torch.cat([nn.functional.pad(_each(net, x), (0, widest - x.shape[-1])) for net, x in nets])
    for k, layer in enumerate(layers):
        if k > 0:
            h = nn.functional.layer_norm(h, h.shape[-1:]) if nets[0][0].layer_norm else h
            h = 0.5 * (h + h.abs())  # relu keeps booleans for its gradient, which torch 2.13 writes one by one
        inputs, outputs = (max(weight.shape[axis] for weight, _ in layer) for axis in (1, 2))
        room = [(0, outputs - weight.shape[2], 0, inputs - weight.shape[1]) for weight, _ in layer]
        weight = torch.cat([nn.functional.pad(w, more) for (w, _), more in zip(layer, room, strict=True)])
        bias = torch.cat([nn.functional.pad(b, more[:2]) for (_, b), more in zip(layer, room, strict=True)])
        h = torch.bmm(h.to(dtype), weight.to(dtype)).float() + bias
    parts = h.split([len(net.biases[0]) for net, _ in nets])
    return [part[..., : net.biases[-1].shape[-1]] for (net, _), part in zip(nets, parts, strict=True)]


class Normaliser(nn.Module):
    """An affine map per dimension, and its inverse: (x - shift) / scale."""

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Float[Tensor, " D"], scale: Float[Tensor, " D"]) -> None:
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    @classmethod
    def standard(cls, x: Float32[np.ndarray, "N D"]) -> "Normaliser":
        """To zero mean and unit deviation; a constant dimension is shifted only.

        Dimensions that hardly move would be blown up at run time: their deviation is floored at 1e-3 (IQL's code).
        """
        # Added up in float64: over a million rows float32 loses a constant's third digit, and makes a deviation of it.
        mean, std = x.mean(0, dtype=np.float64), np.where(x.max(0) == x.min(0), 0.0, x.std(0, dtype=np.float64))
        return cls(
            torch.from_numpy(mean.astype(np.float32)),
            torch.from_numpy(np.where(std < 1e-6, 1.0, std + 1e-3).astype(np.float32)),
        )

    @classmethod
    def range(cls, x: Float32[np.ndarray, "N D"]) -> "Normaliser":
        """Observed minimum and maximum to -1 and 1; a constant dimension is shifted only."""
        low, high = x.min(0), x.max(0)
        half = (high - low) / 2
        scale = np.where(half < 1e-6, 1.0, half).astype(np.float32)
        return cls(torch.from_numpy((low + high) / 2), torch.from_numpy(scale))

    def widened(self, features: int) -> "Normaliser":
        """The same for numbers that are followed by features of pictures, which are left as they are."""
        return Normaliser(torch.cat([self.shift, torch.zeros(features)]), torch.cat([self.scale, torch.ones(features)]))

    def apply_to(self, x: Tensor) -> Tensor:
        """Into the network's units."""
        return (x - self.shift) / self.scale

    def invert(self, x: Tensor) -> Tensor:
        """Back into the data's units."""
        return x * self.scale + self.shift


@runtime_checkable
class PolicyNetwork(Protocol):
    """What a learner leaves, an `nn.Module`: action chunks from observations and chance, normalisers inside."""

    KIND: ClassVar[str]
    """Names it in saved folders."""
    observation: Normaliser
    action: Normaliser
    """Brings actions to their range in the data."""
    eyes: Eyes | None
    """What makes features of pictures, which stand behind the numbers of `obs`; None where it sees none."""
    history: int
    """Observations that it looks at, one after the other in `obs`, the oldest first."""
    chance: tuple[int, ...]
    """Shape of the standard normal numbers behind one chunk."""
    acts_without_chance: bool
    """Whether it acts by the chunk of no chance, all zeros: a Gaussian's mean."""
    proposes: bool
    """Whether its chunks spread as it has learned them to."""
    chooses: bool
    """Whether the last number of chance chooses among several distributions, and is no spread."""

    def draw(self, obs: Float[Tensor, "B D"], chance: Float[Tensor, "B ..."]) -> Float[Tensor, "B h A"]:
        """One chunk for each observation, in the data's units."""
        ...

    def settings(self) -> dict[str, Any]:
        """What `from_settings` needs beside the tensors."""
        ...

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "PolicyNetwork":
        """The network that was saved."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Every tensor by name."""
        ...


def saved_normaliser(tensors: Mapping[str, Tensor], name: str) -> Normaliser:
    """A normaliser among a module's tensors."""
    return Normaliser(tensors[f"{name}.shift"], tensors[f"{name}.scale"])


class Actor(nn.Module):
    """Gaussian policy head: tanh mean, state-independent deviation (IQL's, Kostrikov et al. 2021).

    Takes raw observations and returns raw actions: both normalisers are inside, and so in every checkpoint.
    """

    KIND: ClassVar[str] = "actor policy"
    LOG_STD = (-5.0, 2.0)
    acts_without_chance = True
    chooses = False
    history = 1

    def __init__(
        self,
        observation: Normaliser,
        action: Normaliser,
        *,
        hidden: Sequence[int],
        layer_norm: bool,
        generator: torch.Generator,
        proposes: bool = True,
        eyes: Eyes | None = None,
    ) -> None:
        super().__init__()
        self.observation, self.action, self.proposes, self.eyes = observation, action, proposes, eyes
        self.chance = (len(action.shift),)
        sizes = (len(observation.shift), *hidden, len(action.shift))
        self.net = StackedMLP(1, sizes, layer_norm=layer_norm, generator=generator)
        self.log_std = nn.Parameter(torch.zeros(len(action.shift)))

    def log_prob(self, mean: Float[Tensor, "B A"], action: Float[Tensor, "B A"]) -> Float[Tensor, " B"]:
        """Log-density of actions around `mean`, both in the network's units."""
        log_std = self.log_std.clamp(*self.LOG_STD)
        z = (action - mean) * torch.exp(-log_std)
        return -(0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    @torch.inference_mode()
    def act(self, obs: Float[Tensor, "B D"]) -> Float[Tensor, "B A"]:
        """The deterministic action, in the data's units."""
        return self.action.invert(torch.tanh(self.net(self.observation.apply_to(obs))[0]))

    @torch.inference_mode()
    def draw(self, obs: Float[Tensor, "B D"], chance: Float[Tensor, "B A"]) -> Float[Tensor, "B 1 A"]:
        """Actions `chance` deviations off the mean, kept within the data's range, in the data's units."""
        deviation = self.log_std.clamp(*self.LOG_STD).exp()
        mean = torch.tanh(self.net(self.observation.apply_to(obs))[0])
        return self.action.invert((mean + deviation * chance).clamp(-1, 1))[:, None]

    def settings(self) -> dict[str, Any]:
        """Sizes of the network."""
        hidden = [weight.shape[2] for weight in self.net.weights][:-1]
        own = {"hidden": hidden, "layer_norm": self.net.layer_norm, "proposes": self.proposes}
        return own | eyes_settings(self.eyes)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Actor":
        """The actor that was saved."""
        actor = cls(
            saved_normaliser(tensors, "observation"),
            saved_normaliser(tensors, "action"),
            hidden=settings["hidden"],
            layer_norm=settings["layer_norm"],
            generator=torch.Generator(),
            proposes=settings.get("proposes", True),
            eyes=saved_eyes(settings),
        )
        actor.load_state_dict(tensors)
        return actor


class Critic(nn.Module):
    """Ensemble of action values of which the least counts; raw observations and actions in."""

    KIND: ClassVar[str] = "action value"

    def __init__(self, observation: Normaliser, action: Normaliser, q: StackedMLP, eyes: Eyes | None = None) -> None:
        super().__init__()
        self.observation, self.action, self.q, self.eyes = observation, action, q, eyes

    @torch.inference_mode()
    def value(self, obs: Float[Tensor, "B D"], actions: Float[Tensor, "B n A"]) -> Float[Tensor, "B n"]:
        """The least value of any member, in the unit of the reward that was trained on."""
        count, n, _ = actions.shape
        seen = self.observation.apply_to(obs)[:, None].expand(-1, n, -1)
        both = torch.cat([seen, self.action.apply_to(actions)], -1).reshape(count * n, -1)
        return self.q(both)[..., 0].amin(0).reshape(count, n)

    def settings(self) -> dict[str, Any]:
        """Sizes of the networks."""
        sizes = [self.q.weights[0].shape[1], *(weight.shape[2] for weight in self.q.weights)]
        own = {"members": len(self.q.weights[0]), "sizes": sizes, "layer_norm": self.q.layer_norm}
        return own | eyes_settings(self.eyes)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Critic":
        """The critic that was saved."""
        q = StackedMLP(
            settings["members"], settings["sizes"], layer_norm=settings["layer_norm"], generator=torch.Generator()
        )
        observation, action = (saved_normaliser(tensors, name) for name in ("observation", "action"))
        critic = cls(observation, action, q, saved_eyes(settings))
        critic.load_state_dict(tensors)
        return critic


def product_dtype(precision: str) -> torch.dtype:
    """Type of matrix products: `auto` is bfloat16 where the processor multiplies it natively."""
    native = torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and native) else torch.float32


def pick_device(wanted: str) -> torch.device:
    """The device named, or with `auto` the GPU where there is one.

    Raises:
        ConfigError: if there is no such device.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {wanted!r}; have: auto, cpu, cuda, cuda:0, ...") from error
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ConfigError(f"no device {wanted!r}: PyTorch finds {count} CUDA devices here")
    return device
