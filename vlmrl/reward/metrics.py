"""How good a preference reward is on labelled pairs it has not seen."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Float32
from scipy.special import expit

from vlmrl.annotate.audit import calibration_error


def held_out(
    members_a: Float32[np.ndarray, "Q M"], members_b: Float32[np.ndarray, "Q M"], p_a: Float32[np.ndarray, " Q"]
) -> Mapping[str, float]:
    """Accuracy, log-loss, calibration and disagreement of an ensemble on labelled pairs.

    Accuracy and calibration are over pairs that are no ties, and absent where all are; the ensemble's probability is
    the mean of its members'.
    """
    probabilities = expit(members_a.astype(np.float64) - members_b)
    p = probabilities.mean(1)
    clear = p_a != 0.5
    right = (p > 0.5) == (p_a > 0.5)
    found = {
        "pairs": float(len(p_a)),
        "ties": float((~clear).sum()),
        "log_loss": float(-(p_a * np.log(p + 1e-9) + (1 - p_a) * np.log(1 - p + 1e-9)).mean()),
        "disagreement": float(probabilities.std(1).mean()),
    }
    if clear.any():
        found["accuracy"] = float(right[clear].mean())
        found["calibration_error"] = calibration_error(np.maximum(p, 1 - p)[clear], right[clear])
    return found


def spearman(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> float:
    """Rank correlation; NaN where either is constant."""
    from scipy.stats import spearmanr

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.asarray(spearmanr(x, y))[0])
