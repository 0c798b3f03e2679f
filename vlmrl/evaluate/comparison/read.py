"""What an evaluation leaves in its run folder for the page, and how the page reads it back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlmrl.errors import ConfigError, DataError
from vlmrl.evaluate import results as tables
from vlmrl.evaluate import sequential
from vlmrl.evaluate.job import Evaluated, place
from vlmrl.evaluate.lanes import Outcome
from vlmrl.evaluate.normalised import Reference, reference
from vlmrl.evaluate.rollout import Rollouts, evaluation_seeds, gathered
from vlmrl.interval import Interval
from vlmrl.runfolder import read_json, write_json
from vlmrl.sim import load_task

FILE = "results.json"


@dataclass(frozen=True)
class Entry:
    """One method in one task of one run."""

    run: str
    task: str
    task_version: str
    """Of the task's file and scene, where it is known; only like is compared with like."""
    method: str
    trained: bool
    rollouts: Sequence[Rollouts]
    """One for each training seed."""
    sources: Sequence[str]
    horizon: int
    control_hz: float
    remarks: Sequence[str] = ()
    stopped: Interval | None = None
    """The success rate's anytime-valid interval, where the number of episodes was not fixed before."""
    reference: Reference | None = None
    film: Path | None = None
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])


def keep(results: Sequence[Evaluated], content: Mapping[str, object], folder: Path) -> None:
    """Write what was found, and where its episodes lie."""
    lines = {(line["task"], line["method"]): line for line in content["lines"]}  # type: ignore[attr-defined]
    arms = [
        {
            "task": found.task.name,
            "task_version": _version(place(folder, found.task.name, name, 0)),
            "method": name,
            "trained": found.arms[name].trained,
            "sources": [c.source for c in found.arms[name].candidates],
            "episodes": len(rollouts[0].seeds),
            "horizon": found.task.horizon,
            "control_hz": found.task.control_hz,
            "remarks": list(lines[found.task.name, name]["remarks"]),
            "stopped": asdict(_any_time(rollouts[0])) if found.stopped else None,
            "reference": asdict(scale) if (scale := reference(found.task)) else None,
        }
        for found in results
        for name, rollouts in found.rollouts.items()
    ]
    write_json(folder / FILE, dict(content) | {"arms": arms})


def _any_time(rollouts: Rollouts) -> Interval:
    return sequential.rate(int(rollouts.success.sum()), len(rollouts.success))


def read(folder: Path) -> list[Entry]:
    """The methods of a run folder of `vlmrl evaluate` or `vlmrl run`.

    Raises:
        ConfigError: if it holds no evaluation.
        DataError: if a file is damaged.
    """
    if not (folder / FILE).is_file():
        raise ConfigError(f"{folder} holds no {FILE}: wanted the run folder of a finished vlmrl evaluate or vlmrl run")
    content = read_json(folder / FILE)
    if isinstance(content, list):
        return _of_run(folder)
    return [_entry(folder, arm) for arm in content["arms"]]


def _entry(folder: Path, arm: Mapping[str, Any]) -> Entry:
    several = []
    for k in range(len(arm["sources"])):
        path = place(folder, arm["task"], arm["method"], k)
        key, *lines = _lines(path)
        # A line that is there twice is one episode, as when the evaluation itself is gone on with.
        episodes = {line["seed"]: Outcome.from_json(line) for line in lines}
        found = [episodes[seed] for seed in evaluation_seeds(arm["episodes"]) if seed in episodes]
        if len(found) < arm["episodes"]:
            raise DataError(f"{path} holds {len(found)} of {arm['episodes']} episodes; run the evaluation again")
        several.append(gathered(arm["method"], found, weights=str(key.get("weights", ""))))
    film = folder / "films" / arm["task"] / f"{arm['method'].replace('/', '_')}.mp4"
    return Entry(
        run=folder.name,
        task=arm["task"],
        task_version=arm["task_version"],
        method=arm["method"],
        trained=arm["trained"],
        rollouts=several,
        sources=arm["sources"],
        horizon=arm["horizon"],
        control_hz=arm["control_hz"],
        remarks=arm["remarks"],
        stopped=Interval(**arm["stopped"]) if arm["stopped"] else None,
        reference=Reference(**arm["reference"]) if arm["reference"] else None,
        film=film if film.is_file() else None,
        meta=read_json(folder / "meta.json"),
    )


def _of_run(folder: Path) -> list[Entry]:
    """The arms of the main job."""
    config, made = read_json(folder / "config.json"), []
    task = load_task(config["task"])
    for name in config["arms"]:
        alone = folder / "results" / f"{name}.json"
        paths = [alone] if alone.is_file() else [folder / "results" / name / f"seed{s}.json" for s in config["seeds"]]
        if not (rollouts := [tables.load(path) for path in paths if path.is_file()]):
            continue
        film = folder / "videos" / f"{name}.mp4"
        sources = [str(path.relative_to(folder)) for path in paths]
        made.append(
            Entry(
                folder.name,
                task.name,
                rollouts[0].task_version,
                name,
                name != "behaviour",
                rollouts,
                sources,
                task.horizon,
                task.control_hz,
                reference=reference(task),
                film=film if film.is_file() else None,
                meta=read_json(folder / "meta.json"),
            )
        )
    return made


def _version(path: Path) -> str:
    return str(_lines(path)[0].get("task_version", ""))


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); run the evaluation again with the same out") from error
