"""Rollouts on disk, and the table of a comparison."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vlmrl.evaluate.lanes import Outcome
from vlmrl.evaluate.rollout import Rollouts
from vlmrl.evaluate.statistics import difference, rate
from vlmrl.interval import Interval
from vlmrl.runfolder import write_json


@dataclass(frozen=True)
class Row:
    """One line of the result table."""

    arm: str
    seeds: int
    """Training seeds; 0 where nothing was trained."""
    episodes: int
    """Of each training seed."""
    success: Interval
    returns: float
    versus: Mapping[str, Interval]
    """Success minus that of each baseline, paired by training seed and initial state."""


def save(rollouts: Rollouts, path: Path) -> None:
    """Write what a policy did, episode by episode."""
    content = {
        "weights": rollouts.weights,
        "task_version": rollouts.task_version,
        "policy": rollouts.policy,
        "seeds": rollouts.seeds.tolist(),
        "success": rollouts.success.tolist(),
        "returns": [float(r) for r in rollouts.returns],
        "first_success": rollouts.first_success.tolist(),
        "episodes": [episode.as_json() for episode in rollouts.episodes],
    }
    write_json(path, content)


def load(path: Path) -> Rollouts:
    """Read what `save` wrote."""
    content = json.loads(path.read_text())
    return Rollouts(
        content["policy"],
        np.array(content["seeds"], np.int64),
        np.array(content["success"], np.bool_),
        np.array(content["returns"], np.float32),
        np.array(content["first_success"], np.int64),
        weights=content.get("weights", ""),
        task_version=content.get("task_version", ""),
        episodes=tuple(Outcome.from_json(episode) for episode in content.get("episodes", ())),
    )


def table(
    results: Mapping[str, Sequence[Rollouts]], *, baselines: Sequence[str], trained: Mapping[str, bool]
) -> list[Row]:
    """One row an arm; `results` holds the rollouts of each arm's training seeds, in the order of the seeds."""
    success = {arm: stacked(rollouts) for arm, rollouts in results.items()}
    rows = []
    for arm, rollouts in results.items():
        others = [b for b in baselines if b in success and b != arm]
        versus = {b: difference(success[arm], success[b]) for b in others}
        returns = float(np.mean([r.returns.mean() for r in rollouts]))
        seeds = len(rollouts) if trained[arm] else 0
        rows.append(Row(arm, seeds, success[arm].shape[1], rate(success[arm]), returns, versus))
    return rows


def text(rows: Sequence[Row]) -> str:
    """The table as a terminal prints it."""
    baselines = list(dict.fromkeys(b for row in rows for b in row.versus))
    head = ["policy", "seeds", "episodes", "success", "return", *(f"minus {b}" for b in baselines)]
    body = [
        [
            row.arm,
            str(row.seeds or "-"),
            str(row.episodes),
            row.success.percent(),
            f"{row.returns:.0f}",
            *(f"{row.versus[b]}" if b in row.versus else "" for b in baselines),
        ]
        for row in rows
    ]
    widths = [max(len(line[k]) for line in [head, *body]) for k in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *body]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def stacked(rollouts: Sequence[Rollouts]) -> Float[np.ndarray, "seeds episodes"]:
    """Success of each training seed's episodes, 0 or 1."""
    return np.stack([r.success.astype(np.float64) for r in rollouts])


def as_json(row: Row) -> dict[str, object]:
    """A row as the run folder keeps it."""
    return dataclasses.asdict(row)
