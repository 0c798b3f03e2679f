"""How far a sleeve is on an arm: where the arm's axis passes through the sleeve's rim.

The rim is a closed loop, the arm a line of joints that ends at the fingertips and goes on behind the shoulder. Whether
the loop is around the line is the net number of times the line crosses a surface that the loop spans; which surface
does not matter, so the loop may be bent or folded. A sleeve pulled along beside the arm is never around it.
"""

import numpy as np
from jaxtyping import Float64

_BEHIND_M = 1.0
"""How far the line goes on behind the shoulder, straight."""

_OFF_M = np.array([1.1e-9, 1.7e-9, 2.3e-9])


def passes_at(rim: Float64[np.ndarray, "V 3"], arm: Float64[np.ndarray, "J 3"]) -> float:
    """Return the length of the arm from its first joint to where it passes through the rim, m; -1 if it does not.

    Where it passes several times, forth and back, the crossings count by their sense.
    """
    behind = arm[-1] + _BEHIND_M * (arm[-1] - arm[-2]) / np.linalg.norm(arm[-1] - arm[-2])
    line = np.vstack([arm, behind])
    lengths = np.linalg.norm(np.diff(line, axis=0), axis=1)
    crossing, sense = _crossings(rim, line)
    net = sense.sum()
    if net == 0:
        return -1.0
    begins = np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    along = begins[:, None] + crossing * lengths[:, None]
    return float((sense * along).sum() / net)


def _crossings(
    rim: Float64[np.ndarray, "V 3"], line: Float64[np.ndarray, "J 3"]
) -> tuple[Float64[np.ndarray, "S V"], Float64[np.ndarray, "S V"]]:
    """Where each segment crosses each triangle of rim and centroid (0 begin, 1 end), and its sense (0: not at all)."""
    # Any surface will do; a line through the very tip of this one would be missed.
    centre = rim.mean(axis=0) + _OFF_M
    first = rim - centre
    second = np.concatenate([first[1:], first[:1]])
    normal = _cross(first, second)
    begin, step = line[:-1] - centre, np.diff(line, axis=0)
    slant = step @ normal.T
    # A triangle without area, or edge-on, is not crossed.
    at = -(begin @ normal.T) / np.where(slant == 0, 1.0, slant)
    point = begin[:, None] + at[..., None] * step[:, None]
    area = np.maximum((normal**2).sum(axis=1), 1e-30)
    u = (_cross(point, second) * normal).sum(axis=2) / area
    v = (_cross(first, point) * normal).sum(axis=2) / area
    inside = (slant != 0) & (at >= 0) & (at < 1) & (u >= 0) & (v >= 0) & (u + v < 1)
    return np.where(inside, at, 0.0), np.where(inside, np.sign(slant), 0.0)


def _cross(a: Float64[np.ndarray, "*N 3"], b: Float64[np.ndarray, "*M 3"]) -> Float64[np.ndarray, "*K 3"]:
    """NumPy's own takes ten times as long on few vectors."""
    x, y, z = a[..., 0], a[..., 1], a[..., 2]
    p, q, r = b[..., 0], b[..., 1], b[..., 2]
    return np.stack([y * r - z * q, z * p - x * r, x * q - y * p], axis=-1)
