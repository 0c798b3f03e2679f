"""`vlmrl task suite`: how a policy, or the built-in judge, bears a robustness suite."""

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vlmrl.cli.given import configured
from vlmrl.errors import ConfigError
from vlmrl.evaluate import suites
from vlmrl.evaluate.candidates import arm
from vlmrl.evaluate.job import Plan
from vlmrl.runfolder import provenance, write_json
from vlmrl.sim import Task, load_task


@dataclass(frozen=True)
class SuiteConfig:
    """What is put to the test, and how often."""

    suite: str
    """A file of conf/suite/."""
    task: str = "drawer_open"
    policy: str = ""
    """Folder or hub id of a saved policy; expert: the task's scripted one; random."""
    episodes: int = 20
    """Initial states, the same under every condition."""
    judge: str = ""
    """Checkpoint of a judge, as labeler=judge takes it, to be examined on the task's pictures instead of a policy."""
    pairs: int = 2_000
    """Questions to the judge under each condition."""
    out: str = ""
    """Folder of the table and the episodes behind it, in which the same command goes on where it was cut; empty: none
    is kept."""
    workers: int = 1
    """Processes that episodes run in; 0: as many as there are processors. The result does not depend on it."""


def main(settings: list[str] | None) -> str:
    """Run what the settings ask for; without any, list the suites.

    Raises:
        ConfigError: if neither or both of policy and judge are given, or a name is unknown.
    """
    if not settings:
        return "\n".join(f"{name:16} {suites.about(name)}" for name in suites.suite_names())
    config = configured(SuiteConfig, settings, where="suite")
    if bool(config.policy) == bool(config.judge):
        raise ConfigError("either a policy (a folder, or expert) or a judge (seen, zeroshot or a folder) is wanted")
    if config.episodes < 1 or config.pairs < 1 or config.workers < 0:
        found = f"{config.episodes}, {config.pairs} and {config.workers}"
        raise ConfigError(f"episodes and pairs from 1, workers from 0 wanted, found {found}")
    task = load_task(config.task)
    name, table, lines = _judge(task, config) if config.judge else _policy(task, config)
    head = f"{name} in {task.name}, suite {config.suite}: {suites.about(config.suite)}"
    if config.out:
        write_json(Path(config.out) / "suite.json", {"what": head, "conditions": lines, "provenance": provenance()})
    return f"{head}\n\n{table}"


def _policy(task: Task, config: SuiteConfig) -> tuple[str, str, Any]:
    # As in an evaluation: reads the policy, so that one that cannot be had is refused before the first episode.
    [candidate] = arm([config.policy], noise=0.0, where="policy").candidates
    plan = Plan(config.episodes, workers=config.workers or len(os.sched_getaffinity(0)))
    with TemporaryDirectory() as nowhere:
        lines = suites.run(task, config.suite, candidate, plan, Path(config.out or nowhere))
    n = f"n = {config.episodes} episodes from the same initial states under every condition"
    note = f"{n}; success with Wilson 95 %, differences paired"
    return candidate.source, f"{suites.text(lines)}\n\n{note}", suites.as_json(lines)


def _judge(task: Task, config: SuiteConfig) -> tuple[str, str, Any]:
    from vlmrl.judge import robustness

    conditions = suites.conditions(task, config.suite)
    name, lines = robustness.examine(conditions, config.judge, episodes=config.episodes, pairs=config.pairs)
    n = f"{config.pairs} pairs of frames of {config.episodes} graded episodes, the same under every condition"
    note = f"{n}; those whose true progress differs are counted; 95 % by resampling episodes"
    return name, f"{robustness.text(lines)}\n\n{note}", robustness.as_json(lines)
