"""`vlmrl flywheel`: recorded episodes in, and a better policy in service, or the reason why not.

One turn: merge what was recorded, label with a budget, update the reward, retrain, and let the challenger meet the
incumbent in simulation. Its parts are those of `vlmrl run`. A turn has a folder named for its data and settings, and
each stage is skipped where its result is there: the same command goes on where it was cut, and after more episodes
were recorded it takes the next turn. Episodes and labels accumulate; nothing is thrown away.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlmrl import config as configuration
from vlmrl.annotate import Limits
from vlmrl.annotate.asking import Asking
from vlmrl.annotate.question import digest
from vlmrl.cli import run
from vlmrl.cli.label import Labels, pick_camera
from vlmrl.cli.reward import read_labels
from vlmrl.cli.settings import RunConfig, check_columns
from vlmrl.cli.train import check_chunk, train_all
from vlmrl.errors import ConfigError
from vlmrl.evaluate.candidates import Arm, Candidate
from vlmrl.evaluate.gate import Decision, Rule, decide, held_out
from vlmrl.evaluate.job import Plan, evaluate
from vlmrl.interval import Interval, wilson
from vlmrl.reward.preference import Config as RewardConfig
from vlmrl.runfolder import masked, provenance, read_json, write_json
from vlmrl.sim import Task, load_task
from vlmrl.store import Store
from vlmrl.store.merge import merge
from vlmrl.types import Preferences

FREE = ("out", "recorded", "ledger", "workers")
"""Settings that no result depends on, but through the data."""
LATER = {"chunk": 1}
"""Settings that came after the first turns, with what was done before: turns of then keep their names."""
ABOUT = ("sentence", "camera", "ask")
"""Settings that say what a label is about: labels of another turn with others are left out."""


@dataclass(frozen=True)
class FlywheelConfig:
    """Take a turn of the flywheel: recorded episodes, labels, reward, policy, and a gate against the incumbent."""

    task: str = ""
    """Task in whose simulation challenger and incumbent meet."""
    recorded: tuple[str, ...] = ()
    """Stores of recorded episodes (vlmrl deploy, vlmrl record); what is new in them joins the data of all turns."""
    incumbent: str = ""
    """Policy in service before the first promotion: a folder, expert, ...; empty: none."""
    sentence: str | None = None
    """What the robot should do; null: the sentence recorded with each episode."""
    camera: str | None = None
    """Whose pictures are judged; null: the store's first."""
    pairs: int = 1_000
    """Questions about pairs of frames, new ones in each turn."""
    check_order: int = 20
    """Pairs that are asked again with their sides swapped."""
    ask: Asking = field(default_factory=Asking)
    """How a question is put."""
    label_seed: int = 0
    labeler: Any = None
    """Who answers."""
    limits: Limits = field(default_factory=Limits)
    """Budget of one turn."""
    ledger: str = "runs/labels.db"
    """Where answers are kept, so that none is paid for twice."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    shaping: tuple[str, ...] = ("since_start",)
    """Operations on the learned column, in turn: those of `vlmrl data shape`."""
    learner: Any = None
    """Algorithm of the challenger."""
    obs: tuple[str, ...] = ("state",)
    chunk: int = 1
    """Actions in a row that the policy takes for one, as of `vlmrl train`."""
    action: str = "action_requested"
    """Column of actions to learn: what was asked of the robot, or `action`, what was sent."""
    seed: int = 0
    """Of reward and challenger: one policy, that which is then promoted."""
    gate: Rule = field(default_factory=Rule)
    workers: int = 0
    """Processes of the gate; 0: as many as there are processors."""


@dataclass(frozen=True)
class Turn:
    """One turn's folder, and what it was begun with."""

    folder: Path
    number: int
    """From 1."""
    episodes: int
    """Of all turns so far."""
    incumbent: str
    """Who is to be beaten: a folder of this flywheel, or as the settings name it."""
    settings: Mapping[str, Any]

    @property
    def decision(self) -> dict[str, Any] | None:
        """What the gate said, None while it has not."""
        path = self.folder / "decision.json"
        return read_json(path) if path.is_file() else None


def main(content: Mapping[str, Any], folder: Path) -> None:
    """Take the turn that a composed configuration describes."""
    config = configuration.build(FlywheelConfig, content, where="flywheel")
    task = checked(config, folder)
    check_chunk(config.chunk, content["learner"])
    added = merge(folder / "store", [Path(path) for path in config.recorded])
    store = Store.open(folder / "store")
    held_out(config.gate, store.episodes.seed.tolist())
    check_columns(store, task, config.obs)
    print(f"data: {len(added)} new episodes, {len(store.episodes)} in all, {success(store, 0)}")
    turn = begin(content, store, folder)
    if turn.decision is None:
        take(config, content, task, store, turn, folder)
    else:
        print(f"turn {turn.number} was taken with these data and settings: record more episodes, or change a setting")
    print(f"\n{text(turns(folder))}\n")
    decided = turn.decision or {}
    print(f"turn {turn.number}: {'promoted' if decided['promoted'] else 'refused'}, {decided['reason']}")
    print(f"in service: {service(folder) or config.incumbent or 'no policy'}")


def checked(config: FlywheelConfig, folder: Path) -> Task:
    """The task, where there are data and a task.

    Raises:
        ConfigError: naming what is missing.
    """
    if not config.task:
        raise ConfigError("flywheel needs a task: vlmrl flywheel task=NAME recorded=[STORE] (vlmrl task list)")
    if not config.recorded and not (folder / "store").exists():
        raise ConfigError("flywheel needs recorded episodes: recorded=[STORE,...], as vlmrl deploy leaves them")
    return load_task(config.task)


def take(
    config: FlywheelConfig, content: Mapping[str, Any], task: Task, store: Store, turn: Turn, folder: Path
) -> None:
    """Label, reward, train and judge; promote the challenger where the rule says so."""
    print(f"turn {turn.number} in {turn.folder}, against {turn.incumbent or 'nobody'}")
    settings = as_run(config, turn)
    labels = run.label(settings, content, store, turn.folder)
    assert labels is not None
    labels = dataclasses.replace(
        labels, preferences=accumulated(labels, turn, folder, pick_camera(store, config.camera))
    )
    print(f"labels: {len(labels.preferences)} of all turns")
    columns = run.reward_columns(settings, store, labels, turn.folder)
    (training,) = run.plan(settings, {**content, "task": None}, store, columns, turn.folder)
    training = dataclasses.replace(training, action=config.action)
    train_all([training], workers=1)
    decision = judge(config, task, Path(training.folder), turn, folder)
    if decision.promoted:
        promote(Path(training.folder), folder)
    figures = {
        "turn": turn.number,
        "episodes": turn.episodes,
        "recorded": asdict(found) if (found := rate(store, since(turn, folder))) else None,
        "labels": len(labels.preferences),
        "policy": str(Path(training.folder).relative_to(folder)),
        "against": turn.incumbent,
        **asdict(decision),
    }
    # Last: it says that the turn is over.
    write_json(turn.folder / "decision.json", figures)


def as_run(config: FlywheelConfig, turn: Turn) -> RunConfig:
    """The settings of the main job's stages: one arm, one seed, and other pairs in each turn."""
    shared: dict[str, Any] = {
        f.name: getattr(config, f.name) for f in dataclasses.fields(RunConfig) if hasattr(config, f.name)
    }
    shared |= {"arms": ("learned",), "seeds": (config.seed,), "label_seed": config.label_seed + turn.number - 1}
    return RunConfig(**shared, evaluate=dataclasses.replace(RunConfig().evaluate, curve_episodes=0))


def begin(content: Mapping[str, Any], store: Store, folder: Path) -> Turn:
    """The turn of these data and settings: gone on with, or begun against who is in service now."""
    settings = masked({key: value for key, value in content.items() if key not in FREE})
    known = {key: value for key, value in settings.items() if (key, value) not in LATER.items()}
    place = folder / "turns" / digest({"data": store.data_hash, "settings": known})[:12]
    if not (place / "turn.json").is_file():
        begun = {
            "number": len(turns(folder)) + 1,
            "episodes": len(store.episodes),
            "incumbent": service(folder) or content["incumbent"],
            "settings": settings,
        }
        write_json(place / "meta.json", provenance() | {"store": store.hash, "data": store.data_hash})
        write_json(place / "turn.json", begun)
    return Turn(place, **read_json(place / "turn.json"))


def turns(folder: Path) -> list[Turn]:
    """All that were begun, in their order."""
    found = [Turn(path.parent, **read_json(path)) for path in (folder / "turns").glob("*/turn.json")]
    return sorted(found, key=lambda turn: turn.number)


def since(turn: Turn, folder: Path) -> int:
    """Episodes of the turns before: those that follow were recorded for this one."""
    return max((one.episodes for one in turns(folder) if one.number < turn.number), default=0)


def accumulated(labels: Labels, turn: Turn, folder: Path, camera: str) -> Preferences:
    """These labels and those of every turn before that are about the same."""
    about = {key: turn.settings[key] for key in ABOUT}
    found = [
        read_labels(one.folder, camera)
        for one in turns(folder)
        if one.number < turn.number
        and (one.folder / "labels.json").is_file()
        and {key: one.settings[key] for key in ABOUT} == about
    ]
    return joined([*found, labels.preferences])


def joined(parts: Sequence[Preferences]) -> Preferences:
    """Labels of several jobs as one."""
    if len(parts) == 1:
        return parts[0]
    return Preferences(
        tuple(item for part in parts for item in part.a),
        tuple(item for part in parts for item in part.b),
        np.concatenate([part.p_a for part in parts]),
        ", ".join(sorted({part.annotator for part in parts})),
        digest([part.snapshot for part in parts]),
        tuple(name for part in parts for name in (part.by or (part.annotator,) * len(part))),
    )


def judge(config: FlywheelConfig, task: Task, challenger: Path, turn: Turn, folder: Path) -> Decision:
    """Both from the same starts; episodes lie on disk as they are run."""
    sources = {"challenger": str(challenger)} | (
        {"incumbent": located(turn.incumbent, folder)} if turn.incumbent else {}
    )
    arms = {name: Arm(name, (Candidate(source),)) for name, source in sources.items()}
    workers = config.workers or len(os.sched_getaffinity(0))
    plan = Plan(config.gate.episodes, workers=workers, first=config.gate.first)
    found = evaluate(task, arms, plan, turn.folder / "gate", quiet=False).rollouts
    return decide(config.gate, found["challenger"][0], found["incumbent"][0] if turn.incumbent else None)


def located(policy: str, folder: Path) -> str:
    """Where a policy lies that is named from this flywheel's folder, or as it is."""
    return str(folder / policy) if (folder / policy).is_dir() else policy


def service(folder: Path) -> str:
    """The promoted policy, named from this flywheel's folder; empty where nobody was promoted."""
    link = folder / "incumbent"
    return str(link.readlink()) if link.is_symlink() else ""


def promote(policy: Path, folder: Path) -> None:
    """Let `incumbent` lead to a policy, in one step: whoever reads it sees the one or the other."""
    temporary = folder / f".incumbent.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(policy.relative_to(folder))
    temporary.replace(folder / "incumbent")


def rate(store: Store, first: int) -> Interval | None:
    """Success of the episodes from one on that somebody judged."""
    known = [outcome for outcome in store.episodes.success.tolist()[first:] if outcome >= 0]
    return wilson(sum(known), len(known)) if known else None


def success(store: Store, first: int) -> str:
    """The same in words."""
    found = rate(store, first)
    return f"success {found.percent()}" if found else "success unknown"


def text(taken: Sequence[Turn]) -> str:
    """The table of all turns."""
    head = ("turn", "episodes", "recorded", "labels", "challenger", "incumbent", "difference", "")
    rows: list[tuple[str, ...]] = [head]
    for turn in taken:
        if (found := turn.decision) is None:
            rows.append((str(turn.number), str(turn.episodes), "cut", "", "", "", "", ""))
            continue
        shown = [
            Interval(**found[key]).percent() if found[key] else "none"
            for key in ("recorded", "challenger", "incumbent", "difference")
        ]
        verdict = "promoted" if found["promoted"] else "refused"
        rows.append((str(turn.number), str(turn.episodes), shown[0], str(found["labels"]), *shown[1:], verdict))
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
