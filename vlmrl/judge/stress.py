"""The judge under stress: blank pictures, wrong and opposite sentences, changed colours, mirrors and light."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float32
from scipy.special import expit

from vlmrl.annotate.alter import alter
from vlmrl.encoder import DualEncoder
from vlmrl.judge.curriculum import Lesson
from vlmrl.judge.exam import Answers, answers, credit, share, temperature
from vlmrl.judge.scenes import Pictures

ALTERED = ("as they are", "channels shuffled", "mirrored", "darker", "brighter")
_EVERY = 4
"""Every fourth episode is looked at once more, altered."""
Found = Mapping[str, float | None]


def stress(
    encoder: DualEncoder,
    lesson: Lesson,
    table: Sequence[Lesson],
    pictures: Pictures,
    images: Float32[np.ndarray, "N D"],
    threshold: float,
) -> Found:
    """Put one task to every test; where a task has no opposite or no other wording, the answer is None."""

    def ask(sentence: str) -> Answers:
        return answers(encoder, lesson, pictures, images, sentence)

    own, wrong = ask(lesson.sentences[0]), ask(unrelated(lesson, table).sentences[0])
    reworded, opposite = [ask(s) for s in lesson.sentences[1:]], [ask(s) for s in lesson.against]
    return {
        "own sentence decided": _decided(own, threshold),
        "own sentence sureness": _sureness(own),
        "wrong sentence decided": _decided(wrong, threshold),
        "wrong sentence sureness": _sureness(wrong),
        "reworded accuracy": _mean([_accuracy(x) for x in reworded]),
        "opposite accuracy": _mean([_accuracy(replace(x, gap=-x.gap)) for x in opposite]),
        **_blank(encoder, lesson, pictures, images, threshold),
        **_altered(encoder, lesson, pictures),
        "order swapped: p off by": _swapped(encoder, lesson, pictures),
    }


def unrelated(lesson: Lesson, table: Sequence[Lesson]) -> Lesson:
    """Return the lesson half the table away, or the next that shares no sentence with this one."""
    names = [x.name for x in table]
    start = names.index(lesson.name) + len(table) // 2
    mine = {*lesson.sentences, *lesson.against}
    around = [table[(start + k) % len(table)] for k in range(len(table))]
    return next(x for x in around if not mine & {*x.sentences, *x.against})


def macro(found: Sequence[Found]) -> dict[str, dict[str, float | int | None]]:
    """Mean over the tasks that have an answer, and how many those are."""
    keys = found[0] if found else ()
    values = {key: [v for f in found if (v := f[key]) is not None] for key in keys}
    return {key: {"mean": _mean(v), "tasks": len(v)} for key, v in values.items()}


def _altered(encoder: DualEncoder, lesson: Lesson, pictures: Pictures) -> Found:
    some = pictures.episode % _EVERY == 0
    fewer = Pictures(**{name: value[some] for name, value in vars(pictures).items()})
    found: dict[str, float | None] = {}
    for how in ALTERED:
        images = encoder.images(alter(fewer.pixels, how))
        found[f"accuracy, pictures {how}"] = _accuracy(answers(encoder, lesson, fewer, images, lesson.sentences[0]))
    return found


def _swapped(encoder: DualEncoder, lesson: Lesson, pictures: Pictures) -> float:
    """Largest |p(a, b) + p(b, a) - 1| over neighbours, where each order is asked in another batch."""
    some = pictures.pixels[:64]
    text, t = encoder.texts([lesson.sentences[0]])[0], temperature(encoder, lesson.sentences[0])
    forth, back = np.diff(encoder.images(some) @ text), np.diff(encoder.images(some[::-1]) @ text)[::-1]
    return float(np.abs(expit(forth.astype(np.float64) / t) + expit(back.astype(np.float64) / t) - 1).max())


def _blank(
    encoder: DualEncoder, lesson: Lesson, pictures: Pictures, images: Float32[np.ndarray, "N D"], threshold: float
) -> Found:
    """Blank pictures against real ones and each other; all of a side, black, grey and white in turn."""
    shape = (1, *pictures.pixels.shape[1:])
    blank = encoder.images(np.concatenate([np.full(shape, level, np.uint8) for level in (0, 128, 255) * 2]))
    text, t = encoder.texts([lesson.sentences[0]])[0], temperature(encoder, lesson.sentences[0])
    levels, again = np.split(blank @ text, 2)
    p = expit((levels[None] - (images @ text)[:, None]).astype(np.float64).ravel() / t)
    return {
        "one side blank: blank preferred": float(credit(p - 0.5, np.ones_like(p)).mean()),
        "one side blank: blank named": float(((p != 0.5) & (p >= threshold)).mean()),
        "one side blank: p of blank": float(p.mean()),
        "both sides alike blank: sureness": float(np.abs(expit((levels - again).astype(np.float64) / t) - 0.5).max()),
        "black against white: sureness": float(abs(expit(float(levels[0] - levels[2]) / t) - 0.5)),
    }


def _accuracy(found: Answers) -> float | None:
    return share(credit(found.difference, found.gap)[found.different])


def _decided(found: Answers, threshold: float) -> float | None:
    p = found.probability[found.different]
    return share((p != 0.5) & (np.maximum(p, 1 - p) >= threshold))


def _sureness(found: Answers) -> float | None:
    """Mean distance of the probability from one half."""
    return share(np.abs(found.probability[found.different] - 0.5))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
