"""`vlmrl reward`: how good a reward is, and when not to trust it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from vlmrl.cli.given import configured
from vlmrl.cli.label import side_from_json
from vlmrl.errors import ConfigError, DataError, unknown
from vlmrl.reward import card, hacking
from vlmrl.reward.holdout import kept_aside
from vlmrl.reward.preference import PreferenceReward
from vlmrl.reward.quality import Quality, measure, rows_of, truths
from vlmrl.reward.quality_folds import by_episodes, take
from vlmrl.reward.quality_pairs import Scored, apart, scored
from vlmrl.reward.quality_text import text
from vlmrl.reward.relabel import relabel
from vlmrl.runfolder import Metrics, read_json, write_json
from vlmrl.store import Store
from vlmrl.types import Preferences

Settings = Annotated[list[str] | None, typer.Argument(help="Settings as key=value")]

app = typer.Typer(help="How good a reward is, and when not to trust it.", no_args_is_help=True)


@dataclass(frozen=True)
class EvalConfig:
    """What is measured, against what."""

    store: str
    """Folder of the store."""
    reward: str = ""
    """Its reward column; may be left out where there is a single learned one."""
    truth: str | None = None
    """Of the store's truth/ columns; null: reward, else progress, else none."""
    run: str | None = None
    """Run folder that made the reward: its labels and its models; null: the store's parent, if it is one."""
    labels: str | None = None
    """labels.json of another labeling job on this store, whose pairs the reward has not seen."""
    folds: int = 0
    """Trainings on the other episodes, to know the accuracy on episodes unseen; 0: none. 3 is a good number."""
    rollouts: str | None = None
    """Store of episodes of the policy that maximises the reward (vlmrl reward rollouts), for the hacking check."""
    out: str = ""
    """Folder of what is written; empty: `quality` beside the store."""


@dataclass(frozen=True)
class RolloutsConfig:
    """Episodes of a saved policy, recorded with pictures and truth."""

    policy: str
    """Folder of a saved policy."""
    task: str
    out: str
    """Folder of the store that is made."""
    episodes: int = 20
    seed: int = 3_000_000
    """Of the first initial state; above 3,000,000 none is used for anything else."""
    picture_every: int = 5
    """Control steps between pictures, as in the data."""


@dataclass(frozen=True)
class Found:
    """Everything that eval measured, for the table and the page."""

    store: Store
    quality: Quality
    check: hacking.Check | None
    rollouts: Store | None
    model: Path | None
    """Folder of the saved reward."""
    folder: Path


@app.command("eval")
def eval_(settings: Settings = None) -> None:
    """Print one table of how good a reward column is, write it as JSON, and into the card of the saved reward.

    Settings: store, reward, truth, run, labels, folds, rollouts, out.

    With the labels that made it: accuracy, log-loss and calibration on pairs kept aside from training; folds=3 adds the
    accuracy on episodes unseen, by training three times more. With outcomes: do successes get more than failures? With
    a simulator's truth: correlations, the ranking of episodes, EPIC distance, and where the reward is too generous.
    With rollouts of the policy that maximises it: is it being hacked?

    Example: vlmrl reward eval store=runs/today/store reward=COLUMN folds=3

    Example: vlmrl reward eval store=runs/today/store reward=COLUMN rollouts=runs/today/rollouts truth=progress
    """
    found = evaluated(configured(EvalConfig, settings, where="reward eval"))
    typer.echo(text(found.quality, found.check))
    typer.echo(f"\nas JSON: {found.folder / f'{found.quality.reward}.json'}")
    if found.model:
        typer.echo(f"card: {found.model / card.CARD}")


@app.command()
def report(settings: Settings = None) -> None:
    """Measure as `vlmrl reward eval` does, and draw one self-contained HTML page.

    Settings: those of `vlmrl reward eval`.

    Reward curves over film strips, the most and the least rewarded pictures, maps of reward and of disagreement,
    occlusion maps of what the reward looks at, the hacking check, and the reward's card.

    Example: vlmrl reward report store=runs/today/store reward=COLUMN rollouts=runs/today/rollouts
    """
    from vlmrl.reward.report import write

    found = evaluated(configured(EvalConfig, settings, where="reward report"))
    rewarder = PreferenceReward.from_pretrained(found.model) if found.model else None
    own = (found.model / card.CARD).read_text() if found.model else ""
    name = found.quality.reward
    path = write(
        found.folder / f"{name}.html",
        found.store,
        found.quality,
        check=found.check,
        rollouts=found.rollouts,
        rewarder=rewarder,
        card=own,
    )
    typer.echo(text(found.quality, found.check))
    typer.echo(f"\nreport: {path}")


@app.command()
def rollouts(settings: Settings = None) -> None:
    """Record episodes of a saved policy into a store of their own, for the hacking check.

    Settings: policy, task, out, episodes, seed, picture_every.

    Example: vlmrl reward rollouts policy=runs/today/policies/learned/seed0 task=drawer_open out=runs/today/rollouts
    """
    from vlmrl.evaluate.collect import create_store, record
    from vlmrl.policy import load_policy
    from vlmrl.sim import load_task

    config = configured(RolloutsConfig, settings, where="reward rollouts")
    task, policy = load_task(config.task), load_policy(config.policy)
    seeds = range(config.seed, config.seed + config.episodes)
    episodes = list(record(task, policy, seeds, picture_every=config.picture_every))
    store = create_store(Path(config.out), task)
    store.append(episodes)
    won = int((store.episodes.success == 1).sum())
    typer.echo(f"{config.out}: {len(episodes)} episodes of {policy.name}, {won} succeeded")


def evaluated(config: EvalConfig) -> Found:
    """Measure what the settings ask for, and write it.

    Raises:
        ConfigError: if a name is unknown, or a measurement lacks what it needs.
    """
    store = Store.open(config.store)
    name = pick_reward(store, config.reward)
    truth = pick_truth(store, config.truth)
    run = Path(config.run) if config.run else store.path.resolve().parent
    facts = store.rewards()[name]
    folder = Path(config.out) if config.out else store.path.parent / "quality"
    pairs = labelled(store, name, run, config, folder)
    quality = measure(store, name, truth=truth, pairs=pairs, logits=facts.get("rewarder") == "preference")
    model = saved(run, facts)
    other = Store.open(config.rollouts) if config.rollouts else None
    check = hacked(store, other, name, truth, model) if other else None
    write_json(folder / f"{name}.json", card.as_json(quality, check))
    if model:
        card.add(model, quality, check)
    return Found(store, quality, check, other, model, folder)


def pick_reward(store: Store, wanted: str) -> str:
    """The column asked for, or the only learned one."""
    have = store.rewards()
    if wanted and wanted not in have:
        raise unknown("reward", wanted, have)
    learned = [name for name, facts in have.items() if facts.get("rewarder") == "preference"]
    if not wanted and len(learned) != 1:
        raise ConfigError(
            f"which reward? reward=NAME; have: {', '.join(sorted(have)) or 'none: vlmrl label makes one'}"
        )
    return wanted or learned[0]


def pick_truth(store: Store, wanted: str | None) -> str:
    """The truth asked for, or what says most."""
    have = truths(store)
    if wanted and wanted not in have:
        raise unknown("truth", wanted, have)
    return wanted if wanted is not None else next((key for key in ("reward", "progress") if key in have), "")


def labelled(store: Store, name: str, run: Path, config: EvalConfig, folder: Path) -> dict[str, Scored]:
    """The labelled pairs that a reward has not seen, by how unseen they are."""
    facts = store.rewards()[name]
    camera = str(facts.get("camera") or (store.cameras[0] if store.cameras else ""))
    mean, found = store.column(f"reward/{name}/mean"), dict[str, Scored]()
    own = read_labels(run / "labels.json", camera) if (run / "labels.json").is_file() else None
    if own is not None and own.snapshot != facts.get("snapshot"):
        own = None
    places = kept_aside(own, facts) if own is not None else None
    if own is not None and places is not None:
        found["pairs kept aside"] = scored(store, mean, take(own, places[1]))
    if config.folds:
        if own is None:
            raise ConfigError(
                f"folds={config.folds} needs the labels that made {name!r}: run=FOLDER, with its labels.json"
            )
        found[f"episodes unseen ({config.folds} folds)"] = _folds(store, own, name, config.folds, folder)
    if config.labels:
        other = read_labels(Path(config.labels), camera)
        seen = set(zip(own.a, own.b, strict=True)) if own is not None else set()
        fresh = [i for i, pair in enumerate(zip(other.a, other.b, strict=True)) if not seen & {pair, pair[::-1]}]
        found["other labels"] = scored(store, mean, take(other, np.array(fresh, np.int64)))
        if own is not None:
            unseen = apart(found["other labels"], scored(store, mean, own))
            found["other labels, episodes unseen"] = found["other labels"].take(unseen)
    return found


def _folds(store: Store, labels: Preferences, name: str, folds: int, folder: Path) -> Scored:
    """The fold's pairs, kept once they are known: they cost trainings."""
    path = folder / f"{name}-folds{folds}.json"
    key = {"snapshot": labels.snapshot, "data": store.data_hash}
    if path.is_file() and (content := read_json(path))["key"] == key:
        return Scored(
            **{
                k: np.array(v, np.float64 if k in ("difference", "p_a") else np.int64)
                for k, v in content["pairs"].items()
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    found = by_episodes(store, labels, name, folds=folds, metrics=Metrics(folder / "folds.jsonl")).judged
    write_json(path, {"key": key, "pairs": {k: getattr(found, k).tolist() for k in ("difference", "p_a", "a", "b")}})
    return found


def read_labels(path: Path | str, camera: str = "") -> Preferences:
    """The answers that a labeling job left in `labels.json`; `path` is that file or its folder.

    Raises:
        DataError: if it is missing or damaged.
    """
    path = Path(path) / "labels.json" if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise DataError(f"{path} is missing: wanted the labels.json of a run folder of vlmrl label or vlmrl run")
    content = read_json(path)
    pairs = content["pairs"]
    sides = [tuple(side_from_json(p[key], camera) for p in pairs) for key in ("a", "b")]
    p_a = np.array([p["p_a"] for p in pairs], np.float32)
    return Preferences(sides[0], sides[1], p_a, str(content["labeler"]), str(content["snapshot"]))


def saved(run: Path, facts: Mapping[str, Any]) -> Path | None:
    """Folder of the model that wrote a reward column, looked for in the run folder."""
    wanted = json.loads(json.dumps({key: facts.get(key) for key in ("snapshot", "seed", "config")}))
    for path in sorted([*run.glob("reward/config.json"), *run.glob("rewards/*/config.json")]):
        content = read_json(path)
        own = content.get("facts", {})
        if {"snapshot": own.get("snapshot"), "seed": own.get("seed"), "config": content.get("settings")} == wanted:
            return path.parent
    return None


def hacked(store: Store, rollouts: Store, name: str, truth: str, model: Path | None) -> hacking.Check:
    """The hacking check; the rollouts are judged first where they are not yet.

    Raises:
        ConfigError: if they cannot be judged, or nothing is known that the reward could be held against.
    """
    if name not in rollouts.rewards():
        if model is None:
            raise ConfigError(f"{rollouts.path} has no reward {name!r}, and no saved model of it was found: run=FOLDER")
        relabel(rollouts, PreferenceReward.from_pretrained(model), name)
    both = truth if truth in truths(rollouts) else ""
    rows = [rows_of(one, name, both) for one in (store, rollouts)]
    if not both and not rows[0].std.any():
        raise ConfigError(f"{name!r} knows neither truth nor disagreement: there is nothing to check it against")
    groups = [hacking.Group(r.reward, -r.std if r.truth is None else r.truth, r.episode) for r in rows]
    reference = both or "agreement of the members"
    return hacking.check(groups[0], groups[1], reference=reference)
