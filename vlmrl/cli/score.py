"""`vlmrl score`: score what every row of a store shows, write the reward column, draw it beside the film."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vlmrl import config as configuration
from vlmrl.annotate.embeddings import embeddings
from vlmrl.cli.choosing import pick_camera
from vlmrl.cli.columns import describe, refuse_other
from vlmrl.errors import ConfigError
from vlmrl.reward import REWARDERS, clip, rewarder
from vlmrl.reward.relabel import relabel
from vlmrl.runfolder import masked, provenance, write_json
from vlmrl.store import Store
from vlmrl.store.strip import strip
from vlmrl.types import Rewarder

SCORERS = {name: REWARDERS[name] for name in ("clip", "constant", "ground_truth", "saved")}
"""Rewarders that need no training here; `vlmrl label` makes those that `saved` reads."""


@dataclass(frozen=True)
class ScoreConfig:
    """Settings of a scoring job."""

    store: str = ""
    """Folder of the store."""
    rewarder: Any = None
    """Who scores."""
    sentence: str | None = None
    """The goal, in place of rewarder.goals; null: those, or each episode's recorded sentence."""
    name: str = ""
    """Of the reward column; empty: made from the rewarder and its settings."""
    episodes: tuple[str, ...] = ()
    """Ids of those that are drawn; empty: a few."""
    draw: bool = True
    """Whether strip.png is drawn."""


def main(content: Mapping[str, Any], folder: Path) -> None:
    """Run the job that a composed configuration describes."""
    if not content["store"]:
        raise ConfigError("score needs a store: vlmrl score store=FOLDER (vlmrl data import makes one)")
    config = configuration.build(ScoreConfig, content, where="score")
    store = Store.open(config.store)
    scorer = make_rewarder(content["rewarder"], config.sentence, store)
    write_json(folder / "config.json", masked(dict(content)))
    write_json(folder / "meta.json", provenance() | {"store": store.hash})
    name = config.name or column(scorer)
    if name in store.rewards():
        refuse_other(store, name, {"rewarder": scorer.name, **scorer.provenance()})
    if isinstance(scorer, clip.ClipReward):
        encode(store, scorer)
    relabel(store, scorer, name)
    print(f"reward column {name!r}: {describe(store, name)}")
    if config.draw and store.cameras:
        path, camera = folder / "strip.png", scorer.sees[0] if scorer.sees else store.cameras[0]
        strip(store, name, camera, path, episodes=config.episodes or None, title=title(scorer))
        print(f"film strip: {path}")


def make_rewarder(settings: Mapping[str, Any], sentence: str | None, store: Store) -> Rewarder:
    """The rewarder that a composed node describes."""
    module = rewarder(settings["name"])
    config = configuration.build(module.Config, settings, where="rewarder")
    if not isinstance(config, clip.Config):
        return module.build(config)
    if sentence is not None and config.goals:
        raise ConfigError(f"sentence={sentence!r} and rewarder.goals={list(config.goals)}: say the goal once")
    goals = (sentence,) if sentence is not None else config.goals
    return clip.build(dataclasses.replace(config, camera=pick_camera(store, config.camera), goals=goals))


def encode(store: Store, scorer: clip.ClipReward) -> None:
    """Fill the embedding column, with a bar where pictures are encoded."""
    bar = tqdm(desc=scorer.encoder.name, unit="picture", dynamic_ncols=True, delay=0.5)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    try:
        embeddings(store, scorer.camera, scorer.encoder, progress=show)
    finally:
        bar.close()


def column(scorer: Rewarder) -> str:
    """Name of the reward column: it tells checkpoint, prompts and settings apart."""
    facts = scorer.provenance()
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{scorer.name}-{digest[:8]}" if facts else scorer.name


def title(scorer: Rewarder) -> str:
    """What a picture of the scores says above them."""
    if not isinstance(scorer, clip.ClipReward):
        return scorer.name
    goals = " / ".join(f"“{goal}”" for goal in scorer.config.goals) or "each episode's sentence"
    alpha = f" (alpha {scorer.config.alpha:g})" if scorer.config.alpha else ""
    return f"{goals}, scored by {scorer.encoder.name}{alpha}"
