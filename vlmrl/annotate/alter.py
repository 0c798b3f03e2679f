"""Pictures changed all alike, to see what a judge makes of it."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

COARSE = 12
"""Pixels of the longer side that are left of a picture at low resolution."""


def alter(pixels: UInt8[np.ndarray, "N H W 3"], how: str) -> UInt8[np.ndarray, "N H W 3"]:
    """Change all pictures alike; an unknown way leaves them as they are."""
    match how:
        case "channels shuffled":
            return pixels[..., [2, 0, 1]]
        case "mirrored":
            return pixels[:, :, ::-1]
        case "darker" | "brighter":
            factor = 0.5 if how == "darker" else 1.5
            return np.clip(pixels * np.float32(factor), 0, 255).astype(np.uint8)
        case "blank":
            return np.full_like(pixels, 128)
        case "low resolution":
            return np.stack([_coarse(picture) for picture in pixels]) if len(pixels) else pixels
        case _:
            return pixels


def _coarse(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    height, width = picture.shape[:2]
    scale = min(1.0, COARSE / max(height, width))
    small = (max(1, round(scale * width)), max(1, round(scale * height)))
    shrunk = Image.fromarray(picture).resize(small, Image.Resampling.BOX)
    return np.asarray(shrunk.resize((width, height), Image.Resampling.BICUBIC))
