"""The 1-D U-Net over action chunks of Diffusion Policy (Chi et al. 2023, arXiv 2303.04137, CNN variant).

Residual blocks of two convolutions with GroupNorm and Mish; what is seen, and how far denoising is, scale and shift the
channels of each block (FiLM).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlmrl.errors import ConfigError
from vlmrl.nn import product_dtype

GROUPS = 8
KERNEL = 5


class Convolution(nn.Conv1d):
    """Over time, as long after as before; compiled, as one product of matrices in bfloat16 where that is native.

    What is before and after a moment then lies beside it: more memory, and a third less time than a library's own
    convolution of so few channels takes (benchmarks/iql.py --diffusion).
    """

    def __init__(self, width_in: int, width: int, kernel: int) -> None:
        super().__init__(width_in, width, kernel, padding=kernel // 2)
        self.products = product_dtype("auto")

    def forward(self, input: Float[Tensor, "B C T"]) -> Float[Tensor, "B O T"]:
        """Of the same length."""
        if not torch.compiler.is_compiling():
            return super().forward(input)
        reach, steps = self.kernel_size[0] // 2, input.shape[-1]
        x = functional.pad(input.transpose(1, 2).to(self.products), (0, 0, reach, reach))
        beside = torch.cat([x[:, k : k + steps] for k in range(2 * reach + 1)], -1)
        weight = self.weight.to(self.products).transpose(1, 2).flatten(1)
        bias = None if self.bias is None else self.bias.to(self.products)
        return functional.linear(beside, weight, bias).float().transpose(1, 2)


class Residual(nn.Module):
    """Two convolutions over time; the condition scales and shifts the channels between them."""

    def __init__(self, width_in: int, width: int, condition: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(width_in, width), _convolution(width, width)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * width))
        self.skip = Convolution(width_in, width, 1) if width_in != width else nn.Identity()

    def forward(self, x: Float[Tensor, "B C T"], condition: Float[Tensor, "B E"]) -> Float[Tensor, "B O T"]:
        """Of the same length."""
        scale, shift = self.film(condition)[..., None].chunk(2, 1)
        return self.second(self.first(x) * scale + shift) + self.skip(x)


class UNet(nn.Module):
    """Noise, or velocity, of a chunk of actions at a time of denoising, given what is seen."""

    def __init__(
        self, action: int, condition: int, widths: Sequence[int], *, time_width: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        if wrong := [width for width in widths if width % GROUPS]:
            raise ConfigError(f"widths of the U-Net that {GROUPS} divides wanted, found {wrong}")
        # torch draws initial weights from its global generator only: give it a state of ours, and its own back.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self._build(action, condition + time_width, widths, time_width)
        self.time_width = time_width

    def _build(self, action: int, condition: int, widths: Sequence[int], time_width: int) -> None:
        self.time = nn.Sequential(
            nn.Linear(time_width, 4 * time_width), nn.Mish(), nn.Linear(4 * time_width, time_width)
        )
        pairs = list(zip([action, *widths[:-1]], widths, strict=True))
        self.down = nn.ModuleList(
            nn.ModuleList([Residual(a, b, condition), Residual(b, b, condition)]) for a, b in pairs
        )
        self.shrink = nn.ModuleList(nn.Conv1d(b, b, 3, 2, 1) for _, b in pairs[:-1])
        self.middle = nn.ModuleList([Residual(widths[-1], widths[-1], condition) for _ in range(2)])
        ups = [(b, a) for a, b in reversed(pairs[1:])]
        self.up = nn.ModuleList(
            nn.ModuleList([Residual(2 * b, a, condition), Residual(a, a, condition)]) for b, a in ups
        )
        self.grow = nn.ModuleList(nn.ConvTranspose1d(a, a, 4, 2, 1) for _, a in ups)
        self.last = nn.Sequential(_convolution(widths[0], widths[0]), Convolution(widths[0], action, 1))

    def forward(
        self, chunk: Float[Tensor, "B T A"], time: Float[Tensor, " B"], seen: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B T A"]:
        """The prediction; T must halve once for each width but the first."""
        condition = torch.cat([self.time(sinusoids(time, self.time_width)), seen], -1)
        x, kept = chunk.transpose(1, 2), list[Tensor]()
        for k, blocks in enumerate(self.down):
            x = _through(blocks, x, condition)
            kept.append(x)
            x = self.shrink[k](x) if k < len(self.shrink) else x
        x = _through(self.middle, x, condition)
        for blocks, grow in zip(self.up, self.grow, strict=True):
            x = grow(_through(blocks, torch.cat([x, kept.pop()], 1), condition))
        return self.last(x).transpose(1, 2)


def sinusoids(time: Float[Tensor, " B"], width: int) -> Float[Tensor, "B W"]:
    """Sines and cosines of a time at geometrically spaced frequencies."""
    frequency = torch.exp(torch.arange(width // 2, device=time.device) * (-math.log(10_000) / (width // 2 - 1)))
    angle = time[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)


def _through(blocks: nn.Module, x: Tensor, condition: Tensor) -> Tensor:
    for block in blocks.children():
        x = block(x, condition)
    return x


def _convolution(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(Convolution(width_in, width, KERNEL), nn.GroupNorm(GROUPS, width), nn.Mish())
