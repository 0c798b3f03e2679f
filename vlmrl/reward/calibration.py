"""How sure an ensemble should be: members are pooled, then calibrated (Guo et al. 2017; Rahaman and Thiery 2021).

The mean of the members' probabilities is more modest than each of them, and may be too modest.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

RANGE = (0.05, 20.0)
ENOUGH = 30
"""Pairs that are no ties, with fewer of which a temperature is chance: three that are right ask for the lowest."""


def pooled(difference: Float[np.ndarray, "Q members"]) -> Float64[np.ndarray, " Q"]:
    """Probability that a is better: mean over members of sigmoid(score(a) - score(b)), kept from 0 and 1."""
    return np.clip(expit(difference.astype(np.float64)).mean(1), 1e-12, 1 - 1e-12)


def calibrated(p: Float64[np.ndarray, " Q"], temperature: float) -> Float64[np.ndarray, " Q"]:
    """sigmoid(logit(p) / temperature)."""
    return expit(logit(p) / temperature)


def temperature(p: Float64[np.ndarray, " Q"], p_a: Float[np.ndarray, " Q"]) -> float:
    """The temperature of least log-loss on pairs that no member was trained on; above 1 the ensemble was too sure.

    1 where they are fewer than `ENOUGH`.
    """
    if (p_a != 0.5).sum() < ENOUGH:
        return 1.0

    def log_loss(log: float) -> float:
        q = np.clip(calibrated(p, float(np.exp(log))), 1e-9, 1 - 1e-9)
        return float(-(p_a * np.log(q) + (1 - p_a) * np.log(1 - q)).mean())

    found: Any = minimize_scalar(log_loss, bounds=tuple(np.log(RANGE)), method="bounded")
    return float(np.exp(found.x))
