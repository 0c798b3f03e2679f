"""Training the judge: the tail of the image tower learns to order the pictures of a scene by a sentence.

A batch holds scenes: pictures of one task from one view. All pairs within a scene are compared (Bradley-Terry on the
scaled cosine, as a CLIP that is asked RL-VLM-F's question); a sentence of the opposite goal turns the answer round, and
one of another task has nothing to tell.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn
from torch.nn import functional as F

from vlmrl.judge.features import Seen, split
from vlmrl.loop import fit
from vlmrl.runfolder import Metrics
from vlmrl.tower import Tail

EQUAL = 0.02
"""Progress that differs by less is the same."""
DIFFERENT = 0.05
"""Progress that differs by more has a right answer."""
DIM = 128


@dataclass(frozen=True)
class Config:
    """How the judge is trained."""

    updates: int = 6000
    scenes: int = 16
    """Scenes in a batch."""
    pictures: int = 16
    """Of each scene."""
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 100
    slope: float = 8.0
    """Logits that a whole task's progress is worth: the judge is to be as sure as the pictures are apart, and to say
    one half of pairs of equal progress."""
    dropout: float = 0.2
    against_weight: float = 0.5
    wrong_weight: float = 0.05
    text_noise: float = 0.3
    """Length of noise on a sentence's unit vector: few sentences must stand for many."""
    logit_scale: float = 4.0
    """Logarithm of the first scale."""
    seed: int = 0


class Towers(nn.Module):
    """What is trained: the image tower's tail, both projections and the scale."""

    def __init__(self, tail: Tail, *, text_width: int, config: Config) -> None:
        super().__init__()
        self.tail = tail
        self.visual_projection = nn.Linear(256, DIM, bias=False)
        self.text_projection = nn.Linear(text_width, DIM, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale))

    def images(self, seen: Float[Tensor, "N K"]) -> Float[Tensor, "N D"]:
        """Unit vectors of pictures, from what the front saw."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = self.visual_projection(self.tail(*split(seen)))
        return F.normalize(found.float(), dim=-1)

    def texts(self, features: Float[Tensor, "P E"]) -> Float[Tensor, "P D"]:
        """Unit vectors of sentences, from the teacher's."""
        return F.normalize(self.text_projection(features), dim=-1)


@dataclass(frozen=True)
class Batch:
    """Scenes with a sentence that fits, one of the opposite goal, and one of another task, as the teacher's vectors."""

    seen: Float[Tensor, "GN K"]
    progress: Float[Tensor, "G N"]
    fits: Float[Tensor, "G E"]
    against: Float[Tensor, "G E"]
    has_against: Bool[Tensor, " G"]
    wrong: Float[Tensor, "G E"]


def phrases(sentence: str) -> tuple[str, ...]:
    """The ways in which people write a goal."""
    return (sentence, f"to {sentence}", f"{sentence[0].upper()}{sentence[1:]}.", f"the goal is to {sentence}")


def batches(
    tasks: Sequence[Seen], features: Mapping[str, Float32[np.ndarray, " E"]], config: Config
) -> Iterator[Batch]:
    """An endless stream; each task is drawn equally often."""
    generator = np.random.default_rng(config.seed)
    views = [[r for r in task.views() if np.ptp(task.progress[r]) > DIFFERENT] for task in tasks]

    def phrase(sentences: Sequence[str]) -> Float32[np.ndarray, " E"]:
        said = phrases(sentences[int(generator.integers(len(sentences)))])
        feature = features[said[int(generator.integers(len(said)))]]
        noise = generator.normal(0, config.text_noise / np.sqrt(len(feature)), len(feature))
        return (feature + noise).astype(np.float32)

    while True:
        chosen = generator.integers(len(tasks), size=config.scenes)
        seen: list[Float32[np.ndarray, "N K"]] = []
        progress: list[Float32[np.ndarray, " N"]] = []
        for i in map(int, chosen):
            rows = views[i][generator.integers(len(views[i]))]
            rows = np.sort(generator.choice(rows, config.pictures, replace=len(rows) < config.pictures))
            seen.append(tasks[i].features[rows].astype(np.float32))
            progress.append(tasks[i].progress[rows])
        lessons = [tasks[int(i)].lesson for i in chosen]
        others = [*lessons[1:], lessons[0]]
        yield Batch(
            torch.from_numpy(np.concatenate(seen)),
            torch.from_numpy(np.stack(progress)),
            torch.from_numpy(np.stack([phrase(x.sentences) for x in lessons])),
            torch.from_numpy(np.stack([phrase(x.against or x.sentences) for x in lessons])),
            torch.tensor([bool(x.against) for x in lessons]),
            torch.from_numpy(np.stack([phrase(x.sentences) for x in others])),
        )


def losses(towers: Towers, batch: Batch, config: Config) -> dict[str, Tensor]:
    """Cross entropy of which picture of each pair fits the sentence better."""
    count, pictures = batch.progress.shape
    images = towers.images(batch.seen).reshape(count, pictures, -1)
    first, second = torch.triu_indices(pictures, pictures, 1)
    gap = batch.progress[:, first] - batch.progress[:, second]
    decided = gap.abs() > DIFFERENT
    target = torch.sigmoid(config.slope * gap)

    def logits(features: Tensor) -> Tensor:
        score = towers.logit_scale.exp() * (images @ towers.texts(features)[..., None])[..., 0]
        return score[:, first] - score[:, second]

    def entropy(logit: Tensor, wanted: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logit, wanted, reduction="none").mean(1)

    fit_logits = logits(batch.fits)
    right = entropy(fit_logits, target).mean()
    turned = batch.has_against
    against = (entropy(logits(batch.against), 1 - target) * turned).sum() / turned.sum().clamp(min=1)
    wrong = entropy(logits(batch.wrong), torch.full_like(target, 0.5)).mean()
    total = right + config.against_weight * against + config.wrong_weight * wrong
    accuracy = (((fit_logits > 0) == (gap > 0)) & decided).sum() / decided.sum().clamp(min=1)
    return {"loss": total, "right": right, "against": against, "wrong": wrong, "accuracy": accuracy}


def train(
    tail: Tail,
    tasks: Sequence[Seen],
    features: Mapping[str, Float32[np.ndarray, " E"]],
    config: Config,
    *,
    metrics: Metrics,
    name: str,
) -> Towers:
    """Train on the tasks given."""
    torch.manual_seed(config.seed)
    width = len(next(iter(features.values())))
    towers = Towers(tail, text_width=width, config=config)
    towers.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.AdamW(towers.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: schedule(step, config))

    def update(batch: Batch) -> Mapping[str, Tensor]:
        found = losses(towers, batch, config)
        optimiser.zero_grad(set_to_none=True)
        found["loss"].backward()
        nn.utils.clip_grad_norm_(towers.parameters(), 1.0)
        optimiser.step()
        rate.step()
        return {key: value.detach() for key, value in found.items()}

    fit(update, batches(tasks, features, config), updates=config.updates, name=name, metrics=metrics, every=200)
    return towers.eval()


def schedule(step: int, config: Config) -> float:
    """Factor on the learning rate: linear warm-up, then a cosine to zero."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.updates - config.warmup)
    return 0.5 * (1 + float(np.cos(np.pi * min(1.0, done))))
