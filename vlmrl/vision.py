"""The encoder of pictures of Diffusion Policy (Chi et al. 2023, arXiv 2303.04137, section 3.2), learned end to end.

A ResNet-18 (He et al. 2016, arXiv 1512.03385) with GroupNorm in place of BatchNorm, whose statistics an average of
weights would spoil, and a spatial softmax (Levine et al. 2016, arXiv 1504.00702) in place of the average pooling. Each
camera has an encoder of its own. Its weights are fresh.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmrl import config as configuration
from vlmrl.sight import Sight

GROUP = 16
"""Channels that GroupNorm takes together."""


class Block(nn.Module):
    """ResNet's basic block: two convolutions, and what goes past them."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([_norm(width), _norm(width)])
        past = stride > 1 or width_in != width
        self.past = (
            nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), _norm(width)) if past else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O h w"]:
        """Of half the size where the stride is 2."""
        inner = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(inner)) + self.past(x))


class SpatialSoftmax(nn.Module):
    """Where each of several maps, which a convolution makes of the channels, is strongest: from -1 to 1, x and y."""

    def __init__(self, width: int, keypoints: int) -> None:
        super().__init__()
        self.maps = nn.Conv2d(width, keypoints, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """Expected coordinates under the softmax of each map over its places."""
        maps = self.maps(x).float()
        share = maps.flatten(2).softmax(2).reshape(maps.shape)
        across, down = (
            torch.linspace(-1, 1, n, device=x.device) if n > 1 else torch.zeros(1, device=x.device)
            for n in (maps.shape[3], maps.shape[2])
        )
        return torch.cat([(share.sum(2) * across).sum(2), (share.sum(3) * down).sum(2)], 1)


class Eyes(nn.Module):
    """An encoder for each camera; what they find stands side by side."""

    def __init__(self, cameras: Sequence[str], sight: Sight, *, generator: torch.Generator) -> None:
        super().__init__()
        self.cameras, self.sight = tuple(cameras), sight
        height, width = sight.cropped
        self.pixels = 3 * height * width
        """Numbers of one camera's cropped picture."""
        self.features = 2 * sight.keypoints * len(self.cameras)
        # torch draws initial weights from its global generator only: give it a state of ours, and its own back.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.encoders = nn.ModuleList(_encoder(sight) for _ in self.cameras)

    def forward(self, pixels: Float[Tensor, "B P"]) -> Float[Tensor, "B F"]:
        """Features of cropped pictures, 0 to 255: height, width and RGB of each camera, one after the other, flat."""
        own = pixels.reshape(len(pixels), len(self.cameras), *self.sight.cropped, 3) / 127.5 - 1
        found = [encoder(own[:, k].permute(0, 3, 1, 2)) for k, encoder in enumerate(self.encoders)]
        return torch.cat(found, 1)


def eyes_settings(eyes: Eyes | None) -> dict[str, Any]:
    """What `saved_eyes` needs beside the tensors."""
    return {} if eyes is None else {"eyes": {"cameras": list(eyes.cameras), "sight": asdict(eyes.sight)}}


def saved_eyes(settings: Mapping[str, Any]) -> Eyes | None:
    """Eyes of a saved network, weights still to be loaded; None where it sees no pictures."""
    if (found := settings.get("eyes")) is None:
        return None
    sight = configuration.build(Sight, found["sight"], where="sight")
    return Eyes(found["cameras"], sight, generator=torch.Generator())


def _encoder(sight: Sight) -> nn.Sequential:
    widths = sight.channels
    layers: list[nn.Module] = [
        nn.Conv2d(3, widths[0], 7, 2, 3, bias=False),
        _norm(widths[0]),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    for k, width in enumerate(widths):
        layers += [Block(widths[max(k - 1, 0)], width, 2 if k else 1), Block(width, width, 1)]
    return nn.Sequential(*layers, SpatialSoftmax(widths[-1], sight.keypoints))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(width // GROUP if width % GROUP == 0 else 1, width)
