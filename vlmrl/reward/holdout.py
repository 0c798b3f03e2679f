"""Which labelled pairs a reward keeps aside from its training: one rule, so that it can be told again afterwards."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64

from vlmrl.types import Preferences


def places(
    count: int, share: float, *, generator: np.random.Generator
) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]:
    """Places of the training pairs and of those kept aside (by pairs: both may show the same episodes)."""
    order = generator.permutation(count)
    held = round(share * count)
    return order[held:], order[:held]


def kept_aside(
    labels: Preferences, attributes: Mapping[str, Any]
) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]] | None:
    """Training and held-out places of the labels that a reward column was distilled from.

    None where the column tells of other labels, kept whole episodes aside, or its own report of what it kept aside
    does not fit.
    """
    facts = attributes.get("held_out", {})
    if attributes.get("config", {}).get("holdout_by", "pairs") != "pairs":
        return None
    if attributes.get("snapshot") != labels.snapshot or not facts.get("pairs"):
        return None
    generator = np.random.default_rng(int(attributes["seed"]))
    train, held = places(len(labels), float(attributes["config"]["holdout"]), generator=generator)
    ties = int((labels.p_a[held] == 0.5).sum())
    return (train, held) if (len(held), ties) == (int(facts["pairs"]), int(facts["ties"])) else None
