"""How many initial states an answer needs, before the first episode is run."""

from collections.abc import Callable
from math import ceil, sqrt

from scipy.stats import norm

from vlmrl.errors import ConfigError
from vlmrl.evaluate import sequential
from vlmrl.interval import LEVEL, wilson

MOST = 1_000_000
"""Episodes beyond which the answer is that simulation is not the way."""


def for_margin(rate: float, margin: float) -> int:
    """Fewest episodes from which Wilson's interval reaches no farther than `margin` from a rate."""
    _check(rate, margin)

    def enough(n: int) -> bool:
        found = wilson(rate * n, n)
        return max(found.high - rate, rate - found.low) <= margin

    return _first(enough)


def sequentially(rate: float, margin: float) -> int:
    """Episodes after which an evaluation that may stop at any time stops, where outcomes come as expected."""
    _check(rate, margin)
    return _first(lambda n: sequential.half_width(sequential.rate(round(rate * n), n)) <= margin)


def for_difference(rate: float, versus: float, *, power: float = 0.8, correlation: float = 0.0) -> int:
    """Initial states on which two policies must be compared to tell their rates apart.

    McNemar's test at level 1 - LEVEL, two-sided (Connor 1987). `correlation` is that of the two outcomes over initial
    states: states that are hard for both make it positive and the comparison cheaper.

    Raises:
        ConfigError: if the rates are equal, or outcomes of these rates cannot have this correlation.
    """
    if not (0 <= rate <= 1 and 0 <= versus <= 1 and rate != versus and 0 < power < 1):
        raise ConfigError(
            f"two different rates from 0 to 1 and a power between wanted, found {rate}, {versus}, {power}"
        )
    both = rate * versus + correlation * sqrt(rate * (1 - rate) * versus * (1 - versus))
    if not max(0.0, rate + versus - 1) - 1e-12 <= both <= min(rate, versus) + 1e-12:
        raise ConfigError(f"outcomes of rates {rate} and {versus} cannot have a correlation of {correlation}")
    discordant, gap = rate + versus - 2 * both, abs(rate - versus)
    z, strength = float(norm.ppf((1 + LEVEL) / 2)), float(norm.ppf(power))
    return ceil((z * sqrt(discordant) + strength * sqrt(max(0.0, discordant - gap**2))) ** 2 / gap**2)


def _check(rate: float, margin: float) -> None:
    if not (0 <= rate <= 1 and 0 < margin < 1):
        raise ConfigError(f"a rate from 0 to 1 and a margin between them wanted, found {rate} and {margin}")


def _first(enough: Callable[[int], bool]) -> int:
    """The smallest number from which on it is enough, where more never hurts but for rounding."""
    high = 1
    while not enough(high):
        high *= 2
        if high > MOST:
            raise ConfigError(f"more than {MOST:,} episodes would be needed; ask for a wider margin")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
