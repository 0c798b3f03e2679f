"""Robustness suites, `conf/suite/*.yaml`: one policy from the same starts under conditions of rising strength."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml

from vlmrl.content import find, places
from vlmrl.errors import ConfigError, unknown
from vlmrl.evaluate.candidates import Arm, Candidate
from vlmrl.evaluate.job import Plan, evaluate
from vlmrl.evaluate.rollout import Rollouts
from vlmrl.evaluate.statistics import difference
from vlmrl.interval import Interval, wilson
from vlmrl.sim import Task
from vlmrl.sim.variation import RANGES

NOMINAL = "nominal"


@dataclass(frozen=True)
class Condition:
    """A task under one strength of a suite; its initial states are those of the nominal task."""

    label: str
    task: Task


@dataclass(frozen=True)
class Line:
    """What a policy did under one condition."""

    label: str
    rollouts: Rollouts
    success: Interval
    """Wilson's."""
    versus: Interval
    """Success minus that of the nominal condition, paired by initial state."""


def suite_names() -> list[str]:
    """Every suite, yours (./conf/suite) and the installed ones."""
    return sorted({path.stem for place in places("conf") for path in (place / "suite").glob("*.yaml")})


def about(name: str) -> str:
    """What the conditions of a suite do."""
    return str(_read(name)["about"])


def conditions(task: Task, name: str) -> list[Condition]:
    """The task as it is, and under each condition of the suite; what the task varies besides goes on varying.

    Raises:
        ConfigError: if there is no such suite, or it says what a variation does not know.
    """
    found = [Condition(NOMINAL, task)]
    for k, given in enumerate(_read(name)["conditions"]):
        ranges = {key: _range(key, value, f"suite {name!r}") for key, value in given.items()}
        variation = replace(task.variation, **ranges)
        variation.check(f"suite {name!r}")
        label = ", ".join(f"{key} {_shown(value)}" for key, value in given.items())
        found.append(Condition(label, replace(task, name=f"{task.name}@{name}-{k + 1}", variation=variation)))
    return found


def run(task: Task, name: str, candidate: Candidate, plan: Plan, folder: Path) -> list[Line]:
    """Run a policy, made anew for each condition, from the same seeds under every condition of a suite.

    Episodes are kept in `folder` as they end, and those that are there are not run again.

    Raises:
        ConfigError: if there is no such suite, or the folder holds episodes of something else.
    """
    lines: list[Line] = []
    for condition in conditions(task, name):
        arms = {candidate.source: Arm(candidate.source, (candidate,))}
        [done] = evaluate(condition.task, arms, plan, folder, quiet=False).rollouts[candidate.source]
        nominal = lines[0].rollouts.success if lines else done.success
        versus = difference(done.success[None].astype(np.float64), nominal[None].astype(np.float64))
        lines.append(Line(condition.label, done, wilson(int(done.success.sum()), len(done.success)), versus))
    return lines


def text(lines: Sequence[Line]) -> str:
    """The table as a terminal prints it."""
    width = max(len(line.label) for line in lines)
    rows = [f"{'condition':{width}}  {'success':18}  {'minus nominal':22}  return"]
    for line in lines:
        versus = "" if line.label == NOMINAL else str(line.versus)
        rows.append(
            f"{line.label:{width}}  {line.success.percent():18}  {versus:22}  {line.rollouts.returns.mean():.1f}"
        )
    return "\n".join(rows)


def as_json(lines: Sequence[Line]) -> list[dict[str, object]]:
    """The lines as a run folder keeps them, with every episode's success."""
    return [
        {
            "condition": line.label,
            "success": vars(line.success),
            "minus_nominal": vars(line.versus),
            "seeds": line.rollouts.seeds.tolist(),
            "episodes": line.rollouts.success.tolist(),
            "returns": [float(r) for r in line.rollouts.returns],
        }
        for line in lines
    ]


def _read(name: str) -> Mapping[str, Any]:
    if name not in (have := suite_names()):
        raise unknown("suite", name, have)
    path = find("conf", f"suite/{name}.yaml")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or set(content) != {"about", "conditions"}:
        raise ConfigError(f"{path}: keys about and conditions wanted, found {content!r}")
    return content


def _range(key: str, value: object, where: str) -> tuple[float, ...]:
    """A single number is drawn always."""
    if key not in RANGES:
        raise ConfigError(f"{where}: {unknown('value that varies', key, RANGES)}")
    numbers = cast("list[Any]", value if isinstance(value, list) else [value, value])
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
        raise ConfigError(f"{where}: {key}: a number or a list of low and high wanted, found {value!r}")
    return tuple(float(n) for n in numbers)


def _shown(value: Any) -> str:
    return " to ".join(f"{n:g}" for n in value) if isinstance(value, list) else f"{value:g}"
