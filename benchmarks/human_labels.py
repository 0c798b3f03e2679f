"""Rewards learned from comparisons that people made: the Adroit door, 25 demonstrations and 1,400 comparisons.

    python benchmarks/human_labels.py FOLDER [--seeds 3] [--noisy-seeds 3] [--out runs/human-labels]

FOLDER holds `demos.npz` (D4RL's layout) and `human_preferences.npz` (Uni-RLHF's). Prints accuracy on pairs with a
preference, by five-fold cross-validation: over pairs, where test segments overlap with training segments of the same
episodes, and over episodes, where both sides of a test pair are in episodes that no training pair shows. Pairs are
clean where no side crosses the border of two episodes. Every seed draws other folds. Then 30 % of the training labels
are flipped, and losses are compared on the same pairs, folds and flips.

Of a segment's 50 rows every fifth is read, since neighbours hardly differ; one arm reads them all. Intervals are 95 %,
over seeds and episodes: each draw weighs a test by how often its seed and the episodes of its sides are drawn (Owen
2007), which is wider than over pairs. Resumable: what lies in the output folder is not trained again.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from vlmrl.annotate import Ledger, comparisons
from vlmrl.annotate.audit import calibration_error
from vlmrl.reward import calibration, fit, pairs
from vlmrl.reward.heads import NO_ROW
from vlmrl.reward.inputs import load_input
from vlmrl.reward.network import Shape, score_clips
from vlmrl.reward.pairs import Pairs
from vlmrl.reward.preference import Config
from vlmrl.reward.scorer import source
from vlmrl.runfolder import Metrics, write_json
from vlmrl.store import Store, d4rl

FOLDS = 5
FLIPPED = 0.3
EVERY = 5
"""Rows of a segment that are read: one in so many."""
RECIPE = Config(
    input="state_action",
    model="partial_return",
    loss="bradley_terry",
    members=5,
    hidden=(64, 64),
    updates=60,
    batch=256,
    lr=3e-3,
    weight_decay=1e-2,
    holdout=0.0,
)
ARMS: Mapping[str, Mapping[str, object]] = {
    "recipe": {},
    "mean return": {"model": "mean_return"},
    "last row": {"model": "last"},
    "regret": {"model": "regret"},
    "segment": {"model": "segment"},
    "state alone": {"input": "state"},
    "smoothed 0.1": {"loss": "smoothed", "flip_rate": 0.1},
    "robust 0.1": {"loss": "robust", "flip_rate": 0.1},
    "channel, rate estimated": {"loss": "channel"},
    "votes": {"loss": "votes"},
    "absolute": {"loss": "absolute"},
    "one network": {"members": 1},
    "shared trunk": {"trunk": "shared"},
    "every row": {"every": 1},
}
NOISY: Mapping[str, Mapping[str, object]] = {
    "Bradley-Terry": {},
    "smoothed 0.3": {"loss": "smoothed", "flip_rate": FLIPPED},
    "robust 0.3": {"loss": "robust", "flip_rate": FLIPPED},
    "channel 0.3": {"loss": "channel", "flip_rate": FLIPPED},
    "channel, rate estimated": {"loss": "channel"},
    "votes": {"loss": "votes"},
    "absolute": {"loss": "absolute"},
    "Bradley-Terry, 240 up.": {"updates": 240},
    "channel, est., 240 up.": {"loss": "channel", "updates": 240},
}


@dataclass(frozen=True)
class Data:
    """The comparisons, as an input sees them."""

    rows: Int64[np.ndarray, " R"]
    """Of the store."""
    stack: np.ndarray
    shape: Shape
    labelled: Pairs
    episodes: Bool[np.ndarray, "Q E"]
    """Which episodes each pair shows."""
    clean: Bool[np.ndarray, " Q"]


@dataclass(frozen=True)
class Place:
    """Where arms get their data and leave their predictions."""

    data: Mapping[tuple[str, int], Data]
    """By input, and of how many rows it reads one."""
    out: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--noisy-seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/human-labels"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    store, preferences = imported(given.folder, given.out)
    seen = (("state_action", 1), ("state_action", EVERY), ("state", EVERY))
    place = Place({(name, every): prepare(store, preferences, name, every) for name, every in seen}, given.out)
    print(baseline(store, place.data["state_action", 1]))
    table(place, seeds=given.seeds)
    noisy(place, seeds=given.noisy_seeds)


def imported(folder: Path, out: Path) -> tuple[Store, pairs.Preferences]:
    """The demonstrations as a store, and the comparisons through a ledger."""
    store = d4rl.run(d4rl.Config(str(folder / "demos.npz"), str(out / "store"), task="adroit_door")).store
    with Ledger(out / "labels.db") as ledger:
        config = comparisons.Config(str(folder / "human_preferences.npz"))
        return store, comparisons.import_comparisons(ledger, store, config, instruction="open the door")


def prepare(store: Store, preferences: pairs.Preferences, name: str, every: int) -> Data:
    """Rows, pairs and borders as an input sees them."""
    looks, where = load_input(name), source(dataclasses.replace(RECIPE, input=name), "")
    rows, labelled = pairs.locate(store, preferences, looks.rows(store, where)[::every], ())
    stack, owner = looks.read(store, where, rows), store.episodes.of_row(rows)
    shown = np.concatenate([labelled.a, labelled.b], axis=1)
    episodes = np.zeros((len(labelled), len(store.episodes)), bool)
    np.put_along_axis(episodes, np.where(shown == NO_ROW, owner[shown[:, :1]], owner[shown]), True, axis=1)
    clean = np.array([len(a) == len(b) == 1 for a, b in zip(preferences.a, preferences.b, strict=True)])  # type: ignore[arg-type]
    actions = store.column("action").shape[1] if name == "state_action" else 0
    return Data(rows, stack, Shape(stack.shape[1:], actions, labelled.a.shape[1]), labelled, episodes, clean)


def folds(data: Data, split: str, seed: int) -> Iterator[tuple[Any, Any]]:
    """Training and test pairs of each fold."""
    generator = np.random.default_rng(seed)
    of = np.resize(np.arange(FOLDS), len(data.labelled) if split == "pairs" else data.episodes.shape[1])
    generator.shuffle(of)
    for fold in range(FOLDS):
        if split == "pairs":
            yield of != fold, of == fold
        else:
            inside, outside = data.episodes[:, of == fold].any(1), data.episodes[:, of != fold].any(1)
            yield ~inside, ~outside


def predictions(
    data: Data, config: Config, split: str, seed: int, metrics: Metrics, *, flip: float = 0.0
) -> tuple[Float64[np.ndarray, " Q"], list[float]]:
    """Probability that a is better, of the pairs that were tested, NaN of the others; and the estimated flip rates."""
    found, rates = np.full(len(data.labelled), np.nan), []
    for fold, (inside, test) in enumerate(folds(data, split, seed)):
        chosen = data.labelled.take(inside)
        flips = np.random.default_rng([seed, fold]).random(len(chosen)) < flip
        chosen = dataclasses.replace(chosen, p_a=np.where(flips, 1 - chosen.p_a, chosen.p_a).astype(np.float32))
        train = partial(fit.train, annotators=1, seed=seed * FOLDS + fold, metrics=metrics, name="r", quiet=True)
        state = train(config, data.stack, data.shape, chosen)
        a, b = (score_clips(state.network, data.stack, side[test]) for side in (data.labelled.a, data.labelled.b))
        found[test] = calibration.pooled(a - b)
        rates.append(float(state.flip_rates[0]))
    return found, rates


def measured(
    place: Place, arm: Mapping[str, Any], split: str, seeds: int, flip: float = 0.0
) -> tuple[Float64[np.ndarray, "S Q"], float]:
    """Predictions of an arm, NaN where a pair was not tested, and the mean estimated flip rate."""
    found = [cached(place, arm, split, seed, flip) for seed in range(seeds)]
    p = np.array([[np.nan if x is None else x for x in one["p"]] for one in found])
    return p, float(np.mean([one["rates"] for one in found]))


def cached(place: Place, arm: Mapping[str, Any], split: str, seed: int, flip: float) -> dict[str, Any]:
    """Predictions of an arm on one seed's folds, read where they are there."""
    config, every = configured(arm)
    settings = dataclasses.asdict(config) | {"every": every, "split": split, "seed": seed, "flip": flip}
    path = place.out / "arms" / f"{name_of(settings)}.json"
    if not path.exists():
        start, metrics = time.process_time(), Metrics(place.out / "metrics.jsonl")
        found, rates = predictions(place.data[config.input, every], config, split, seed, metrics, flip=flip)
        p = [None if np.isnan(x) else x for x in found.tolist()]
        write_json(path, {"settings": settings, "p": p, "rates": rates, "seconds": time.process_time() - start})
    return json.loads(path.read_text())


def configured(arm: Mapping[str, Any]) -> tuple[Config, int]:
    """Settings of an arm, and of how many rows it reads one."""
    changed = {name: value for name, value in arm.items() if name != "every"}
    return dataclasses.replace(RECIPE, **changed), arm.get("every", EVERY)


def name_of(settings: Mapping[str, object]) -> str:
    """What tells arms apart, and a digest of everything."""
    whole = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    return f"{settings['split']}-{settings['flip']}-{settings['model']}-{settings['loss']}-{settings['seed']}-{whole}"


def correct(p: Float64[np.ndarray, "S Q"], p_a: Float64[np.ndarray, " Q"]) -> Float64[np.ndarray, "S Q"]:
    """1 where a pair was ordered rightly, 0 where wrongly, NaN where it is a tie or was not tested."""
    return np.where(np.isnan(p) | (p_a == 0.5), np.nan, (p > 0.5) == (p_a > 0.5))


def interval(values: Float64[np.ndarray, "S Q"], episodes: Bool[np.ndarray, "Q E"]) -> tuple[float, float, float]:
    """Mean over what is not NaN, with its 95 % interval over seeds and episodes."""
    generator = np.random.default_rng(0)
    seed, episode = (
        generator.multinomial(count, np.full(count, 1 / count), size=2_000)
        for count in (len(values), episodes.shape[1])
    )
    pair = np.exp(np.log(np.maximum(episode, 1e-300)) @ episodes.T)
    known = ~np.isnan(values)
    total = ((seed @ np.nan_to_num(values)) * pair).sum(1)
    low, high = np.quantile(total / ((seed @ known) * pair).sum(1), [0.025, 0.975])
    return float(values[known].mean()), float(low), float(high)


def percent(
    values: Float64[np.ndarray, "S Q"], which: Bool[np.ndarray, " Q"], episodes: Bool[np.ndarray, "Q E"]
) -> str:
    """The mean over some pairs with its interval."""
    mean, low, high = interval(values[:, which], episodes[which])
    return f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def sureness(p: Float64[np.ndarray, "S Q"], p_a: Float64[np.ndarray, " Q"], which: Bool[np.ndarray, " Q"]) -> str:
    """Calibration error over tested pairs of all seeds, as trained and after calibration on the other half of them."""
    p, p_a = p[:, which & (p_a != 0.5)], p_a[which & (p_a != 0.5)]
    after, half = np.full_like(p, np.nan), np.random.default_rng(0).random(len(p_a)) < 0.5
    for own in (half, ~half):
        seed, pair = np.nonzero(~np.isnan(p) & ~own)
        after[:, own] = calibration.calibrated(p[:, own], calibration.temperature(p[seed, pair], p_a[pair]))
    return " ".join(f"{error(q, p_a):.3f}" for q in (p, after))


def error(p: Float64[np.ndarray, "S Q"], p_a: Float64[np.ndarray, " Q"]) -> float:
    known = ~np.isnan(p)
    right = ((p > 0.5) == (p_a > 0.5))[known]
    return calibration_error(np.maximum(p, 1 - p)[known], right)


def baseline(store: Store, data: Data) -> str:
    """What needs no learning."""
    # The reward of a row is the truth of the next one; that of an episode's last step is not known.
    reward = np.append(np.nan_to_num(store.column("truth/reward")[1:], nan=0.0), 0.0)
    p_a = data.labelled.p_a
    returns = [reward[data.rows[side]].sum(1) for side in (data.labelled.a, data.labelled.b)]
    right = correct((returns[0] > returns[1]).astype(float)[None], p_a)
    cells = [percent(right, which, data.episodes) for which in (data.clean, ~data.clean)]
    return (
        f"{len(p_a)} comparisons, {int((p_a == 0.5).sum())} ties; {int((data.clean & (p_a != 0.5)).sum())} clean pairs "
        f"with a preference\nthe environment's own return: clean {cells[0]}, crossing {cells[1]}\n"
    )


def table(place: Place, *, seeds: int) -> None:
    """Every arm on labels as people gave them."""
    print(f"recipe: {RECIPE}, one row in {EVERY}\n{seeds} seeds of {FOLDS} folds\n")
    ece = "ECE, calib."
    head = f"{'clean, over pairs':>20} {ece} {'clean, over episodes':>22} {ece} {'crossing, over pairs':>21}"
    print(f"{'':26}{head}")
    for name, arm in ARMS.items():
        config, every = configured(arm)
        own = place.data[config.input, every]
        p_a, cells, crossing = own.labelled.p_a, list[str](), ""
        for split in ("pairs", "episodes"):
            p, _ = measured(place, arm, split, seeds)
            right = correct(p, p_a)
            cells.append(f"{percent(right, own.clean, own.episodes):>20}")
            cells.append(sureness(p, p_a, own.clean))
            if split == "pairs":
                crossing = percent(right, ~own.clean, own.episodes)
        print(f"{name:26}{cells[0]} {cells[1]} {cells[2]:>22} {cells[3]} {crossing:>21}", flush=True)


def noisy(place: Place, *, seeds: int) -> None:
    """Losses on training labels of which some are flipped, against Bradley-Terry on the same after as many updates."""
    own, split = place.data[RECIPE.input, EVERY], "pairs"
    p_a = own.labelled.p_a
    print(f"\n{FLIPPED:.0%} of the training labels flipped, {seeds} seeds, clean pairs, over pairs")
    print(f"{'':26}{'accuracy':>20} {'minus Bradley-Terry':>22} ECE, calib.  rate")
    plain: dict[int, Float64[np.ndarray, "S Q"]] = {}
    for name, arm in NOISY.items():
        p, rate = measured(place, arm, split, seeds, FLIPPED)
        right = correct(p, p_a)
        first = plain.setdefault(configured(arm)[0].updates, right)
        against = "" if first is right else percent(right - first, own.clean, own.episodes)
        accuracy, sure = percent(right, own.clean, own.episodes), sureness(p, p_a, own.clean)
        print(f"{name:26}{accuracy:>20} {against:>22} {sure}  {rate:.2f}", flush=True)


if __name__ == "__main__":
    main()
