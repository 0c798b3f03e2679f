"""Image-text dual encoders (CLIP, SigLIP, SigLIP 2, any vision and text pair) and VLM-RM's zero-shot reward.

A checkpoint is the built-in judge, a folder, or a hub id, in the format of `transformers`. Pictures are prepared as
VLM-RM does (Rocamonde et al. 2024, `contrib/open_clip/transform.py`): scaled straight to the model's square, whatever
their shape, and never cropped.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn import functional

from vlmrl.content import find
from vlmrl.errors import ConfigError
from vlmrl.nn import pick_device
from vlmrl.runfolder import read_json

JUDGES = ("seen", "zeroshot")
"""Checkpoints of the built-in judge."""
FACTS = "judge.json"
"""What is known of a checkpoint: calibration, tasks, accuracy. It decides no embedding."""
_VERSION = b"1"
"""Of how pictures and sentences are prepared here: part of every fingerprint."""
_PARTS = {".safetensors", ".json", ".txt", ".model"}
_WANTED = ["model*.safetensors", "*.json", "*.txt", "*.model"]
_FILTERS = {2: "bilinear", 3: "bicubic"}
"""By the number that Pillow, and so `preprocessor_config.json`, gives them."""
_PIECE_BYTES = 256 << 20
"""Memory for the pictures of one batch, as floats, before they are scaled."""


class DualEncoder:
    """Embeds pictures and sentences in one space."""

    def __init__(self, folder: Path, *, name: str, device: str = "cpu") -> None:
        """Use `DualEncoder.load`."""
        self.folder, self.name, self.device = folder, name, pick_device(device)
        self.model, self.tokenizer, processor = _read(folder, name)
        self.model.to(self.device)
        preparation = _Patches if self.model.config.model_type == "siglip2" else _Square
        self._prepare = preparation(processor, name)
        self.facts: Mapping[str, Any] = read_json(folder / FACTS) if (folder / FACTS).is_file() else {}
        self.size = self._prepare.size
        """Height and width that pictures are scaled to (for NaFlex: a square of as many patches)."""
        self.logit_scale = float(self.model.logit_scale.detach().exp())
        self.dim = self.texts(["a picture"]).shape[1]

    @classmethod
    def load(cls, checkpoint: str, *, device: str = "cpu") -> "DualEncoder":
        """Read `seen` or `zeroshot` (the built-in judge), a folder, or `hub/id` with an optional `@revision`.

        `device` may be `auto`: the GPU where there is one.

        Raises:
            ConfigError: if there is no such checkpoint, or it is no image-text dual encoder.
        """
        if checkpoint in JUDGES:
            return cls(_judge(checkpoint), name=f"judge {checkpoint}", device=device)
        if Path(checkpoint).is_dir():
            return cls(Path(checkpoint), name=Path(checkpoint).resolve().name, device=device)
        return cls(_download(checkpoint), name=checkpoint, device=device)

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 of everything that decides an embedding: weights, settings, tokenizer, preparation."""
        whole = hashlib.sha256(_VERSION)
        for path in sorted(p for p in self.folder.iterdir() if p.suffix in _PARTS and p.name != FACTS):
            with path.open("rb") as file:
                whole.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return whole.hexdigest()

    @torch.inference_mode()
    def images(self, pixels: UInt8[np.ndarray, "N H W 3"]) -> Float32[np.ndarray, "N D"]:
        """Unit vectors of RGB pictures, in bounded memory."""
        # Larger batches leave a CPU's cache: the judge's front runs two to three times slower at 128.
        batch = 32 if self.device.type == "cpu" else 256
        step = max(1, min(batch, _PIECE_BYTES // (4 * max(1, pixels[:1].size))))
        found = np.empty((len(pixels), self.dim), np.float32)
        for k in range(0, len(pixels), step):
            piece = torch.from_numpy(np.ascontiguousarray(pixels[k : k + step])).to(self.device)
            inputs = self._prepare(piece.permute(0, 3, 1, 2))
            found[k : k + step] = _unit(self.model.get_image_features(**inputs))
        return found

    @torch.inference_mode()
    def texts(self, sentences: Sequence[str]) -> Float32[np.ndarray, "P D"]:
        """Unit vectors of sentences.

        Raises:
            ConfigError: if a sentence is longer than the model reads.
        """
        if self.model.config.model_type.startswith("siglip"):
            # Both were trained on lower-case sentences padded to the full length, the padding not masked.
            sentences, padding, keys = [s.lower() for s in sentences], "max_length", ("input_ids",)
        else:
            padding, keys = "longest", ("input_ids", "attention_mask")
        most = min(self.model.config.text_config.max_position_embeddings, self.tokenizer.model_max_length)
        inputs = self.tokenizer(list(sentences), padding=padding, max_length=most)
        for sentence, tokens in zip(sentences, inputs["input_ids"], strict=True):
            if len(tokens) > most:
                raise ConfigError(f"{self.name} reads {most} tokens, {sentence!r} has {len(tokens)}: shorten it")
        tensors = {k: torch.tensor(inputs[k], device=self.device) for k in keys if k in inputs}
        return _unit(self.model.get_text_features(**tensors))


def vlmrm_reward(
    images: Float[np.ndarray, "N D"],
    goals: Float[np.ndarray, "P D"],
    baselines: Float[np.ndarray, "B D"] | None,
    alpha: float,
) -> Float32[np.ndarray, " N"]:
    """VLM-RM's reward R(s) = 1 - 1/2 ||alpha proj_L(s) + (1 - alpha) s - g||^2 of unit vectors s (its Definition 1).

    L is the affine line through g and b, the means of the goals' and the baselines' unit vectors (not normalised
    again, as in `vlmrm/reward_model.py`). Of s - g the part along L is kept and the part across is shrunk by 1 - alpha,
    so that R = 1 - 1/2 (t^2 + (1 - alpha)^2 (|s - g|^2 - t^2)), where t = (s - g) (g - b) / |g - b|.
    With alpha 0 and one goal it is the cosine, and needs no baseline.

    Raises:
        ConfigError: if goals and baselines differ in number or coincide, or alpha wants baselines.
    """
    check_prompts(len(goals), 0 if baselines is None else len(baselines), alpha)
    goal = goals.mean(0, dtype=np.float64).astype(np.float32)
    offset = images.astype(np.float32, copy=False) - goal
    square = np.einsum("nd,nd->n", offset, offset)
    if alpha == 0 or baselines is None:
        return 1 - square / 2
    line = goal - baselines.mean(0, dtype=np.float64)
    if (length := np.linalg.norm(line)) < 1e-6:
        raise ConfigError("goals and baselines mean the same to the model: choose other baselines, or alpha 0")
    along = np.square(offset @ (line / length).astype(np.float32))
    return 1 - (along + np.float32((1 - alpha) ** 2) * (square - along)) / 2


def check_prompts(goals: int, baselines: int, alpha: float) -> None:
    """Check that so many goals and baselines make a reward.

    Raises:
        ConfigError: if they differ in number, alpha is out of range, or wants baselines that are not there.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha is {alpha}: 0 (the cosine) to 1 (only the direction from baseline to goal) wanted")
    if baselines not in (0, goals):
        raise ConfigError(f"{goals} goals and {baselines} baselines: equal numbers wanted (or no baseline)")
    if alpha and not baselines:
        raise ConfigError(f"alpha is {alpha}, but there is no baseline: say what the scene shows without the goal")


def _judge(name: str) -> Path:
    try:
        return find("data", f"judge/{name}")
    except ConfigError as error:
        raise ConfigError(f"the built-in judge {name!r} is not installed: no folder data/judge/{name}") from error


def _download(checkpoint: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = checkpoint.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=_WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"no checkpoint {checkpoint!r}: it is not {' or '.join(JUDGES)}, no folder here, and the hub says: {reason}"
        ) from error


def _read(folder: Path, name: str) -> tuple[Any, Any, Any]:
    """Model, tokenizer and image processor."""
    from safetensors import SafetensorError
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
    from transformers.utils import logging

    from vlmrl.tower import register

    register()
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, about = AutoModel.from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        # Pillow's needs no torchvision; only its settings are read.
        processor = AutoImageProcessor.from_pretrained(str(folder), backend="pil")
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"cannot load {name!r} from {folder}: {' '.join(str(error).split())}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    lacking = [part for part in ("get_image_features", "get_text_features", "logit_scale") if not hasattr(model, part)]
    if lacking:
        raise ConfigError(
            f"{name!r} is a {type(model).__name__}: an image-text dual encoder such as CLIPModel is wanted"
        )
    if missing := sorted(about["missing_keys"]):
        raise ConfigError(f"{name!r} lacks {len(missing)} weights of its model, first {missing[0]}")
    return model.eval(), tokenizer, processor


class _Preparation:
    """Scales and normalises pictures as a checkpoint's settings say."""

    def __init__(self, processor: Any, name: str) -> None:
        resample = int(getattr(processor, "resample", 3))
        if resample not in _FILTERS:
            raise ConfigError(f"{name!r} scales pictures with Pillow's filter {resample}; have: {_FILTERS}")
        self.filter = _FILTERS[resample]
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0], [1.0])
        self.factor = processor.rescale_factor if processor.do_rescale else 1.0
        self.mean, self.std = (torch.tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in (mean, std))

    def scaled(self, pictures: UInt8[Tensor, "B 3 _ _"], size: tuple[int, int]) -> Float[Tensor, "B 3 H W"]:
        """Antialiased to (height, width), rounded to whole levels as Pillow does, then normalised."""
        if pictures.shape[-2:] != size:
            # As bytes it is ten times faster on a CPU; CUDA scales floats only.
            source = pictures if pictures.device.type == "cpu" else pictures.float()
            scaled = functional.interpolate(source, size=size, mode=self.filter, antialias=True)
            pictures = scaled.round().clamp(0, 255) if scaled.is_floating_point() else scaled
        mean, std = self.mean.to(pictures.device), self.std.to(pictures.device)
        return (pictures.float() * self.factor - mean) / std


class _Square(_Preparation):
    """For models of one input size."""

    def __init__(self, processor: Any, name: str) -> None:
        super().__init__(processor, name)
        size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
        self.size = (int(size.height or size.shortest_edge), int(size.width or size.shortest_edge))

    def __call__(self, pictures: UInt8[Tensor, "B 3 _ _"]) -> dict[str, Tensor]:
        return {"pixel_values": self.scaled(pictures, self.size).contiguous()}


class _Patches(_Preparation):
    """For SigLIP 2 NaFlex, which keeps the shape of pictures: as many patches as fit, in rows."""

    def __init__(self, processor: Any, name: str) -> None:
        super().__init__(processor, name)
        self.patch, self.most = int(processor.patch_size), int(processor.max_num_patches)
        side = self.patch * math.isqrt(self.most)
        self.size = (side, side)

    def __call__(self, pictures: UInt8[Tensor, "B 3 _ _"]) -> dict[str, Tensor]:
        from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

        count, p = len(pictures), self.patch
        size = get_image_size_for_max_num_patches(*pictures.shape[-2:], patch_size=p, max_num_patches=self.most)
        shape = torch.tensor([size[0] // p, size[1] // p], device=pictures.device)
        patches = self.scaled(pictures, size).unflatten(2, (-1, p)).unflatten(4, (-1, p)).permute(0, 2, 4, 3, 5, 1)
        values = patches.reshape(count, -1, 3 * p * p)
        mask = torch.ones(values.shape[:2], dtype=torch.int32, device=pictures.device)
        return {"pixel_values": values, "pixel_attention_mask": mask, "spatial_shapes": shape.expand(count, 2)}


def _unit(features: Any) -> Float32[np.ndarray, "B D"]:
    """Normalise what `get_*_features` returned: a tensor in early transformers 5, pooled outputs now."""
    pooled = features if isinstance(features, Tensor) else features.pooler_output
    return functional.normalize(pooled.float(), dim=-1).cpu().numpy()
