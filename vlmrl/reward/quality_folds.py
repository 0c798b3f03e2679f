"""How well a reward predicts pairs of episodes that it has never seen: trained anew on the other folds of episodes.

Pairs kept aside by pairs flatter: both of their sides show episodes that were trained on.
"""

import dataclasses
from typing import cast

import numpy as np

from vlmrl import config as configuration
from vlmrl.errors import ConfigError, DataError
from vlmrl.reward import preference
from vlmrl.reward.distill import distill
from vlmrl.reward.quality_pairs import Scored, scored
from vlmrl.reward.relabel import judge
from vlmrl.runfolder import Metrics
from vlmrl.store import Store
from vlmrl.types import Frame, Item, Preferences


def by_episodes(
    store: Store, labels: Preferences, reward: str, *, folds: int, metrics: Metrics, quiet: bool = False
) -> Scored:
    """Train the recipe of a reward column `folds` times, each on the pairs without a fold's episodes, and score the
    pairs that lie inside that fold.

    Pairs between a fold and the rest are in neither set: of n folds, one pair in n is scored.

    Raises:
        ConfigError: if the column was not distilled from preferences, or there are too few folds.
        DataError: if no pair lies inside a fold.
    """
    facts = store.rewards()[reward]
    if "config" not in facts or "seed" not in facts:
        raise ConfigError(f"folds={folds} trains a reward anew, but {reward!r} was not distilled from preferences")
    if not 2 <= folds <= len(store.episodes):
        raise ConfigError(f"folds is {folds}; wanted 2 to {len(store.episodes)}, the episodes")
    config = dataclasses.replace(configuration.build(preference.Config, facts["config"], where="reward"), holdout=0.0)
    seed, sides = int(facts["seed"]), _sides(store, labels)
    fold = np.random.default_rng([seed, 1]).permutation(len(store.episodes)) % folds
    found: list[Scored] = []
    for k in range(folds):
        inside = fold[sides] == k
        train, test = np.flatnonzero(~inside.any(0)), np.flatnonzero(inside.all(0))
        if not len(test):
            continue
        rewarder = distill(
            store,
            take(labels, train),
            config,
            camera=facts["camera"],
            seed=seed,
            metrics=metrics,
            name=f"fold {k + 1} of {folds}",
            quiet=quiet,
        )
        found.append(scored(store, judge(store, rewarder)[0], take(labels, test)))
    if not found:
        raise DataError(
            f"no labelled pair lies inside one of {folds} folds of the episodes: fewer folds, or more pairs"
        )
    return joined(found)


def joined(parts: list[Scored]) -> Scored:
    """The pairs of several folds."""
    names = [field.name for field in dataclasses.fields(Scored)]
    return Scored(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def take(labels: Preferences, which: np.ndarray) -> Preferences:
    """Some of the labels, under the name of all."""
    places = cast("list[int]", which.tolist())
    return dataclasses.replace(
        labels, a=tuple(labels.a[i] for i in places), b=tuple(labels.b[i] for i in places), p_a=labels.p_a[which]
    )


def _sides(store: Store, labels: Preferences) -> np.ndarray:
    """Place of the episode of each side, (2, Q); a clip counts where it begins."""

    def place(item: Item) -> int:
        return store.episodes.index(item.episode if isinstance(item, Frame) else item[0].episode)

    return np.array([[place(item) for item in side] for side in (labels.a, labels.b)], np.int64)
