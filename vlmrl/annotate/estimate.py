"""What a labeling job would take, from a few questions asked or, asking none, from the sizes of pictures and texts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from vlmrl.annotate.budget import Limits
from vlmrl.types import Cost

PIXELS = 28 * 28
"""One token, a patch of 28 by 28, as Qwen2-VL counts; other models take several times more or less."""
_LETTERS = 4
"""One token of English text, roughly."""


def guess_tokens(message: Sequence[str | int], pictures: Sequence[np.ndarray]) -> int:
    """Return about how many tokens a message takes; it may be wrong by several times."""
    letters = sum(len(part) for part in message if isinstance(part, str))
    shown = [pictures[part] for part in message if isinstance(part, int)]
    return letters // _LETTERS + sum(-(-p.shape[0] * p.shape[1] // PIXELS) for p in shown)


@dataclass(frozen=True)
class Amount:
    """A quantity of one question, and of all."""

    each: float
    total: float
    low: float
    """Of the total: the ends of its 95 % interval (Student's), equal where only one question was looked at."""
    high: float


@dataclass(frozen=True)
class Estimate:
    """What the questions that have no answer yet would take."""

    questions: int
    calls: Amount
    prompt_tokens: Amount
    completion_tokens: Amount
    usd: Amount
    seconds: Amount
    """At the limits' concurrency and the labeler's pace."""

    def stopped_by(self, limits: Limits) -> tuple[str, int]:
        """Return the limit that would end the job first, and after about how many questions; empty for none."""
        tokens = self.prompt_tokens.each + self.completion_tokens.each
        rate = self.seconds.total / self.questions if self.questions else 0.0
        caps = {
            "max_calls": (limits.max_calls, self.calls.each),
            "max_tokens": (limits.max_tokens, tokens),
            "max_cost_usd": (limits.max_cost_usd, self.usd.each),
            "max_seconds": (limits.max_seconds, rate),
        }
        fits = {name: math.floor(cap / each) for name, (cap, each) in caps.items() if cap is not None and each > 0}
        name = min(fits, key=fits.__getitem__, default="")
        return (name, fits[name]) if name and fits[name] < self.questions else ("", self.questions)


def estimate(
    costs: Sequence[Cost], questions: int, *, limits: Limits, per_minute: Sequence[tuple[float | None, str]] = ()
) -> Estimate:
    """Project what some questions took to so many.

    `per_minute` are a labeler's own limits, each of `calls` or `tokens`.
    """
    named = {
        name: _amount([float(getattr(cost, name)) for cost in costs], questions)
        for name in ("calls", "prompt_tokens", "completion_tokens", "usd")
    }
    latency = _amount([cost.latency_s for cost in costs], questions)
    tokens = named["prompt_tokens"].total + named["completion_tokens"].total
    used = {"calls": named["calls"].total, "tokens": tokens}
    least = max((used[what] / limit * 60 for limit, what in per_minute if limit), default=0.0)
    side = min(limits.concurrency, max(1, questions))
    seconds = Amount(latency.each, *(max(least, value / side) for value in (latency.total, latency.low, latency.high)))
    return Estimate(questions, **named, seconds=seconds)


def _amount(values: Sequence[float], questions: int) -> Amount:
    if not values:
        return Amount(0.0, 0.0, 0.0, 0.0)
    mean, spread = float(np.mean(values)), 0.0
    if len(values) > 1:
        spread = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Amount(mean, mean * questions, max(0.0, mean - spread) * questions, (mean + spread) * questions)
