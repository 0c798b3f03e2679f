"""How good a reward column is: figures with intervals, against labels, outcomes, and the truth where it is known."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from vlmrl.errors import DataError, unknown
from vlmrl.interval import Interval, wider, wilson
from vlmrl.reward import epic
from vlmrl.reward import quality_pairs as on_pairs
from vlmrl.reward import quality_ranking as ranking
from vlmrl.reward.quality_pairs import Scored
from vlmrl.reward.quality_slices import Slice, slices
from vlmrl.reward.resample import interval, ratio, sums, weights
from vlmrl.store import Store

DISCOUNT = 0.99
"""Of EPIC's canonical shaping."""

EPISODES = 2_000
"""Most that are ranked against each other; of more, so many are taken evenly."""

TRANSITIONS = 10_000
"""Most that EPIC looks at; more are drawn from, without replacement."""


@dataclass(frozen=True)
class Rows:
    """The judged rows of a store, each with what was known on arriving at the next row."""

    reward: Float64[np.ndarray, " N"]
    std: Float64[np.ndarray, " N"]
    episode: Int64[np.ndarray, " N"]
    """Place in the store."""
    row: Int64[np.ndarray, " N"]
    """Global row."""
    truth: Float64[np.ndarray, " N"] | None = None
    """Of the next row, where it is known."""


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    """Key in JSON and in cards."""
    title: str
    value: Interval
    count: int
    unit: str
    """What is counted."""
    reference: float
    """What a reward that knows nothing gets; NaN where that depends on the data."""

    def as_json(self) -> dict[str, Any]:
        """For `quality.json`."""
        return {**asdict(self.value), "title": self.title, "count": self.count, "unit": self.unit}


@dataclass(frozen=True)
class Quality:
    """Everything that was measured of one reward column, and what could not be."""

    reward: str
    store: str
    """Hash of the episodes that it was measured on."""
    episodes: int
    rows: int
    truth: str
    """Which privileged quantity it was held against; empty where none is known."""
    figures: tuple[Figure, ...]
    slices: tuple[Slice, ...]
    missing: tuple[str, ...]
    """What could not be measured, and what to do about it."""

    def figure(self, name: str) -> Figure | None:
        """A figure by its name."""
        return next((f for f in self.figures if f.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """For `quality.json`."""
        return {
            "reward": self.reward,
            "store": self.store,
            "episodes": self.episodes,
            "rows": self.rows,
            "truth": self.truth,
            "figures": {f.name: f.as_json() for f in self.figures},
            "slices": [s.as_json() for s in self.slices],
            "missing": list(self.missing),
        }


def rows_of(store: Store, reward: str, truth: str = "") -> Rows:
    """The rows that a reward column covers.

    Raises:
        ConfigError: if there is no such reward or truth.
        DataError: if the reward is the same everywhere: there is nothing to measure.
    """
    if reward not in store.rewards():
        raise unknown("reward", reward, store.rewards())
    if truth and f"truth/{truth}" not in store.columns():
        raise unknown("truth", truth, truths(store))
    mean, std = (store.column(f"reward/{reward}/{kind}").astype(np.float64) for kind in ("mean", "std"))
    row = np.flatnonzero(np.isfinite(mean)).astype(np.int64)
    if np.ptp(mean[row]) == 0:
        raise DataError(f"reward {reward!r} is {mean[row[0]]:g} everywhere: there is nothing to measure")
    known = store.column(f"truth/{truth}")[row + 1].astype(np.float64) if truth else None
    return Rows(mean[row], std[row], store.episodes.of_row(row), row, known)


def truths(store: Store) -> list[str]:
    """What the simulator knew of every row, if the data is from one."""
    return [name.removeprefix("truth/") for name in store.columns() if name.startswith("truth/")]


def measure(
    store: Store, reward: str, *, truth: str = "", pairs: Mapping[str, Scored] | None = None, logits: bool = True
) -> Quality:
    """Every figure that the data allow; `pairs` are labelled ones by what is known of them ("pairs unseen").

    `logits`: whether differences of the reward are log-odds, without which log-loss and calibration mean nothing.

    Raises:
        ConfigError: if there is no such reward or truth.
        DataError: if the reward is the same everywhere.
    """
    rows = rows_of(store, reward, truth)
    draws = weights(len(store.episodes))
    figures, missing = _of_pairs(pairs or {}, draws, logits=logits)
    found, lacking = _of_outcomes(store, rows, draws)
    figures += found
    missing += lacking
    if rows.truth is None:
        missing.append("against the truth: the store knows none (real logs never do)")
    else:
        figures += _of_truth(rows, rows.truth, truth, draws)
    return Quality(
        reward,
        store.data_hash,
        len(store.episodes),
        len(rows.row),
        truth,
        tuple(figures),
        slices(store, rows.row, rows.reward, rows.truth, draws, std=rows.std),
        tuple(missing),
    )


def returns(
    values: Float[np.ndarray, " N"], episode: Int64[np.ndarray, " N"], episodes: int
) -> Float64[np.ndarray, " E"]:
    """Mean over each episode's judged rows, NaN where it has none: a learned reward's offset is arbitrary, so that a
    sum would rank episodes of different lengths by their lengths.
    """
    found = sums(np.stack([values, np.ones(len(values))], 1), episode, episodes)
    return np.where(found[:, 1] > 0, found[:, 0] / np.maximum(found[:, 1], 1), np.nan)


def share(values: Float[np.ndarray, " D"], trials: int) -> Interval:
    """The interval of a share, never narrower than Wilson's: where all trials end alike, resampling sees no doubt."""
    found = interval(values)
    return wider(found, wilson(found.estimate * trials, trials))


def _of_pairs(
    pairs: Mapping[str, Scored], draws: Float64[np.ndarray, "D E"], *, logits: bool
) -> tuple[list[Figure], list[str]]:
    figures: list[Figure] = []
    missing = [] if pairs else ["on labels: none were given that this reward has not seen"]
    for kind, some in pairs.items():
        if not len(some.clear):
            missing.append(f"on labels, {kind}: no judged pair without a tie")
            continue
        key, clear, all_pairs = re.sub(r"\W+", "_", kind).strip("_"), "pairs without ties", "pairs"
        figures.append(
            Figure(
                f"accuracy_{key}",
                f"accuracy, {kind}",
                share(on_pairs.accuracy(some, draws), len(some.clear)),
                len(some.clear),
                clear,
                0.5,
            )
        )
        if logits:
            loss, gap = on_pairs.log_loss(some, draws), on_pairs.calibration_error(some, draws)
            figures += [
                Figure(
                    f"log_loss_{key}",
                    f"log-loss, {kind}",
                    interval(loss),
                    len(some.judged),
                    all_pairs,
                    float(np.log(2)),
                ),
                Figure(
                    f"calibration_error_{key}",
                    f"calibration error (ECE), {kind}",
                    interval(gap),
                    len(some.clear),
                    clear,
                    float("nan"),
                ),
            ]
    if not logits:
        missing.append("log-loss and calibration: differences of this reward are no log-odds")
    return figures, missing


def _of_outcomes(store: Store, rows: Rows, draws: Float64[np.ndarray, "D E"]) -> tuple[list[Figure], list[str]]:
    success, count = store.episodes.success, len(store.episodes)
    mean = returns(rows.reward, rows.episode, count)
    won = success == 1
    known = _evenly((success >= 0) & np.isfinite(mean))
    if not (known & won).any() or not (known & ~won).any():
        return [], ["success against failure: the store needs episodes of both that are marked as such"]
    last = np.full(count, np.nan)
    last[rows.episode] = rows.reward  # rows are in order: the last one stays
    own = draws[:, known]
    numbers, lost = int(known.sum()), int((known & ~won).sum())
    rarer = min(lost, numbers - lost)
    figures = [
        Figure(
            "auroc_return",
            "success/failure AUROC of returns",
            share(ranking.auroc(mean[known], won[known], own), rarer),
            numbers,
            "episodes",
            0.5,
        ),
        Figure(
            "auroc_last",
            "success/failure AUROC of the last reward",
            share(ranking.auroc(last[known], won[known], own), rarer),
            numbers,
            "episodes",
            0.5,
        ),
        Figure(
            "over_rewarded_failures",
            "failures with more return than the median success",
            share(_over_rewarded(mean[known], won[known], own), lost),
            lost,
            "failed episodes",
            0.5,
        ),
    ]
    return figures, []


def _evenly(known: Bool[np.ndarray, " E"]) -> Bool[np.ndarray, " E"]:
    """At most EPISODES of the known ones: every pair of them is compared in every draw."""
    places, kept = np.flatnonzero(known), np.zeros_like(known)
    kept[places[np.linspace(0, len(places) - 1, min(EPISODES, len(places))).round().astype(int)]] = True
    return kept


def _over_rewarded(
    mean: Float[np.ndarray, " E"], won: Bool[np.ndarray, " E"], draws: Float64[np.ndarray, "D E"]
) -> Float64[np.ndarray, " D"]:
    """Share of failures above the median success; the median is that of the data, not of each draw."""
    above = mean > np.median(mean[won])
    return ratio(draws @ (above & ~won), draws @ ~won)


def _of_truth(
    rows: Rows, truth: Float64[np.ndarray, " N"], name: str, draws: Float64[np.ndarray, "D E"]
) -> list[Figure]:
    count, episodes = len(rows.row), draws.shape[1]
    spearman = ranking.pearson(ranking.ranks(rows.reward), ranking.ranks(ranking.graded(truth)), rows.episode, draws)
    pearson = ranking.pearson(rows.reward, truth, rows.episode, draws)
    means = [returns(v, rows.episode, episodes) for v in (rows.reward, truth)]
    known = _evenly(np.isfinite(means[0]))
    tau = ranking.kendall(means[0][known], ranking.graded(means[1][known]), draws[:, known])
    shaped, some = _canonical(rows.reward, truth)
    distance = epic.distance(ranking.pearson(shaped[0], shaped[1], rows.episode[some], draws))
    return [
        Figure(
            "kendall",
            f"episodes ranked by return, Kendall tau with {name}",
            interval(tau),
            int(known.sum()),
            "episodes",
            0.0,
        ),
        Figure("spearman", f"rank correlation with {name}", interval(spearman), count, "rows", 0.0),
        Figure("pearson", f"correlation with {name}", interval(pearson), count, "rows", 0.0),
        Figure("epic", f"EPIC distance to {name}", interval(distance), len(some), "transitions", float(np.sqrt(0.5))),
    ]


def _canonical(
    reward: Float64[np.ndarray, " N"], truth: Float64[np.ndarray, " N"]
) -> tuple[list[Float64[np.ndarray, " M"]], Int64[np.ndarray, " M"]]:
    """Both rewards canonically shaped, on rows drawn from the data.

    Both are taken to look at the state arrived at alone, as the reward of a picture does; the states are the data's.
    """
    generator = np.random.default_rng(0)
    rows = np.arange(len(reward))
    some = rows if len(rows) <= TRANSITIONS else np.sort(generator.choice(rows, TRANSITIONS, replace=False))
    coverage = epic.draw_coverage(rows, generator=generator)
    return [
        epic.canonical(epic.arrival(v), (some, some, some), coverage, discount=DISCOUNT) for v in (reward, truth)
    ], some
