"""How a reward ranks rows and episodes: Pearson and rank correlation, Kendall's tau-b, success/failure AUROC.

All take `weights`, how often each episode counts in each draw (`reward.resample`), and give a value for each draw.
"""

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from scipy.stats import rankdata

from vlmrl.reward.resample import ratio, sums


def pearson(
    x: Float[np.ndarray, " N"],
    y: Float[np.ndarray, " N"],
    episode: Int64[np.ndarray, " N"],
    weights: Float64[np.ndarray, "D E"],
) -> Float64[np.ndarray, " D"]:
    """Pearson correlation of rows; NaN where either is constant."""
    # Centred and scaled first: the sums below lose digits where the mean is far from zero.
    x, y = standardised(x), standardised(y)
    columns = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1)
    return correlation(weights @ sums(columns, episode, weights.shape[1]))


def correlation(moments: Float64[np.ndarray, "D 6"]) -> Float64[np.ndarray, " D"]:
    """Pearson correlation from the sums of 1, x, y, x², y² and xy; NaN where either is constant."""
    n, sx, sy, sxx, syy, sxy = moments.T
    spread = (n * sxx - sx**2) * (n * syy - sy**2)
    found = ratio(n * sxy - sx * sy, np.sqrt(np.maximum(spread, 0)) * (spread > 1e-9 * n**4))
    return np.clip(found, -1, 1)


def ranks(x: Float[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """Place of each value among all; equal values share the middle of their places."""
    return rankdata(x)


def graded(x: Float[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """A truth in steps of a thousandth of its range: smaller differences are a simulator's rounding, not a ranking."""
    low, span = float(x.min()), float(np.ptp(x))
    return np.round((x - low) * 1000 / span) if span > 0 else np.zeros(len(x))


def kendall(
    x: Float[np.ndarray, " E"], y: Float[np.ndarray, " E"], weights: Float64[np.ndarray, "D E"]
) -> Float64[np.ndarray, " D"]:
    """Kendall's tau-b between two numbers of each episode (Kendall 1945); NaN where either is constant.

    An episode that is drawn twice makes no pair with itself.
    """
    signs_x, signs_y = (np.sign(v[:, None] - v[None, :]) for v in (x, y))

    def pairs(matrix: Float[np.ndarray, "E E"]) -> Float64[np.ndarray, " D"]:
        return ((weights @ matrix) * weights).sum(1)

    return ratio(pairs(signs_x * signs_y), np.sqrt(pairs(np.abs(signs_x)) * pairs(np.abs(signs_y))))


def auroc(
    score: Float[np.ndarray, " E"], positive: Bool[np.ndarray, " E"], weights: Float64[np.ndarray, "D E"]
) -> Float64[np.ndarray, " D"]:
    """Chance that a success scores above a failure, equal scores counting half; NaN without either."""
    won = score[positive][:, None] - score[~positive][None, :]
    above = (won > 0) + 0.5 * (won == 0)
    up, down = weights[:, positive], weights[:, ~positive]
    return ratio(((up @ above) * down).sum(1), up.sum(1) * down.sum(1))


def standardised(x: Float[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """Zero mean and unit deviation; zeros where all values are the same."""
    centred = x.astype(np.float64) - x.astype(np.float64).mean()
    spread = centred.std()
    # A spread that is rounding alone is none.
    scale = float(np.abs(x).max()) if len(x) else 0.0
    return centred / spread if spread > 1e-9 * scale else np.zeros_like(centred)
