"""`vlmrl judge card`: examines a checkpoint on the test split and writes figures, tables and pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from tqdm import tqdm

from vlmrl.encoder import DualEncoder
from vlmrl.errors import DataError
from vlmrl.judge import dataset
from vlmrl.judge.card_pictures import draw_deciles, draw_pairs
from vlmrl.judge.card_text import markdown
from vlmrl.judge.curriculum import Lesson, lessons
from vlmrl.judge.exam import KINDS, Answers, accuracy, answers, calibration, deciles, verdicts
from vlmrl.judge.scenes import Pictures
from vlmrl.judge.stress import Found, macro, stress
from vlmrl.runfolder import write_json

GROUPS = {"held out": False, "trained on": True}


@dataclass(frozen=True)
class CardConfig:
    """Whom to examine, and where things are."""

    checkpoint: str = "seen"
    """`seen`, `zeroshot`, or any other dual encoder's folder or hub id."""
    pictures: str = "runs/judge"
    """Folder that `vlmrl judge pictures` filled."""
    out: str = "docs/judge"
    device: str = "cpu"


def main(config: CardConfig) -> Path:
    """Examine a checkpoint and return the card.

    Raises:
        DataError: if pictures are missing.
    """
    folder, out = Path(config.pictures), Path(config.out)
    table = list(lessons().values())
    missing = [x.name for x in table if not dataset.path(folder, x.name, "test").is_file()]
    if missing:
        lacking = f"no test pictures of {len(missing)} tasks in {folder}, first {missing[0]}"
        raise DataError(f"{lacking}: vlmrl judge pictures out={folder} makes them")
    encoder = DualEncoder.load(config.checkpoint, device=config.device)
    exam = examine(encoder, table, lambda x: dataset.load(folder, x.name, "test"))
    name = encoder.name.removeprefix("judge ").replace("/", "-")
    write_json(out / f"{name}.json", exam.figures)
    draw_deciles(exam.figures, out / f"{name}-deciles.png")
    draw_pairs(exam.parts, lambda x: dataset.load(folder, x.name, "test"), out / f"{name}-pairs.png")
    path = out / f"{name}.md"
    path.write_text(markdown(exam.figures, name), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Exam:
    """What came out."""

    figures: Mapping[str, Any]
    parts: Sequence[Answers]


def examine(encoder: DualEncoder, table: Sequence[Lesson], load: Callable[[Lesson], Pictures]) -> Exam:
    """Ask about the test pictures of every task."""
    threshold = float(encoder.facts.get("threshold", 0.5))
    parts: list[Answers] = []
    stressed: list[Found] = []
    count, episodes = 0, set[int]()
    for lesson in tqdm(table, desc=f"examining {encoder.name}", unit="task", dynamic_ncols=True):
        pictures = load(lesson)
        images: Float32[np.ndarray, "N D"] = encoder.images(pictures.pixels)
        parts.append(answers(encoder, lesson, pictures, images, lesson.sentences[0]))
        stressed.append(stress(encoder, lesson, table, pictures, images, threshold))
        count += len(images)
        episodes.add(len(np.unique(pictures.episode)))
    figures = {
        "checkpoint": encoder.name,
        "fingerprint": encoder.fingerprint,
        "trained_on": encoder.facts.get("trained_on", ""),
        "calibrated": "temperature" in encoder.facts,
        "temperature": {name: t[0] for name, flag in GROUPS.items() if (t := _temperatures(parts, flag))},
        "threshold": threshold,
        "pictures": count,
        "episodes": min(episodes),
        "tasks": {x.lesson.name: _task(x) for x in parts},
        "groups": {name: group for name, flag in GROUPS.items() if (group := _group(parts, stressed, threshold, flag))},
    }
    return Exam(figures, parts)


def _temperatures(parts: Sequence[Answers], trained: bool) -> list[float]:
    return [x.temperature for x in parts if x.trained == trained]


def _task(part: Answers) -> dict[str, Any]:
    return {
        "sentence": part.lesson.sentences[0],
        "trained": part.trained,
        "all": accuracy([part]),
        **{kind: accuracy([part], kind) for kind in KINDS},
    }


def _group(
    parts: Sequence[Answers], stressed: Sequence[Found], threshold: float, trained: bool
) -> dict[str, Any] | None:
    chosen = [x for x in parts if x.trained == trained]
    if not chosen:
        return None
    return {
        "tasks": len(chosen),
        "accuracy": {"all": accuracy(chosen), **{kind: accuracy(chosen, kind) for kind in KINDS}},
        "deciles": deciles(chosen),
        "calibration": calibration(chosen),
        "verdicts": verdicts(chosen, threshold),
        "stress": macro([s for x, s in zip(parts, stressed, strict=True) if x.trained == trained]),
    }
