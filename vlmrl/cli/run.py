"""`vlmrl run`: the main job, from logs and a sentence to evaluated policies and one report.

Every stage leaves its result in the run folder and is skipped when it is there, so that the same command with the same
`out` goes on where it was cut.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmrl import config as configuration
from vlmrl.cli import label as labeling
from vlmrl.cli.choosing import pick_camera
from vlmrl.cli.collect import progress_bar
from vlmrl.cli.distill import distill_all
from vlmrl.cli.settings import RunConfig, continues, fitting, pick_task
from vlmrl.cli.train import Training, check_chunk, train_all
from vlmrl.errors import ConfigError
from vlmrl.evaluate import collect, job, report, results
from vlmrl.evaluate.candidates import Arm, Candidate, Mixture
from vlmrl.evaluate.journal import task_key
from vlmrl.evaluate.rollout import Rollouts, rollout
from vlmrl.evaluate.video import write_video
from vlmrl.reward import rewarder
from vlmrl.reward.preference import PreferenceReward
from vlmrl.reward.relabel import relabel
from vlmrl.reward.shaping import check, derived
from vlmrl.runfolder import masked, provenance, write_json
from vlmrl.sim import Task
from vlmrl.store import Store


def main(content: Mapping[str, Any], folder: Path) -> None:
    """Run the job that a composed configuration describes."""
    config = configuration.build(RunConfig, content, where="run")
    task = pick_task(config)
    check(config.shaping, of_actions=config.reward.input == "state_action")
    for settings in (content["learner"], content["bc"] | {"name": "bc"}):
        check_chunk(config.chunk, settings)
    content = dict(content) | {"task": task.name if task else None}
    continues(content, folder)
    store = Store.open(config.store) if config.store else collected(config, task, folder)
    config = fitting(config, store, task)
    write_json(folder / "config.json", masked(content))
    write_json(folder / "meta.json", provenance() | {"store": store.hash, "seeds": list(config.seeds)})
    labels = label(config, content, store, folder)
    rewards = reward_columns(config, store, labels, folder)
    trainings = plan(config, content, store, rewards, folder)
    train_all(trainings, workers=config.workers)
    if task is not None:
        done = evaluate(config, task, trainings, folder)
        rows = results.table(done, baselines=("bc", "constant"), trained={a: a != "behaviour" for a in done})
        print(f"\n{results.text(rows)}\n")
        print(summary(config, labels, task))
        write_json(folder / "results.json", [results.as_json(row) for row in rows])
    path = report.write(folder, store)
    print(f"report: {path}")


def collected(config: RunConfig, task: Task | None, folder: Path) -> Store:
    """The run's own simulated logs, with what is missing of them collected."""
    if task is None:
        raise ConfigError("collecting needs a task")
    path = folder / "store"
    with progress_bar() as progress:
        return collect.fill(path, task, config.collect, workers=config.workers, progress=progress)


def label(config: RunConfig, content: Mapping[str, Any], store: Store, folder: Path) -> labeling.Labels | None:
    """Ask about pairs, unless no arm needs the answers."""
    if "learned" not in config.arms:
        return None
    labels = labeling.annotate(
        store,
        content["labeler"],
        camera=pick_camera(store, config.camera),
        sentence=config.sentence,
        pairs=config.pairs,
        seed=config.label_seed,
        ledger=config.ledger,
        limits=config.limits,
        check_order=config.check_order,
        asking=config.ask,
    )
    print(labeling.describe(labels.report))
    print(f"on these data: {labels.trust}")
    if labels.report.stopped_by:
        print(labeling.stopped(labels.report))
    if labels.report.stopped_by == "interrupt":
        raise KeyboardInterrupt
    write_json(folder / "labels.json", labeling.as_json(labels, store))
    return labels


def reward_columns(
    config: RunConfig, store: Store, labels: labeling.Labels | None, folder: Path
) -> dict[tuple[str, int], str | None]:
    """The reward column of each arm and seed, written where it is missing; None: no reward is read."""
    if labels is not None:
        distill_all(
            store,
            labels.preferences,
            config.reward,
            camera=pick_camera(store, config.camera),
            seeds=config.seeds,
            folder=folder / "rewards",
            workers=config.workers,
        )
    columns: dict[tuple[str, int], str | None] = {}
    for seed in config.seeds:
        for arm in config.arms:
            if arm == "learned" and labels is not None:
                trained = PreferenceReward.from_pretrained(folder / "rewards" / f"seed{seed}")
                name = labeling.column(labels.preferences, trained)
                relabel(store, trained, name)
                columns[arm, seed] = derived(store, name, config.shaping)
                print(f"reward, seed {seed}: held out {labeling.quality(trained.facts['held_out'])}")
            elif arm in ("constant", "ground_truth"):
                module = rewarder(arm)
                relabel(store, module.build(module.Config()), arm)
                columns[arm, seed] = arm
            elif arm == "bc":
                columns[arm, seed] = None
    return columns


def plan(
    config: RunConfig,
    content: Mapping[str, Any],
    store: Store,
    rewards: Mapping[tuple[str, int], str | None],
    folder: Path,
) -> list[Training]:
    """One training for each arm and seed."""
    return [
        Training(
            name=arm,
            seed=seed,
            store=str(store.path),
            reward=column,
            learner=content["bc"] | {"name": "bc"} if arm == "bc" else content["learner"],
            obs=config.obs,
            folder=str(folder / "policies" / arm / f"seed{seed}"),
            curve_task=content["task"],
            curve_every=config.evaluate.curve_every,
            curve_episodes=config.evaluate.curve_episodes,
            tracker=config.tracker,
            chunk=config.chunk,
        )
        for (arm, seed), column in rewards.items()
    ]


def evaluate(config: RunConfig, task: Task, trainings: Sequence[Training], folder: Path) -> dict[str, list[Rollouts]]:
    """Roll out every policy from the same initial states; films of the first seed's policies go to `videos/`."""
    arms: dict[str, Arm] = {}
    if "behaviour" in config.arms:
        mixture = Mixture("behaviour", policies=config.collect.policies, shares=config.collect.noise)
        arms["behaviour"] = Arm("behaviour", (mixture,))
    # Each training seed by its own name: the list of seeds may grow when a run is gone on with.
    arms |= {f"{t.name}/seed{t.seed}": Arm(t.name, (Candidate(t.folder),)) for t in trainings}
    plan = job.Plan(config.evaluate.episodes, workers=config.workers or len(os.sched_getaffinity(0)))
    version, done = task_key(task)["task_version"], dict[str, list[Rollouts]]()
    for place, (found,) in job.evaluate(task, arms, plan, folder, quiet=False).rollouts.items():
        name = arms[place].name
        rollouts = dataclasses.replace(found, policy=name, task_version=version)
        results.save(rollouts, folder / "results" / f"{place}.json")
        if name not in done:
            film(config, task, arms[place].candidates[0], rollouts, folder / "videos" / f"{name}.mp4")
        done.setdefault(name, []).append(rollouts)
    return done


def film(config: RunConfig, task: Task, candidate: Candidate, rollouts: Rollouts, path: Path) -> None:
    """Film the first initial state, unless a film is there."""
    if path.is_file():
        return
    seen = rollout(task, candidate.make(task), rollouts.seeds[:1].tolist(), film_every=config.evaluate.film_every)
    write_video(seen.video, path, fps=task.control_hz / config.evaluate.film_every)


def summary(config: RunConfig, labels: labeling.Labels | None, task: Task) -> str:
    """What a reader of the table must know."""
    judge = f"labels by {labels.report.labeler}; " if labels else ""
    if labels and labels.report.stopped_by:
        judge += f"stopped by {labels.report.stopped_by} at {len(labels.preferences)} of {config.pairs} answers; "
    if task.resets.fixed:
        return (
            f"{judge}every episode of {task.name} starts alike: one initial state, and what varies is the policy's own"
        )
    if len(config.seeds) == 1:
        return f"{judge}one training seed: a smoke test, not a claim (intervals are over episodes only)"
    return f"{judge}{len(config.seeds)} training seeds; intervals are 95 %, over seeds and initial states"
