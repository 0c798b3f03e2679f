"""Settings of a reward learned from preferences: four choices, and how it is trained."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Config:
    """Settings of the preference reward."""

    input: Literal["image", "state", "state_action", "embedding"] = "image"
    """What it looks at."""
    model: Literal["partial_return", "mean_return", "last", "regret", "segment"] = "partial_return"
    """How rewards of rows make the score of a clip; for single frames the first three are the same."""
    loss: Literal["absolute", "bradley_terry", "smoothed", "robust", "channel", "confidence", "votes"] = "absolute"
    """How wrong labels are dealt with."""
    flip_rate: float | None = None
    """Share of labels that are taken for flipped, by the losses smoothed, robust and channel; null: estimated for each
    annotator while training."""
    members: int = 3
    trunk: Literal["independent", "shared"] = "independent"
    """Whether members have networks of their own, or only heads on one trunk."""
    cameras: tuple[str, ...] = ()
    """Of the inputs image and embedding; empty: the camera that was judged."""
    size: tuple[int, int] = (64, 64)
    """Height and width that pictures are brought to."""
    channels: tuple[int, ...] = (16, 32, 64, 128)
    """Of the convolutions (input image)."""
    obs: tuple[str, ...] = ("state",)
    """Keys of the observation (inputs state and state_action)."""
    encoder: str = "seen"
    """Whose embeddings are read (input embedding): the built-in judge, or a CLIP or SigLIP by folder or hub id."""
    hidden: tuple[int, ...] = (64, 64)
    """Layers of all inputs but image; empty: linear."""
    updates: int = 500
    batch: int = 64
    """Pairs an update."""
    lr: float = 3e-4
    weight_decay: float = 1e-4
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the convolutions in training (input image); auto takes bfloat16 where the processor multiplies it natively.
    Rewards are always computed in float32."""
    shift: int = 2
    """Random shifts of the picture in training, pixels each way (input image)."""
    tanh: bool = False
    """Bound the reward of a row to (-1, 1) as RL-VLM-F does: caps the confidence of a pair at sigmoid(2)."""
    holdout: float = 0.1
    """Share kept aside to measure accuracy and calibration."""
    holdout_by: Literal["pairs", "episodes"] = "pairs"
    """Share of the pairs, which may show the same episodes as the training pairs, or of the episodes."""
