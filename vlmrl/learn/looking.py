"""Pictures on their way into a learner: read in the background, cropped and coloured at random, made into features."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from vlmrl.nn import Normaliser, product_dtype
from vlmrl.sight import Sight
from vlmrl.types import Transitions
from vlmrl.vision import Eyes

T = TypeVar("T")

AHEAD = 3
"""Batches that are read before they are wanted."""


def sees(
    observation: Normaliser, transitions: Transitions, *, generator: torch.Generator
) -> tuple[Normaliser, Eyes | None]:
    """The normaliser and the eyes of a network that sees what the transitions show; no eyes where that is numbers."""
    if transitions.pictures is None:
        return observation, None
    eyes = Eyes(transitions.pictures.cameras, transitions.pictures.sight, generator=generator)
    return observation.widened(eyes.features), eyes


def look(eyes: Eyes | None, obs: Float[Tensor, "*seeds B _"], history: int = 1) -> Float[Tensor, "*seeds B _"]:
    """Observations of a batch with features in the place of pictures."""
    if eyes is None:
        return obs
    pixels = eyes.pixels * len(eyes.cameras)
    each = obs.reshape(len(obs) * history, -1)
    half = product_dtype(eyes.sight.precision) == torch.bfloat16
    with torch.autocast(obs.device.type, torch.bfloat16, enabled=half):
        features = eyes(each[:, -pixels:])
    return torch.cat([each[:, :-pixels], features], 1).reshape(len(obs), -1)


def shown(
    transitions: Transitions,
    numbers: Float[Tensor, "*rows D"],
    rows: Int64[Tensor, "*rows"],
    generator: torch.Generator,
    *,
    after: int = 0,
) -> Float[Tensor, "*rows _"]:
    """Numbers of transitions, and behind them the pictures, if any, of their rows or of rows `after` these.

    The first axis is the batch, a second one would be time.
    """
    pictures = transitions.pictures
    if pictures is None:
        return numbers
    place = pictures.row[rows.numpy()] + after
    found = [numbers]
    for camera in pictures.cameras:
        pixels = torch.from_numpy(pictures.read(camera, place.reshape(-1)))
        seen = augmented(pixels.unflatten(0, (len(rows), -1)), pictures.sight, generator)
        found.append(seen.reshape(*rows.shape, -1))
    return torch.cat(found, -1)


def augmented(
    pixels: UInt8[Tensor, "B T H W 3"], sight: Sight, generator: torch.Generator
) -> Float[Tensor, "B T h w 3"]:
    """A random part of each picture in other colours, 0 to 255; pictures of one row, at several times, all alike."""
    count, (height, width) = len(pixels), sight.cropped
    spare = torch.tensor([pixels.shape[2] - height + 1, pixels.shape[3] - width + 1])
    corner = (torch.rand(count, 2, generator=generator) * spare).long().tolist()
    part = torch.stack([own[:, y : y + height, x : x + width] for own, (y, x) in zip(pixels, corner, strict=True)])
    factors = 1 + sight.colour * (2 * torch.rand(3, count, 1, 1, 1, 1, generator=generator) - 1)
    brightness, contrast, saturation = factors
    seen = part.float() * brightness
    mean = seen.mean((2, 3, 4), keepdim=True)
    seen = mean + contrast * (seen - mean)
    grey = seen.mean(4, keepdim=True)
    return (grey + saturation * (seen - grey)).clamp(0, 255)


def read_ahead(batches: Callable[[torch.Generator], Iterator[T]], *, generator: torch.Generator) -> Iterator[T]:
    """The batches, made a few ahead in a thread.

    At each of them `generator` stands where it would if that batch had just been made, so that a training that is kept
    there goes on with the next one. It must be of this stream alone.
    """
    own = torch.Generator()
    own.set_state(generator.get_state())
    made = batches(own)
    worker = ThreadPoolExecutor(1, "pictures")

    def one() -> tuple[T, Tensor]:
        return next(made), own.get_state()

    waiting: deque[Future[tuple[T, Tensor]]] = deque(worker.submit(one) for _ in range(AHEAD))
    try:
        while True:
            batch, state = waiting.popleft().result()
            waiting.append(worker.submit(one))
            generator.set_state(state)
            yield batch
    finally:
        worker.shutdown(cancel_futures=True)
