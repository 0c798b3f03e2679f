"""The built-in judge examined: its answers about pairs of pictures it never saw, and what they are worth.

A pair is two pictures of one task from one view; the truth is the simulator's progress. Bins of equally many pairs by
the gap in progress are those of RL-VLM-F's figure (Wang et al. 2024, appendix).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int32, Int64
from scipy.special import expit

from vlmrl.annotate.judge import plain
from vlmrl.encoder import DualEncoder
from vlmrl.judge.curriculum import Lesson
from vlmrl.judge.dataset import STOCK
from vlmrl.judge.scenes import Pictures
from vlmrl.judge.train import DIFFERENT, EQUAL

KINDS = ("stock", "paper", "random")
"""Of views: Meta-World's cameras with the robot; the reference paper's without; random cameras, colours, lights."""
RESAMPLES = 300
_BINS = 10
_Estimate = dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """What the judge makes of all pairs of one task."""

    lesson: Lesson
    trained: bool
    """Whether the checkpoint was trained on the task."""
    temperature: float
    first: Int64[np.ndarray, " P"]
    """Row of the pictures."""
    second: Int64[np.ndarray, " P"]
    gap: Float32[np.ndarray, " P"]
    """Progress of the first beyond the second."""
    difference: Float32[np.ndarray, " P"]
    """Score of the first beyond the second."""
    kind: Int64[np.ndarray, " P"]
    """Place in `KINDS`."""
    episode: Int32[np.ndarray, " N"]

    @property
    def different(self) -> Bool[np.ndarray, " P"]:
        """Pairs that have a right answer."""
        return np.abs(self.gap) > DIFFERENT

    @property
    def probability(self) -> Float64[np.ndarray, " P"]:
        """That the first is the better."""
        return expit(self.difference.astype(np.float64) / self.temperature)


def trained_on(encoder: DualEncoder, sentence: str) -> bool:
    """Whether the checkpoint says that it was trained on a sentence."""
    return plain(sentence) in map(plain, encoder.facts.get("tasks_seen", ()))


def temperature(encoder: DualEncoder, sentence: str) -> float:
    """Difference worth one logit, as measured for sentences that were trained on, or for those that were not."""
    measured = encoder.facts.get("temperature", 1 / encoder.logit_scale)
    return float(measured if trained_on(encoder, sentence) else encoder.facts.get("temperature_unseen", measured))


def answers(
    encoder: DualEncoder, lesson: Lesson, pictures: Pictures, images: Float32[np.ndarray, "N D"], sentence: str
) -> Answers:
    """Compare all pairs of different pictures within each view by one sentence."""
    score: Float32[np.ndarray, " N"] = images @ encoder.texts([sentence])[0]
    views = [np.flatnonzero(pictures.view == v) for v in np.unique(pictures.view)]
    first, second = (np.concatenate(x) for x in zip(*[_pairs(rows) for rows in views], strict=True))
    same = (pictures.episode[first] == pictures.episode[second]) & (pictures.row[first] == pictures.row[second])
    first, second = first[~same], second[~same]
    kinds = np.array([KINDS.index(_kind(v)) for v in range(int(pictures.view.max()) + 1)])
    return Answers(
        lesson,
        trained_on(encoder, lesson.sentences[0]),
        temperature(encoder, sentence),
        first,
        second,
        pictures.progress[first] - pictures.progress[second],
        score[first] - score[second],
        kinds[pictures.view[first]],
        pictures.episode,
    )


def _pairs(rows: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    first, second = np.triu_indices(len(rows), 1)
    return rows[first], rows[second]


def _kind(view: int) -> str:
    if view >= len(STOCK):
        return "random"
    return "paper" if STOCK[view] == "paper" else "stock"


def credit(difference: Float[np.ndarray, " P"], gap: Float[np.ndarray, " P"]) -> Float64[np.ndarray, " P"]:
    """1 for a right answer, 0 for a wrong one, one half where the scores are equal (a coin would be right as often)."""
    return (1 + np.sign(difference).astype(np.float64) * np.sign(gap)) / 2


def accuracy(parts: Sequence[Answers], kind: str = "") -> _Estimate:
    """Mean over tasks of the share of right answers, with a 95 % interval: episodes of each task are drawn anew.

    A pair of two episodes counts as often as the product of their counts; one within an episode as often as it.
    """
    generator = np.random.default_rng(0)
    found = [_counts(part, kind) for part in parts]
    found = [(right, total) for right, total in found if total.sum()]
    if not found:
        return {"accuracy": None, "low": None, "high": None, "pairs": 0, "tasks": 0}
    replicates = np.stack([_replicates(right, total, generator) for right, total in found])
    low, high = np.nanquantile(np.nanmean(replicates, axis=0), [0.025, 0.975])
    return {
        "accuracy": float(np.mean([right.sum() / total.sum() for right, total in found])),
        "low": float(low),
        "high": float(high),
        "pairs": int(sum(total.sum() for _, total in found)),
        "tasks": len(found),
    }


def _counts(part: Answers, kind: str) -> tuple[Float64[np.ndarray, "E E"], Float64[np.ndarray, "E E"]]:
    """Right answers and pairs by the episodes of both pictures."""
    keep = part.different if not kind else part.different & (part.kind == KINDS.index(kind))
    count = int(part.episode.max()) + 1
    cell = part.episode[part.first[keep]] * count + part.episode[part.second[keep]]
    right = np.bincount(cell, weights=credit(part.difference[keep], part.gap[keep]), minlength=count**2)
    total = np.bincount(cell, minlength=count**2).astype(np.float64)
    # NumPy counts nothing in whole numbers, whatever the weights.
    return right.astype(np.float64).reshape(count, count), total.reshape(count, count)


def _replicates(
    right: Float64[np.ndarray, "E E"], total: Float64[np.ndarray, "E E"], generator: np.random.Generator
) -> Float64[np.ndarray, " R"]:
    present = np.flatnonzero(total.sum(0) + total.sum(1))
    drawn = generator.multinomial(len(present), np.full(len(present), 1 / len(present)), size=RESAMPLES)
    weight = (drawn[:, :, None] * drawn[:, None, :]).astype(np.float64)
    same = np.arange(len(present))
    weight[:, same, same] = drawn
    cells = np.ix_(present, present)
    pairs = np.einsum("rij,ij->r", weight, total[cells])
    found = np.full(RESAMPLES, right.sum() / total.sum())
    return np.divide(np.einsum("rij,ij->r", weight, right[cells]), pairs, out=found, where=pairs > 0)


def deciles(parts: Sequence[Answers]) -> list[dict[str, float]]:
    """Accuracy over ten bins of equally many pairs (one more in the first where they do not divide), by the gap."""
    gap = np.concatenate([part.gap for part in parts])
    right = credit(np.concatenate([part.difference for part in parts]), gap)
    size = np.abs(gap)
    order = np.argsort(size, kind="stable")
    order = order[size[order] > 0]
    return [
        {
            "low": float(size[rows[0]]),
            "high": float(size[rows[-1]]),
            "accuracy": float(right[rows].mean()),
            "pairs": len(rows),
        }
        for rows in np.array_split(order, _BINS)
        if len(rows)
    ]


def calibration(parts: Sequence[Answers]) -> Mapping[str, Any]:
    """How often the named side is right, by how sure it is; ECE is the mean distance of the two over pairs."""
    keep = [part.different for part in parts]
    p = np.concatenate([part.probability[k] for part, k in zip(parts, keep, strict=True)])
    right = np.concatenate([credit(part.difference[k], part.gap[k]) for part, k in zip(parts, keep, strict=True)])
    sure = np.maximum(p, 1 - p)
    place = np.minimum(((sure - 0.5) * 2 * _BINS).astype(int), _BINS - 1)
    bins = [
        {"sure": float(sure[rows].mean()), "accuracy": float(right[rows].mean()), "pairs": int(rows.sum())}
        for rows in (place == k for k in range(_BINS))
        if rows.any()
    ]
    distance = sum(b["pairs"] * abs(b["sure"] - b["accuracy"]) for b in bins)
    return {"bins": bins, "ece": distance / len(p) if len(p) else None, "pairs": len(p)}


def verdicts(parts: Sequence[Answers], threshold: float) -> Mapping[str, Any]:
    """What the threshold does: the share decided and its accuracy, and preferences invented between equals."""
    p = np.concatenate([part.probability for part in parts])
    gap = np.concatenate([part.gap for part in parts])
    right = credit(np.concatenate([part.difference for part in parts]), gap)
    named = (p != 0.5) & (np.maximum(p, 1 - p) >= threshold)
    different, equal = np.abs(gap) > DIFFERENT, np.abs(gap) < EQUAL
    return {
        "pairs": int(different.sum()),
        "decided": share(named[different]),
        "accuracy": share(right[different & named]),
        "equal_pairs": int(equal.sum()),
        "invented": share(named[equal]),
    }


def share(values: Float64[np.ndarray, " P"] | Bool[np.ndarray, " P"]) -> float | None:
    """Mean, or None of nothing."""
    return float(values.mean()) if len(values) else None
