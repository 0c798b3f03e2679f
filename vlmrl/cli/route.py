"""`vlmrl label route`: puts the pairs whose labels are doubtful on the people's queue, within a budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmrl import config as configuration
from vlmrl.annotate import Ledger
from vlmrl.annotate.opinions import gather, read_opinions
from vlmrl.annotate.people.clips import Clips
from vlmrl.annotate.people.question import LABELER
from vlmrl.annotate.people.queue import Queue, Rules
from vlmrl.annotate.route import BY, route
from vlmrl.cli.choosing import pick_camera
from vlmrl.errors import ConfigError, DataError, unknown
from vlmrl.runfolder import masked, provenance, write_json
from vlmrl.store import Store


@dataclass(frozen=True)
class RouteConfig:
    """Settings of routing doubtful pairs to people."""

    store: str = ""
    """Folder of the store that the labels are about."""
    ledger: str = "runs/labels.db"
    """Where the answers are, and the people's queue."""
    budget: int = 100
    """Pairs that this command puts on the people's queue, in all its runs together; what `serve` draws is apart."""
    by: str = "doubt"
    """Why a pair is doubtful: order (another answer with sides swapped), ensemble (labelers apart), soft (probability
    near one half), doubt (order and ensemble before soft), or random, to compare with."""
    sentence: str | None = None
    """Only labels for this sentence; null: all."""
    camera: str | None = None
    """Whose pictures are shown of clips that name none; null: the store's first."""


def main(content: Mapping[str, Any], folder: Path) -> None:
    """Run the routing that a composed configuration describes."""
    if not content["store"]:
        raise ConfigError("route needs a store: vlmrl label route store=FOLDER ledger=runs/labels.db budget=100")
    config = configuration.build(RouteConfig, content, where="route")
    if config.by not in BY:
        raise unknown("reason", config.by, BY)
    store = Store.open(config.store)
    with Ledger(config.ledger) as ledger:
        opinions = read_opinions(ledger, store, sentences=[config.sentence] if config.sentence else [])
        pairs = gather([o for o in opinions if config.sentence in (None, o.shown.sentence)])
        if not pairs:
            raise DataError(f"{masked(config.ledger)} holds no answer about pairs of {config.store}")
        queue = Queue(ledger, Clips(store, pick_camera(store, config.camera)), Rules())
        asked = queue.asked()
        routed = len(queue.routed())
        left = max(0, config.budget - routed)
        chosen = [j for j in route(pairs, config.by, len(pairs)) if j.pair.id not in asked and queue.shows(j.pair)]
        added = queue.add([judged.pair for judged in chosen[:left]])
    write_json(folder / "config.json", masked(dict(content)))
    write_json(folder / "meta.json", provenance() | {"store": store.hash})
    doubts = [BY[config.by](judged) for judged in chosen[:left]]
    write_json(folder / "routed.json", [{"pair": j.pair.id, "by": d} for j, d in zip(chosen, doubts, strict=False)])
    print(
        f"{len(asked)} pairs were on the people's queue, {routed} of them routed there; "
        f"{added} of {len(pairs)} added by {config.by}"
    )
    if doubts:
        print(f"their {config.by} is {doubts[0]:.2f} to {doubts[-1]:.2f}; {LABELER} answers: vlmrl label serve pairs=0")
