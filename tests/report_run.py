"""A small run folder with its store, made without simulator or training, and a reader of the page."""

import html.parser
import re
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from vlmrl.evaluate import results
from vlmrl.evaluate.results import as_json
from vlmrl.evaluate.rollout import Rollouts
from vlmrl.runfolder import Metrics, write_json
from vlmrl.store import Store
from vlmrl.types import NO_FRAME, Episode, Frames

ROWS, EVERY = 13, 3
HOSTILE = "<script>alert('x')</script>\"'&<img src=http://evil onerror=alert(1)>"
SNAPSHOT = "ab" * 32
ARMS = ["behaviour", "bc", "constant", "learned", "ground_truth"]


def episode(k: int, *, truth: bool = True, images: bool = True, source: str = "") -> Episode:
    """Progress rises to k/5; pictures brighten with it."""
    progress = np.linspace(0, k / 5, ROWS, dtype=np.float32)
    index = np.full(ROWS, NO_FRAME, np.int32)
    index[::EVERY] = np.arange(len(index[::EVERY]))
    pixels = np.broadcast_to(
        (255 * progress[::EVERY, None, None, None]).astype(np.uint8), (len(index[::EVERY]), 8, 12, 3)
    )
    inner = np.arange(ROWS) < ROWS - 1
    return Episode(
        action=np.zeros((ROWS, 2), np.float32),
        obs={"state": np.zeros((ROWS, 3), np.float32)},
        time=np.arange(ROWS) / 10,
        has_action=inner,
        has_next=inner.copy(),
        terminated=False,
        truncated=True,
        task="t",
        instruction="pour the tea",
        source=source or f"expert, {100 - 10 * k} % noise",
        images={"eye": Frames(np.ascontiguousarray(pixels), index)} if images else {},
        truth={"progress": progress} if truth else {},
        success=int(k == 5) if truth else -1,
        id=f"e{k}",
    )


def add_reward(store: Store, seed: int) -> None:
    """Row i says 10 + the place of the row that it judges."""
    mean = np.tile(np.arange(1, ROWS + 1, dtype=np.float32) + 10, len(store.episodes))
    mean[~store.column("has_next")] = np.nan
    facts = {"snapshot": SNAPSHOT, "seed": seed, "camera": "eye"}
    store.add_reward(f"preference-seed{seed}", mean, np.where(np.isnan(mean), np.nan, np.float32(0.5)), facts)


def make_run(folder: Path, *, seeds: tuple[int, ...] = (0, 1), text: str = "", **episodes: bool) -> Store:
    """A whole run folder of two seeds."""
    store = Store.create(folder / "store")
    store.append([episode(k, source=text, **episodes) for k in range(6)])
    pairs = [(5, 12, 0, 3, 1.0), (1, 3, 4, 12, 1.0), (2, 6, 3, 9, 0.5), (0, 0, 0, 3, 0.5), (3, 12, 2, 12, 0.75)]
    labels: dict[str, Any] = {
        "labeler": text or "scripted teacher (0% wrong)",
        "total": 6,
        "verdicts": {"a": 3, "tie": 2, "unsure": 1},
        "calls": 7,
        "tokens": 1234,
        "usd": 0.5,
        "snapshot": SNAPSHOT,
        "pairs": [{"a": [f"e{a}", i], "b": [f"e{b}", j], "p_a": p} for a, i, b, j, p in pairs],
    }
    if "truth/progress" in store.columns():
        known = store.column("truth/progress").reshape(6, ROWS)
        labels["truth"] = [[float(known[a, i]), float(known[b, j])] for a, i, b, j, _ in pairs]
    write_json(folder / "labels.json", labels)
    config = {"arms": ARMS, "seeds": list(seeds), "task": "t", "sentence": text or "pour the tea", "ledger": "l.db"}
    config |= {
        "labeler": {"name": "scripted"},
        "learner": {"name": "iql", "lr": text or 0.5},
        "evaluate": {"curve_episodes": 4},
    }
    write_json(folder / "config.json", config)
    meta = {"command": f"vlmrl run {text}", "commit": "c0ffee", "packages": {"torch": "9.9"}, "seeds": list(seeds)}
    write_json(folder / "meta.json", meta)
    for seed in seeds:
        held = {
            "pairs": 10.0,
            "ties": 2.0,
            "accuracy": 0.75,
            "log_loss": 0.5,
            "calibration_error": 0.1,
            "disagreement": 0.2,
        }
        write_json(folder / "rewards" / f"seed{seed}" / "config.json", {"facts": {"held_out": held, "seed": seed}})
        add_reward(store, seed)
    for arm, done in rollouts(seeds).items():
        for seed, one in zip(seeds, done, strict=False):
            place = folder / "results" / ("behaviour.json" if arm == "behaviour" else f"{arm}/seed{seed}.json")
            results.save(one, place)
    for arm, seed in product(ARMS[1:], seeds):
        place = folder / "policies" / arm / f"seed{seed}"
        place.mkdir(parents=True)
        for step in (100, 200):
            values = {"actor_loss": 1.0 / step, "success": step / 400 + seed / 4}
            Metrics(place / "metrics.jsonl").write("train", step, values)
    write_json(folder / "results.json", table(seeds))
    return store


def rollouts(seeds: tuple[int, ...]) -> dict[str, list[Rollouts]]:
    """Eight episodes of each arm and seed."""
    found: dict[str, list[Rollouts]] = {}
    for arm in ARMS:
        for seed in seeds if arm != "behaviour" else (0,):
            won = np.arange(8) < {"learned": 6, "ground_truth": 8}.get(arm, 1) - seed % 2
            one = Rollouts(arm, np.arange(8), won, np.full(8, 7, np.float32), np.where(won, 3, -1))
            found.setdefault(arm, []).append(one)
    return found


@cache
def table(seeds: tuple[int, ...]) -> list[dict[str, object]]:
    """The result table; its bootstrap takes a second."""
    done = rollouts(seeds)
    return [
        as_json(row)
        for row in results.table(done, baselines=("bc", "constant"), trained={a: a != "behaviour" for a in done})
    ]


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page; fails where tags do not close in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not set(self._open) & {"style", "script"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        """What a reader reads, with plain spaces."""
        return re.sub(r"\s+", " ", "".join(self.words).replace("\N{NARROW NO-BREAK SPACE}", " "))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)
