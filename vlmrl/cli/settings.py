"""Settings of the main job, and the checks that they pass before anything is collected or asked."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmrl.annotate import Limits
from vlmrl.annotate.asking import Asking
from vlmrl.errors import ConfigError, unknown
from vlmrl.evaluate.collect import Config as CollectConfig
from vlmrl.learn.bc import Config as BcConfig
from vlmrl.reward.preference import Config as RewardConfig
from vlmrl.runfolder import flatten, read_json
from vlmrl.sim import Task, load_task, make, task_names
from vlmrl.store import Store
from vlmrl.tracking import TrackerName

FREE = ("arms", "seeds", "evaluate", "limits", "ledger", "check_order", "workers", "tracker", "out")
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

    task: str | None = None
    """Folder of tasks/ in whose simulation policies are evaluated. null: drawer_open where data is collected; for logs
    the task that they name, if there is one of this name, else nothing is evaluated."""
    sentence: str | None = None
    """What the robot should do; null: the logs' own, or the task's where data is collected."""
    store: str | None = None
    """Folder of a store of logs; null: mixed-quality data is collected in the task's simulation."""
    camera: str | None = None
    """Whose pictures are judged; null: the store's first."""
    collect: CollectConfig = field(default_factory=CollectConfig)
    pairs: int = 5_000
    """Questions about pairs of frames."""
    check_order: int = 50
    """Pairs that are asked again with their sides swapped, to see whether the order matters."""
    ask: Asking = field(default_factory=Asking)
    """How a question is put."""
    label_seed: int = 0
    labeler: Any = None
    """Who answers."""
    limits: Limits = field(default_factory=Limits)
    ledger: str = "runs/labels.db"
    """Where answers are kept, so that none is paid for twice."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    shaping: tuple[str, ...] = ("since_start",)
    """Operations on the learned column, in turn: those of `vlmrl data shape`."""
    bc: BcConfig = field(default_factory=BcConfig)
    learner: Any = None
    """Algorithm of the arms constant, learned and ground_truth."""
    obs: tuple[str, ...] = ("state",)
    chunk: int = 1
    """Actions in a row that policies take for one (learners iql, td3bc; bc too), and value functions judge together."""
    arms: tuple[str, ...] = ARMS
    seeds: tuple[int, ...] = (0,)
    """Training seeds; each trains its own reward and its own policies. One is a smoke test, five make a claim."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    tracker: TrackerName = "jsonl"
    """Where the figures of training go besides metrics.jsonl: tensorboard or wandb, as of `vlmrl train`."""
    workers: int = 0
    """Processes that collect, and training runs side by side; 0: as many as there are processors."""


def continues(content: Mapping[str, Any], folder: Path) -> None:
    """Check that a run folder that is gone on with was made with the same settings.

    Raises:
        ConfigError: if a setting differs that results in the folder depend on.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    # A setting that a run of an earlier version did not have yet had what is the default now.
    usual = json.loads(json.dumps(dataclasses.asdict(RunConfig())))
    first, before, now = (
        flatten({k: v for k, v in c.items() if k not in FREE}) for c in (usual, read_json(path), content)
    )
    before = {key: first[key] for key in now.keys() & first.keys()} | before
    changed = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    if changed:
        differences = "; ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in changed)
        raise ConfigError(f"{folder} holds a run with other settings ({differences}); choose another out=FOLDER")


def pick_task(config: RunConfig) -> Task | None:
    """The task asked for, or the one that the data is of.

    Raises:
        ConfigError: if the task or an arm does not exist.
    """
    if wrong := [arm for arm in config.arms if arm not in ARMS]:
        raise unknown("arm", wrong[0], ARMS)
    if config.task:
        return load_task(config.task)
    if config.store is None:
        return load_task("drawer_open")
    recorded = set(Store.open(config.store).episodes.task)
    known = len(recorded) == 1 and {name.partition("@")[0] for name in recorded} <= set(task_names())
    return load_task(recorded.pop()) if known else None


def fitting(config: RunConfig, store: Store, task: Task | None) -> RunConfig:
    """The settings without the arms that this data cannot have, checked before the first question is asked.

    Raises:
        ConfigError: if policies of these logs cannot act in the task's simulation.
    """
    if config.store and task is not None:
        check_columns(store, task, config.obs)
    lacking = {"ground_truth"} if "truth/reward" not in store.columns() else set[str]()
    if config.store is not None or config.collect.replays:
        lacking.add("behaviour")
    for arm in lacking & set(config.arms):
        why = (
            "these logs hold no reward of a simulator" if arm == "ground_truth" else "who made these logs cannot be run"
        )
        print(f"arm {arm} left out: {why}")
    return dataclasses.replace(config, arms=tuple(arm for arm in config.arms if arm not in lacking))


def check_columns(store: Store, task: Task, keys: Sequence[str]) -> None:
    """Check that the simulation shows and takes what the logs hold."""
    env = make(task)
    try:
        shown, taken = env.observation_space.spaces, len(env.action_names)
    finally:
        env.close()
    for key in keys:
        width = store.column(f"obs/{key}").shape[1]
        if key not in shown or (shown[key].shape or (0,))[0] != width:
            have = {k: v.shape for k, v in shown.items()}
            wrong = f"the logs' obs/{key} has {width} numbers"
            raise ConfigError(f"{wrong}, task {task.name!r} shows {have}; choose another task")
    if (width := store.column("action").shape[1]) != taken:
        raise ConfigError(
            f"the logs' action has {width} numbers, task {task.name!r} takes {taken}; choose another task"
        )
