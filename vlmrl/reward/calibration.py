"""How sure an ensemble should be: the temperature that makes its probabilities mean what they say (Guo et al. 2017)."""

from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from scipy.optimize import minimize_scalar

RANGE = (0.05, 20.0)


def probability(difference: Float[np.ndarray, "Q members"], temperature: float = 1.0) -> Float64[np.ndarray, " Q"]:
    """That a is better: the mean over members of sigmoid(difference / temperature)."""
    return (1 / (1 + np.exp(-np.clip(difference.astype(np.float64) / temperature, -500, 500)))).mean(1)


def temperature(difference: Float[np.ndarray, "Q members"], p_a: Float[np.ndarray, " Q"]) -> float:
    """The temperature of least log-loss on pairs that the ensemble was not trained on; above 1 it was too sure."""

    def log_loss(log: float) -> float:
        p = np.clip(probability(difference, float(np.exp(log))), 1e-9, 1 - 1e-9)
        return float(-(p_a * np.log(p) + (1 - p_a) * np.log(1 - p)).mean())

    found: Any = minimize_scalar(log_loss, bounds=tuple(np.log(RANGE)), method="bounded")
    return float(np.exp(found.x))
