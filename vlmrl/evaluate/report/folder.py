"""Reads what a run folder holds; what is not there is absent, what is damaged is an error."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmrl.errors import DataError
from vlmrl.evaluate import results
from vlmrl.evaluate.results import Row
from vlmrl.evaluate.rollout import Rollouts
from vlmrl.interval import Interval
from vlmrl.runfolder import Metrics

UNTRAINED = -1
"""Seed of an arm that nothing was trained for."""


@dataclass(frozen=True)
class Run:
    """One run, as its folder tells it."""

    folder: Path
    config: Mapping[str, Any]
    meta: Mapping[str, Any]
    labels: Mapping[str, Any] | None
    rows: Sequence[Row]
    """Of the result table; none where nothing was evaluated."""
    rollouts: Mapping[str, Mapping[int, Rollouts]]
    """By arm and training seed."""
    rewards: Mapping[int, Mapping[str, Any]]
    """Facts of each seed's learned reward."""
    curves: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]
    """Training records by arm and seed."""
    fitting: Mapping[int, Sequence[Mapping[str, Any]]]
    """Training records of each seed's reward."""
    films: Mapping[str, Path]

    @property
    def seeds(self) -> list[int]:
        """Training seeds of this run."""
        return [int(seed) for seed in self.config.get("seeds", ())]

    @property
    def scripted(self) -> bool:
        """Whether the answers came from a simulator's truth instead of a judge of pictures."""
        name = str((self.config.get("labeler") or {}).get("name", ""))
        return name == "scripted" or str((self.labels or {}).get("labeler", "")).startswith("scripted")

    def row(self, arm: str) -> Row | None:
        """The arm's line of the result table."""
        return next((row for row in self.rows if row.arm == arm), None)


def read(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        DataError: if a file is there but cannot be read.
    """
    config = _json(folder / "config.json") or {}
    seeds = [int(seed) for seed in config.get("seeds", ())]
    arms = [str(arm) for arm in config.get("arms", ())]
    rewards = {seed: _json(folder / "rewards" / f"seed{seed}" / "config.json") for seed in seeds}
    metrics = Metrics(folder / "metrics.jsonl")
    return Run(
        folder=folder,
        config=config,
        meta=_json(folder / "meta.json") or {},
        labels=_json(folder / "labels.json"),
        rows=[_row(content) for content in _json(folder / "results.json") or ()],
        rollouts={arm: found for arm in arms if (found := _rollouts(folder / "results", arm, seeds))},
        rewards={seed: content["facts"] for seed, content in rewards.items() if content},
        curves={arm: found for arm in arms if (found := _curves(folder / "policies" / arm, seeds))},
        fitting={seed: found for seed in seeds if (found := metrics.read(f"reward/seed{seed}"))},
        films={arm: path for arm in arms if (path := folder / "videos" / f"{arm}.mp4").is_file()},
    )


def _json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is no JSON ({error}); delete it and run the job again with the same `out`") from error


def _row(content: Mapping[str, Any]) -> Row:
    versus = {str(arm): Interval(**interval) for arm, interval in content["versus"].items()}
    return Row(
        arm=str(content["arm"]),
        seeds=int(content["seeds"]),
        episodes=int(content["episodes"]),
        success=Interval(**content["success"]),
        returns=float(content["returns"]),
        versus=versus,
    )


def _rollouts(folder: Path, arm: str, seeds: Sequence[int]) -> dict[int, Rollouts]:
    paths = {UNTRAINED: folder / f"{arm}.json"} | {seed: folder / arm / f"seed{seed}.json" for seed in seeds}
    return {seed: results.load(path) for seed, path in paths.items() if path.is_file()}


def _curves(folder: Path, seeds: Sequence[int]) -> dict[int, Sequence[Mapping[str, Any]]]:
    found = {seed: Metrics(folder / f"seed{seed}" / "metrics.jsonl").read("train") for seed in seeds}
    return {seed: records for seed, records in found.items() if records}
