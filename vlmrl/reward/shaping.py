"""Operations on reward columns: each writes a new column, whose attributes hold every number that it used.

`SHAPINGS` names them; `shape` applies one. Deviations are carried along to first order, as if rows erred independently.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from vlmrl.errors import ConfigError, unknown
from vlmrl.runfolder import commit
from vlmrl.store import Store


@dataclass(frozen=True)
class Config:
    """One operation on one column."""

    operation: str = ""
    """pessimism, standardise, since_start, bounded, difference or potential."""
    reward: str = ""
    """Column that it is applied to."""
    out: str = ""
    """Name of the new column."""
    amount: float = 1.0
    """pessimism: how many deviations are taken off the mean."""
    references: int = 20
    """bounded: how many quantiles of the column a reward is compared with."""
    base: str = ""
    """potential: the column that is shaped; empty: zero everywhere."""
    discount: float = 0.99
    """potential: that of the learner."""


@dataclass(frozen=True)
class Column:
    """A reward over all rows of a store, with what an operation must know of the rows."""

    mean: Float64[np.ndarray, " N"]
    std: Float64[np.ndarray, " N"]
    first: Bool[np.ndarray, " N"]
    """Row that no transition leads to: an episode's first, or one behind a gap. What it shows has no value."""
    final: Bool[np.ndarray, " N"]
    """Row whose transition ends its episode for good."""
    start: Bool[np.ndarray, " N"]
    """First row of an episode."""


Shaped = tuple[Float64[np.ndarray, " N"], Float64[np.ndarray, " N"], dict[str, Any]]


OF_STATES = ("potential", "since_start")
"""Operations that leave the best policy where a reward judges states, not where it judges actions."""


def check(operations: Sequence[str], *, of_actions: bool) -> None:
    """Check operations before anything is spent on the column that they are for.

    Raises:
        ConfigError: if there is no such operation, or it is not for rewards of actions.
    """
    for operation in operations:
        if operation not in SHAPINGS:
            raise unknown("operation", operation, SHAPINGS)
        if of_actions and operation in OF_STATES:
            raise ConfigError(f"{operation} is not for rewards of actions: say shaping=[], or another reward.input")


def derived(store: Store, reward: str, operations: Sequence[str]) -> str:
    """Apply operations in turn, each with its default settings; the name of the last column.

    Raises:
        ConfigError: if there is no such operation.
    """
    for operation in operations:
        out = f"{reward}-{operation}"
        shape(store, Config(operation, reward, out))
        reward = out
    return reward


def shape(store: Store, config: Config) -> None:
    """Write the new column; one of this name that is there already is left as it is.

    Raises:
        ConfigError: if there is no such operation or column, or a number is impossible.
    """
    if config.operation not in SHAPINGS:
        raise unknown("operation", config.operation, SHAPINGS)
    if not config.out:
        raise ConfigError("out is empty: say the new column's name")
    if config.out in store.rewards():
        return
    if config.operation in OF_STATES and _of_actions(store.rewards().get(config.reward, {})):
        raise ConfigError(
            f"reward {config.reward!r} depends on actions: {config.operation} leaves the best policy only where a "
            "reward judges what rows show"
        )
    base = _column(store, config.base) if config.base else None
    mean, std, used = SHAPINGS[config.operation](_column(store, config.reward), config, base)
    source = store.rewards()[config.reward]
    attributes = {
        "rewarder": "shaping",
        "commit": commit(),
        "operation": config.operation,
        "of": {config.reward: source},
        **({"camera": source["camera"]} if "camera" in source else {}),
        **({"base": {config.base: store.rewards()[config.base]}} if config.base else {}),
        **used,
    }
    store.add_reward(config.out, mean.astype(np.float32), std.astype(np.float32), attributes)


def column_of(store: Store, mean: Float64[np.ndarray, " N"], std: Float64[np.ndarray, " N"]) -> Column:
    """A reward over all rows of a store, whether it is written there or not."""
    first = np.concatenate([[True], ~store.column("has_next")[:-1]])
    final, start, table = np.zeros(len(store), bool), np.zeros(len(store), bool), store.episodes
    start[table.start] = True
    final[table.stop[table.terminated & (table.length > 1)] - 2] = True
    return Column(mean, std, first, final, start)


def _column(store: Store, name: str) -> Column:
    if name not in store.rewards():
        raise unknown("reward", name, store.rewards())
    mean, std = (store.column(f"reward/{name}/{kind}").astype(np.float64) for kind in ("mean", "std"))
    return column_of(store, mean, std)


def _of_actions(attributes: Mapping[str, Any]) -> bool:
    """Whether a column, or one that it was made of, judges the action taken and not what the next row shows."""
    return attributes.get("config", {}).get("input") == "state_action" or any(
        map(_of_actions, attributes.get("of", {}).values())
    )


def pessimism(column: Column, config: Config, base: Column | None = None) -> Shaped:
    """Take amount x deviation off the mean: what members doubt is worth less."""
    del base
    return column.mean - config.amount * column.std, column.std, {"amount": config.amount}


def standardise(column: Column, config: Config, base: Column | None = None) -> Shaped:
    """Zero mean and unit deviation over the store. Where episodes end for good, this changes the task."""
    del config, base
    shift, scale = float(np.nanmean(column.mean)), float(np.nanstd(column.mean))
    scale = scale if scale > 0 else 1.0
    return (column.mean - shift) / scale, column.std / scale, {"shift": shift, "scale": scale}


def since_start(column: Column, config: Config, base: Column | None = None) -> Shaped:
    """What was gained since the start of the episode: the column minus its first value there.

    A judge of single pictures also judges the scene: it may like a drawer better that stands further left. What a
    policy cannot change it cannot earn: taking it off leaves the best policy from every start. Left in, it may be
    larger than what the policy can change, and the learner spends itself on it. `removed` is its share of the variance.
    Not for logs whose episodes start at any stage of the task (cut from longer ones), or end early for good.
    """
    del config, base
    mean, std = column.mean.copy(), column.std.copy()
    for rows in np.split(np.arange(len(mean)), np.flatnonzero(column.start)[1:]):
        known = rows[~np.isnan(mean[rows])]
        if len(known):
            mean[rows] -= mean[known[0]]
            std[rows] = np.hypot(std[rows], std[known[0]])
            std[known[0]] = 0.0
    removed = float(np.nanvar(column.mean - mean) / (np.nanvar(column.mean) or 1.0))
    return mean, std, {"removed": removed}


def bounded(column: Column, config: Config, base: Column | None = None) -> Shaped:
    """Mean over references of sigmoid((r - reference) / scale), minus one half.

    Preference as reward (Fu et al. 2025): how surely a row beats the behaviour, whose rewards' quantiles are the
    references and whose deviation is the scale. In (-1/2, 1/2): far outliers, where a learned reward is least to be
    trusted, pay no more than good rows.
    """
    del base
    if config.references < 1:
        raise ConfigError(f"references is {config.references}, at least 1 wanted")
    reference = np.nanquantile(column.mean, (np.arange(config.references) + 0.5) / config.references)
    scale = float(np.nanstd(column.mean)) or 1.0
    beats = 1 / (1 + np.exp(-(column.mean[:, None] - reference) / scale))
    slope = (beats * (1 - beats)).mean(1) / scale
    return beats.mean(1) - 0.5, slope * column.std, {"references": reference.tolist(), "scale": scale}


def difference(column: Column, config: Config, base: Column | None = None) -> Shaped:
    """What the transition gained: the column's value minus that of the row before, so that loitering pays nothing.

    Zero on first rows: what they show has no value in a column, whose row i is about row i+1.
    """
    del config, base
    gain = np.where(column.first, 0.0, column.mean - _before(column.mean))
    return np.where(np.isnan(column.mean), np.nan, gain), _either(column), {}


def potential(column: Column, config: Config, base: Column | None = None) -> Shaped:
    """Add discount x next potential - potential to the base, which leaves the best policy (Ng et al. 1999).

    The column is the potential. First rows, which have no value in it, all count as worth the mean of the rows behind
    them: were each worth its own next row, to get to a good one would be fined. Where an episode ends for good the
    potential is 0, without which its best policy would change.
    """
    if not 0 < config.discount <= 1:
        raise ConfigError(f"discount is {config.discount}, above 0 and at most 1 wanted")
    start = float(np.nanmean(column.mean[column.first]))
    now = np.where(column.first, start, _before(column.mean))
    gain = config.discount * np.where(column.final, 0.0, column.mean) - now
    gain = np.where(np.isnan(column.mean), np.nan, gain)
    mean, std = (np.zeros_like(gain), np.zeros_like(gain)) if base is None else (base.mean, base.std)
    return mean + gain, np.hypot(std, _either(column)), {"discount": config.discount, "first": start}


def _before(values: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    return np.concatenate([values[:1], values[:-1]])


def _either(column: Column) -> Float64[np.ndarray, " N"]:
    return np.hypot(column.std, np.where(column.first, 0.0, _before(column.std)))


SHAPINGS: Mapping[str, Callable[[Column, Config, Column | None], Shaped]] = {
    "bounded": bounded,
    "difference": difference,
    "pessimism": pessimism,
    "potential": potential,
    "since_start": since_start,
    "standardise": standardise,
}
