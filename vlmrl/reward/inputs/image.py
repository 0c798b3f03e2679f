"""Pictures of one or several cameras, through RL-VLM-F's convolutions; several cameras are stacked as channels."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from vlmrl.errors import DataError
from vlmrl.reward.alignment import shown
from vlmrl.reward.inputs import Source
from vlmrl.store import Store
from vlmrl.types import Episode

NEXT = True


def rows(store: Store, source: Source) -> Int64[np.ndarray, " M"]:
    """Rows with a picture of every camera."""
    found = store.frame_rows(source.cameras[0])
    for camera in source.cameras[1:]:
        found = np.intersect1d(found, store.frame_rows(camera))
    return found


def read(store: Store, source: Source, wanted: Int64[np.ndarray, " M"]) -> UInt8[np.ndarray, "M H W C"]:
    """Pictures at the configured size, three channels a camera."""
    found = [store.frames(camera, wanted, source.size) for camera in source.cameras]
    return found[0] if len(found) == 1 else np.concatenate(found, axis=3)


def of_episode(episode: Episode, source: Source) -> tuple[Int64[np.ndarray, " M"], UInt8[np.ndarray, "M H W C"]]:
    """Rows with a picture of every camera, and those pictures.

    Raises:
        DataError: if there is none, or pictures are of another size.
    """
    found = [shown(episode, camera) for camera in source.cameras]
    common = found[0][0]
    for own, _ in found[1:]:
        common = np.intersect1d(common, own)
    stack = np.concatenate([pixels[np.searchsorted(own, common)] for own, pixels in found], axis=3)
    if not len(common) or stack.shape[1:3] != tuple(source.size):
        raise DataError(f"episode {episode.id!r}: pictures of {source.size} wanted, found {stack.shape[:3]}")
    return common, stack


class Prepare(nn.Module):
    """Pictures as convolutions take them: channels first, from -0.5 to 0.5."""

    def forward(self, pictures: UInt8[Tensor, "B H W C"]) -> Float[Tensor, "B C H W"]:
        """Scaled pictures."""
        # In place: fresh pages for two more copies of a batch would cost as much as a convolution.
        return pictures.permute(0, 3, 1, 2).float().div_(255).sub_(0.5)


class Trunk(nn.Module):
    """Kernels 5, 3, 3, 3 and strides 3, 2, 2, 2, without padding, as RL-VLM-F's `conv_net.py`.

    The groups are one grouped convolution and do not touch each other.
    """

    def __init__(self, shape: Sequence[int], channels: Sequence[int], groups: int) -> None:
        super().__init__()
        height, width, seen = shape
        widths = [seen, *channels]
        kernels = [5] + [3] * (len(channels) - 1)
        strides = [3] + [2] * (len(channels) - 1)
        layers: list[nn.Module] = []
        for k, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
            fan_in = seen if k == 0 else widths[k] * groups
            apart = 1 if k == 0 else groups
            layers += [nn.Conv2d(fan_in, widths[k + 1] * groups, kernel, stride, groups=apart), nn.ReLU()]
        self.layers, self.groups = nn.Sequential(*layers), groups
        with torch.no_grad():
            self.features = self.layers(torch.zeros(1, seen, height, width)).numel() // groups

    def forward(self, pictures: Float[Tensor, "B C H W"]) -> Float[Tensor, "B groups F"]:
        """Features of each group."""
        return self.layers(pictures).reshape(len(pictures), self.groups, -1)


def augment(stack: UInt8[Tensor, "B H W C"], shift: int, *, generator: torch.Generator) -> UInt8[Tensor, "B H W C"]:
    """One random shift, up to `shift` pixels each way, for the whole batch: both sides of a pair move alike."""
    if not shift:
        return stack
    dy, dx = torch.randint(-shift, shift + 1, (2,), generator=generator).tolist()
    return torch.roll(stack, (dy, dx), (1, 2))
