"""The Hydra jobs: which schema, which groups, which function."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmrl import config as configuration
from vlmrl.annotate import LABELERS
from vlmrl.cli import (
    audit,
    benchmark,
    compare,
    deploy,
    evaluate,
    flywheel,
    help,
    label,
    route,
    run,
    score,
    serve,
    settings,
    train,
)
from vlmrl.learn import LEARNERS


@dataclass(frozen=True)
class Job:
    """One Hydra application; its YAML is `conf/<name>.yaml`."""

    config: type
    main: Callable[[Mapping[str, Any], Path], None]
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


JOBS = {
    "run": Job(settings.RunConfig, run.main, {"labeler": LABELERS, "learner": LEARNERS}),
    "label": Job(label.LabelConfig, label.main, {"labeler": LABELERS}),
    "benchmark": Job(benchmark.BenchmarkConfig, benchmark.main),
    "audit": Job(audit.AuditConfig, audit.main),
    "route": Job(route.RouteConfig, route.main),
    "serve": Job(serve.ServeConfig, serve.main),
    "score": Job(score.ScoreConfig, score.main, {"rewarder": score.SCORERS}),
    "train": Job(train.TrainConfig, train.main, {"learner": LEARNERS}),
    "evaluate": Job(evaluate.EvaluateConfig, evaluate.main),
    "flywheel": Job(flywheel.FlywheelConfig, flywheel.main, {"labeler": LABELERS, "learner": LEARNERS}),
    "deploy": Job(deploy.DeployConfig, deploy.main),
    "record": Job(deploy.RecordConfig, deploy.record),
}

OF_LABEL = ("audit", "benchmark", "route", "serve")
"""Jobs that are called as `vlmrl label NAME`."""


def run_job(name: str, arguments: Sequence[str]) -> None:
    """Compose the configuration of a job from the command line and run it; those of OF_LABEL are jobs of their own."""
    command = name
    if name == "evaluate" and arguments[:1] == ["compare"]:
        compare.main(arguments[1:])
        return
    if name == "label" and arguments and arguments[0] in OF_LABEL:
        command, name, arguments = f"label {arguments[0]}", arguments[0], arguments[1:]
    if name == "label":
        arguments = ["dry_run=true" if a == "--dry-run" else a for a in arguments]
    if name == "train":
        arguments = ["resume=true" if a == "--resume" else a for a in arguments]
    job = JOBS[name]
    if any(a in ("-h", "--help") for a in arguments):
        print(help.text(name, job.config, job.groups, command=command))
        return
    register()
    configuration.run_hydra(name, job.main, arguments, command=command)


def register() -> None:
    """Tell Hydra every schema."""
    configuration.register_group("labeler", LABELERS)
    configuration.register_group("learner", LEARNERS)
    configuration.register_group("rewarder", score.SCORERS)
    for name, job in JOBS.items():
        configuration.register_job(name, job.config)
