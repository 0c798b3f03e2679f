"""`vlmrl run`: the main job, from logs and a sentence to evaluated policies and one report.

Every stage leaves its result in the run folder and is skipped when it is there, so that the same command with the same
`out` goes on where it was cut.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vlmrl import config as configuration
from vlmrl.annotate import Limits
from vlmrl.artefact import fingerprint
from vlmrl.cli import label as labeling
from vlmrl.cli.pool import side_by_side
from vlmrl.cli.train import Training, train_all
from vlmrl.errors import ConfigError
from vlmrl.evaluate import collect, report, results
from vlmrl.evaluate.collect import Config as CollectConfig
from vlmrl.evaluate.rollout import Rollouts, evaluation_seeds, rollout
from vlmrl.evaluate.video import write_video
from vlmrl.learn.bc import Config as BcConfig
from vlmrl.policy import LearnedPolicy
from vlmrl.reward import rewarder
from vlmrl.reward.distill import distill
from vlmrl.reward.preference import Config as RewardConfig
from vlmrl.reward.preference import PreferenceReward
from vlmrl.reward.relabel import relabel
from vlmrl.runfolder import Metrics, flatten, provenance, read_json, write_json
from vlmrl.sim import Task, load_task
from vlmrl.store import Store
from vlmrl.types import Policy, Preferences

FREE = ("arms", "seeds", "evaluate", "limits", "ledger", "workers", "out")
"""Settings that may change when a run is gone on with: results are keyed by them, or do not depend on them."""

ARMS = ("behaviour", "bc", "constant", "learned", "ground_truth")
"""What is compared: the data's own policy, cloning, and the learner on three rewards."""


@dataclass(frozen=True)
class EvaluateConfig:
    """How policies are compared."""

    episodes: int = 20
    """Initial states, shared by all policies."""
    film_every: int = 3
    """Control steps between pictures of a video."""
    curve_every: int = 2_000
    """Updates between points of the learning curves."""
    curve_episodes: int = 10


@dataclass(frozen=True)
class RunConfig:
    """Settings of the main job."""

    task: str | None = "drawer_open"
    """Folder of tasks/; null: logs without a simulator, nothing is evaluated."""
    sentence: str | None = None
    """What the robot should do; null: the task's or the logs' own."""
    store: str | None = None
    """Folder of a store of logs; null: mixed-quality data is collected in the task's simulation."""
    camera: str | None = None
    """Whose pictures are judged; null: the store's first."""
    collect: CollectConfig = field(default_factory=CollectConfig)
    pairs: int = 5_000
    """Questions about pairs of frames."""
    label_seed: int = 0
    labeler: Any = None
    """Who answers."""
    limits: Limits = field(default_factory=Limits)
    ledger: str = "runs/labels.db"
    """Where answers are kept, so that none is paid for twice."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    bc: BcConfig = field(default_factory=BcConfig)
    learner: Any = None
    """Algorithm of the arms constant, learned and ground_truth."""
    obs: tuple[str, ...] = ("state",)
    arms: tuple[str, ...] = ARMS
    seeds: tuple[int, ...] = (0,)
    """Training seeds; each trains its own reward and its own policies. One is a smoke test, five make a claim."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    workers: int = 0
    """Training runs side by side; 0: as many as there are processors."""


def main(content: Mapping[str, Any], folder: Path) -> None:
    """Run the job that a composed configuration describes."""
    config = configuration.build(RunConfig, content, where="run")
    unknown = [arm for arm in config.arms if arm not in ARMS]
    if unknown:
        raise ConfigError(f"unknown arms {unknown}; have: {', '.join(ARMS)}")
    if config.task is None and config.store is None:
        raise ConfigError("nothing to work on: give task=NAME (vlmrl task list), store=FOLDER, or both")
    task = load_task(config.task) if config.task else None
    continues(content, folder)
    write_json(folder / "config.json", dict(content))
    store = prepare_store(config, task, folder)
    write_json(folder / "meta.json", provenance() | {"store": store.hash, "seeds": list(config.seeds)})
    labels = label(config, content, store, task, folder)
    rewards = reward_columns(config, store, labels, folder)
    trainings = plan(config, content, store, rewards, folder)
    train_all(trainings, workers=config.workers)
    if task is not None:
        done = evaluate(config, task, trainings, folder)
        rows = results.table(done, baselines=("bc", "constant"), trained={a: a != "behaviour" for a in done})
        print(f"\n{results.text(rows)}\n")
        print(summary(config, labels))
        write_json(folder / "results.json", [results.as_json(row) for row in rows])
    path = report.write(folder, store)
    print(f"report: {path}")


def continues(content: Mapping[str, Any], folder: Path) -> None:
    """Check that a run folder that is gone on with was made with the same settings.

    Raises:
        ConfigError: if a setting differs that results in the folder depend on.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    before, now = (flatten({k: v for k, v in c.items() if k not in FREE}) for c in (read_json(path), content))
    changed = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    if changed:
        differences = "; ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in changed)
        raise ConfigError(f"{folder} holds a run with other settings ({differences}); choose another out=FOLDER")


def prepare_store(config: RunConfig, task: Task | None, folder: Path) -> Store:
    """Open the logs, or collect what is missing of the simulated ones."""
    if config.store is not None:
        return Store.open(config.store)
    if task is None:
        raise ConfigError("collecting needs a task")
    path = folder / "store"
    if not (path / "manifest.json").exists():
        collect.create_store(path, task)
    store = Store.open(path)
    have = len(store.episodes.id)
    with tqdm(total=config.collect.episodes, initial=have, desc="collect", unit="episode", dynamic_ncols=True) as bar:
        pending = []
        for episode in collect.collect(task, config.collect, start=have):
            pending.append(episode)
            if len(pending) == 20 or have + len(pending) == config.collect.episodes:
                store.append(pending)
                have, pending = have + len(pending), []
            bar.update()
    store.refresh()
    return store


def label(
    config: RunConfig, content: Mapping[str, Any], store: Store, task: Task | None, folder: Path
) -> labeling.Labels | None:
    """Ask about pairs, unless no arm needs the answers."""
    if "learned" not in config.arms:
        return None
    sentence = config.sentence or (task.instruction if task else None)
    labels = labeling.annotate(
        store,
        content["labeler"],
        camera=labeling.pick_camera(store, config.camera),
        sentence=labeling.pick_sentence(store, sentence),
        pairs=config.pairs,
        seed=config.label_seed,
        ledger=config.ledger,
        limits=config.limits,
    )
    print(labeling.describe(labels.report))
    write_json(folder / "labels.json", labeling.as_json(labels, store))
    return labels


def reward_columns(
    config: RunConfig, store: Store, labels: labeling.Labels | None, folder: Path
) -> dict[tuple[str, int], str | None]:
    """The reward column of each arm and seed, written where it is missing; None: no reward is read."""
    if labels is not None:
        distill_all(config, store, labels, folder)
    columns: dict[tuple[str, int], str | None] = {}
    for seed in config.seeds:
        for arm in config.arms:
            if arm == "learned" and labels is not None:
                trained = PreferenceReward.from_pretrained(folder / "rewards" / f"seed{seed}")
                columns[arm, seed] = labeling.column(labels.preferences, trained)
                relabel(store, trained, labeling.column(labels.preferences, trained))
                print(f"reward, seed {seed}: held out {labeling.quality(trained.facts['held_out'])}")
            elif arm in ("constant", "ground_truth"):
                module = rewarder(arm)
                relabel(store, module.build(module.Config()), arm)
                columns[arm, seed] = arm
            elif arm == "bc":
                columns[arm, seed] = None
    return columns


@dataclass(frozen=True)
class Distillation:
    """One reward to train."""

    store: str
    preferences: Preferences
    config: RewardConfig
    camera: str
    seed: int
    folder: str
    quiet: bool

    @property
    def done(self) -> bool:
        """Whether the reward of these very answers is there already."""
        path = Path(self.folder) / "config.json"
        return path.is_file() and read_json(path)["facts"]["snapshot"] == self.preferences.snapshot


def distill_all(config: RunConfig, store: Store, labels: labeling.Labels, folder: Path) -> None:
    """Distill the answers once for each seed, unless it is done."""
    camera = labeling.pick_camera(store, config.camera)
    # Bars of several processes would write over each other.
    quiet = len(config.seeds) > 1
    wanted = [
        Distillation(
            str(store.path),
            labels.preferences,
            config.reward,
            camera,
            seed,
            str(folder / "rewards" / f"seed{seed}"),
            quiet,
        )
        for seed in config.seeds
    ]
    missing = [one for one in wanted if not one.done]
    progress = side_by_side(distill_one, missing, workers=config.workers)
    for _ in tqdm(progress, desc="distill", unit="reward", total=len(missing), disable=not missing or not quiet):
        pass


def distill_one(one: Distillation) -> None:
    """Train one reward and save it."""
    folder = Path(one.folder)
    metrics = Metrics(folder.parent.parent / "metrics.jsonl")
    name = f"reward/seed{one.seed}"
    trained = distill(
        Store.open(one.store), one.preferences, one.config,
        camera=one.camera, seed=one.seed, metrics=metrics, name=name, quiet=one.quiet,
    )  # fmt: skip
    trained.save_pretrained(folder)


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
            curve_task=config.task,
            curve_every=config.evaluate.curve_every,
            curve_episodes=config.evaluate.curve_episodes,
        )
        for (arm, seed), column in rewards.items()
    ]


def evaluate(config: RunConfig, task: Task, trainings: Sequence[Training], folder: Path) -> dict[str, list[Rollouts]]:
    """Roll out every policy from the same initial states; films of the first seed's policies go to `videos/`."""
    done: dict[str, list[Rollouts]] = {}
    if "behaviour" in config.arms and config.store is None:
        policy = collect.GradedPolicy(task, config.collect.noise)
        video = folder / "videos" / "behaviour.mp4"
        done["behaviour"] = [roll(config, task, policy, folder / "results" / "behaviour.json", video=video)]
    for training in tqdm(trainings, desc="evaluate", unit="policy", dynamic_ncols=True):
        policy = LearnedPolicy.from_pretrained(training.folder)
        path = folder / "results" / training.name / f"seed{training.seed}.json"
        first = training.seed == config.seeds[0]
        video = folder / "videos" / f"{training.name}.mp4" if first else None
        weights = fingerprint(training.folder)
        done.setdefault(training.name, []).append(roll(config, task, policy, path, video=video, weights=weights))
    return done


def roll(
    config: RunConfig, task: Task, policy: Policy, path: Path, *, video: Path | None, weights: str = ""
) -> Rollouts:
    """Evaluate one policy, or read what it did with these weights from these initial states."""
    seeds = evaluation_seeds(config.evaluate.episodes)
    known = results.load(path) if path.is_file() else None
    if known is not None and known.seeds.tolist() == seeds and known.weights == weights:
        return known
    found = rollout(task, policy, seeds, film_every=config.evaluate.film_every if video else 0)
    if found.video and video is not None:
        write_video(found.video, video, fps=task.control_hz / config.evaluate.film_every)
    results.save(dataclasses.replace(found, weights=weights), path)
    return found


def summary(config: RunConfig, labels: labeling.Labels | None) -> str:
    """What a reader of the table must know."""
    judge = f"labels by {labels.report.labeler}; " if labels else ""
    if len(config.seeds) == 1:
        return f"{judge}one training seed: a smoke test, not a claim (intervals are over episodes only)"
    return f"{judge}{len(config.seeds)} training seeds; intervals are 95 %, over seeds and episodes within them"
