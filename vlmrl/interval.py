"""An estimate with its interval, as every table prints it."""

from dataclasses import dataclass
from math import sqrt

from scipy.stats import norm

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval of level LEVEL."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def percent(self) -> str:
        """As percentages; what is next to none or all keeps the digit that says so."""
        estimate, low, high = (_percentage(share) for share in (self.estimate, self.low, self.high))
        return f"{estimate} % [{low}, {high}]"


def _percentage(share: float) -> str:
    whole = f"{100 * share:.0f}"
    return f"{100 * share:.1f}" if whole in ("0", "100") and round(share, 9) not in (0, 1) else whole


def wilson(successes: float | int, trials: int) -> Interval:
    """Wilson score interval of a rate (Wilson 1927)."""
    z, p = float(norm.ppf((1 + LEVEL) / 2)), successes / trials
    centre = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    # The ends are exact where nothing or everything succeeded, but for rounding.
    return Interval(p, 0.0 if p == 0 else centre - half, 1.0 if p == 1 else centre + half)


def wider(a: Interval, b: Interval) -> Interval:
    """The estimate of the first, and ends that hold both intervals."""
    return Interval(a.estimate, min(a.low, b.low), max(a.high, b.high))
