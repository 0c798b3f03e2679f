"""Losses of a preference reward: what the difference of two scores pays for a label.

Each takes the difference d = score(a) - score(b), the label's probability p that a is better (1, 0, 0.5 for a tie, or
the labeler's own), and the rate e at which that labeler's answers are flipped. In all of them a tie pulls towards
indifference, and swapping the sides with the label changes nothing. l(p) = -p log sigmoid(d) - (1 - p) log sigmoid(-d).
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmrl.errors import unknown

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def bradley_terry(
    difference: Float[Tensor, "..."], p_a: Float[Tensor, "..."], flip: Float[Tensor, "..."] | None = None
) -> Float[Tensor, "..."]:
    """l(p), the cross-entropy (Bradley and Terry 1952); the flip rate is not used."""
    del flip
    return nn.functional.binary_cross_entropy_with_logits(difference, p_a, reduction="none")


def smoothed(
    difference: Float[Tensor, "..."], p_a: Float[Tensor, "..."], flip: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """(1 - e) l(p) + e l(1 - p): label smoothing, conservative DPO's form (Mitchell 2023). Bounds d at log(1/e - 1)."""
    return bradley_terry(difference, (1 - flip) * p_a + flip * (1 - p_a))


def robust(
    difference: Float[Tensor, "..."], p_a: Float[Tensor, "..."], flip: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """((1 - e) l(p) - e l(1 - p)) / (1 - 2 e): its mean over flips is the true label's loss (Chowdhury et al. 2024).

    Not bounded below: a network that can learn single pairs by heart gains without end from each.
    """
    kept, flipped = bradley_terry(difference, p_a), bradley_terry(difference, 1 - p_a)
    return ((1 - flip) * kept - flip * flipped) / (1 - 2 * flip)


def channel(
    difference: Float[Tensor, "..."], p_a: Float[Tensor, "..."], flip: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """-p log q - (1 - p) log(1 - q), q = (1 - e) sigmoid(d) + e sigmoid(-d): the label seen through flips.

    Forward correction (Patrini et al. 2017). Flips do not move its best network, and what a pair pays is bounded: one
    that contradicts all others is taken for a flip at a cost of at most -log e. A tie pays for both answers.
    """
    kept, flipped = torch.log1p(-flip), torch.log(flip)
    for_a, for_b = nn.functional.logsigmoid(difference), nn.functional.logsigmoid(-difference)
    a, b = torch.logaddexp(kept + for_a, flipped + for_b), torch.logaddexp(flipped + for_a, kept + for_b)
    return -(p_a * a + (1 - p_a) * b)


def confidence(
    difference: Float[Tensor, "..."], p_a: Float[Tensor, "..."], flip: Float[Tensor, "..."] | None = None
) -> Float[Tensor, "..."]:
    """|2 p - 1| l(p > 1/2), and l(1/2) for a tie: a labeler's doubt weighs its answer down instead of softening it."""
    del flip
    weight = torch.where(p_a == 0.5, torch.ones_like(p_a), (2 * p_a - 1).abs())
    return weight * bradley_terry(difference, torch.where(p_a == 0.5, p_a, (p_a > 0.5).to(p_a.dtype)))


def absolute(
    difference: Float[Tensor, "..."], p_a: Float[Tensor, "..."], flip: Float[Tensor, "..."] | None = None
) -> Float[Tensor, "..."]:
    """|sigmoid(d) - p|: the median of the answers that a pair would get, where the other losses take their mean.

    As long as fewer than half of its answers would be wrong the median is the right one, at whatever rate, and where
    most pairs are ties it is exactly a tie: no rate is needed, and none is estimated. A label that contradicts all
    others soon costs no gradient, which is also why it learns slowly where labels are few (Ghosh, Kumar and Sastry
    2017, "Robust loss functions under label noise for deep neural networks").
    """
    del flip
    return (torch.sigmoid(difference) - p_a).abs()


LOSSES: Mapping[str, Loss] = {
    "absolute": absolute,
    "bradley_terry": bradley_terry,
    "channel": channel,
    "confidence": confidence,
    "robust": robust,
    "smoothed": smoothed,
    "votes": bradley_terry,
}
"""`votes` is Bradley-Terry on labels that the ensemble has voted on before (`vlmrl.reward.noise`)."""

FLIPS = ("channel", "robust", "smoothed")
"""Losses that need a flip rate."""


def pick(name: str) -> Loss:
    """The loss of a name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    return LOSSES[name]
