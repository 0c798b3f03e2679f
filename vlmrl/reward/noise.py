"""Which labels are suspicious: the votes of members that have not been trained on them.

Members learn on bootstraps, so each pair is new to about a third of them (out of bag). A member that has seen a pair
may have learned its label by heart, and says nothing about it.
"""

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import expit

MOST = 0.45
"""At one half labels say nothing, and the robust loss divides by zero."""


def out_of_bag(
    difference: Float64[np.ndarray, "Q members"], bootstrap: Float64[np.ndarray, "Q members"]
) -> Float64[np.ndarray, " Q"]:
    """Probability that a is better: mean over the members that have not seen the pair, NaN where all have."""
    unseen = bootstrap == 0
    return np.where(unseen.any(1), (expit(difference) * unseen).sum(1) / np.maximum(unseen.sum(1), 1), np.nan)


def flip_rates(
    votes: Float64[np.ndarray, " Q"],
    p_a: Float64[np.ndarray, " Q"],
    annotator: Int64[np.ndarray, " Q"],
    rates: Float64[np.ndarray, " K"],
) -> Float64[np.ndarray, " K"]:
    """One step of expectation maximisation of each annotator's flip rate (Dawid and Skene 1979, two classes).

    A label that the votes give probability q is flipped with probability e (1 - q) / ((1 - e) q + e (1 - q)); the new
    rate is the mean over the annotator's labels. Ties, and pairs without votes, say nothing.
    """
    q, e = np.where(p_a > 0.5, votes, 1 - votes), rates[annotator]
    flipped = e * (1 - q) / ((1 - e) * q + e * (1 - q))
    said = (p_a != 0.5) & ~np.isnan(votes)
    count = np.bincount(annotator[said], minlength=len(rates))
    total = np.bincount(annotator[said], flipped[said], minlength=len(rates))
    return np.minimum(np.where(count > 0, total / np.maximum(count, 1), rates), MOST)


def revised(votes: Float64[np.ndarray, " Q"], p_a: Float64[np.ndarray, " Q"]) -> Float64[np.ndarray, " Q"]:
    """Labels after the vote, after Wang et al. 2024 (Secrets of RLHF II).

    A label that the votes contradict takes their probability: it is softened where they are divided, flipped where they
    are sure. The others stay as they are.
    """
    against = ~np.isnan(votes) & ((votes - 0.5) * (p_a - 0.5) < 0)
    return np.where(against, votes, p_a)
