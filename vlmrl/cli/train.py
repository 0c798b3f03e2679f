"""`vlmrl train`: train one learner on one reward column of a store, for one or several seeds."""

import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vlmrl import config as configuration
from vlmrl.annotate.embeddings import column, embeddings
from vlmrl.cli.pool import side_by_side
from vlmrl.cli.reward import read_labels
from vlmrl.encoder import DualEncoder
from vlmrl.errors import ConfigError, unknown
from vlmrl.evaluate.rollout import FIRST_CURVE_SEED, rollout
from vlmrl.learn import fit_seeds, learner
from vlmrl.learn.choosing import Rule, energy_score, fitted_value, parted
from vlmrl.learn.cpl import compared
from vlmrl.learn.macro import LEARNERS as CHUNKED
from vlmrl.learn.macro import chunked
from vlmrl.learn.stacked import stackable
from vlmrl.learn.weighting import Sampling, weighted
from vlmrl.nn import PolicyNetwork, pick_device, product_dtype
from vlmrl.policy import LearnedPolicy, LearnedValue
from vlmrl.policy.frozen import text_vector
from vlmrl.runfolder import Metrics, masked, provenance, read_json, write_json
from vlmrl.sight import EMBEDDING, Sight, embedding, named, sentence
from vlmrl.sim import load_task, make
from vlmrl.store import Store
from vlmrl.store.autoreset import autoresets
from vlmrl.tracking import TrackerName, tracked
from vlmrl.types import Transitions

WIDEST = 8
"""Policies in one program: each holds the data in memory."""


FURTHER = ("sampling", "clip_norm", "action", "chunk", "held_out", "cameras", "sight", "labels")
"""Facts of a training that stand in its policy only where they are not the default."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run."""

    store: str = ""
    """Folder of the store."""
    reward: str | None = None
    """Reward column; null: none (behaviour cloning, or a constant reward)."""
    learner: Any = None
    """Algorithm and its settings."""
    seeds: tuple[int, ...] = (0,)
    """One policy each."""
    obs: tuple[str, ...] = ("state",)
    """Observation keys that the policy sees, whole or in part: state:0:4 is its first four numbers.
    embedding/ENCODER/CAMERA is what a frozen encoder makes of a camera's pictures (seen: the built-in judge);
    sentence/ENCODER, named last, what it makes of an episode's sentence: for stores of several tasks."""
    cameras: tuple[str, ...] = ()
    """Cameras whose pictures it sees too (bc, filtered_bc, diffusion, flow, iql, calql)."""
    sight: Sight = field(default_factory=Sight)
    """How it looks at pictures."""
    action: str = "action"
    """Column of actions to learn; action_requested: what was asked of a robot, before the safety chain."""
    chunk: int = 1
    """Actions in a row that bc, iql and td3bc take for one: policies then draw, and critics value, chunks of so many.
    Diffusion and flow have their own (learner.horizon)."""
    labels: str | None = None
    """Run folder of vlmrl label or vlmrl run, or its labels.json, of this store: what learner=cpl is trained on."""
    sampling: Sampling = field(default_factory=Sampling)
    clip_norm: float = 0.0
    """Largest norm of a gradient, for each group of parameters; 0: as it is."""
    resume: bool = True
    """Go on where the same command with the same `out` was cut, bit by bit as if it had not been (also `--resume`); the
    state is kept each `curve_every` updates."""
    curve_task: str | None = None
    """Task in which success is measured during training, for learning curves only."""
    curve_every: int = 2_000
    """Updates between points of that curve."""
    curve_episodes: int = 10
    workers: int = 0
    """Processes side by side, one thread each; 0: as many as there are processors."""
    choose: Rule = "last"
    """last: the last weights are the policy, nothing is chosen. held_out, fqe: beside them the best of the moments each
    `curve_every` updates is kept in the folder `best`, by how well it imitates episodes that were held out, or by its
    value from their first observations as fitted Q evaluation estimates it; never by success."""
    held_out: float = 0.1
    """Share of the episodes that choose=held_out keeps from training."""
    tracker: TrackerName = "jsonl"
    """Where figures go besides metrics.jsonl: tensorboard (event files beside it), or wandb (settings in its own
    environment variables)."""
    device: str = "auto"
    """Where networks are trained: auto (on GPUs in turn, where there are some), cpu, cuda, cuda:1."""
    together: bool = True
    """Train the seeds of a process as one batched program, where the learner can (iql, bc): the same numbers up to
    rounding in less time. false: each alone, bit for bit as it would be without the others."""


@dataclass(frozen=True)
class Training:
    """One policy to train."""

    name: str
    """Of the arm, as tables print it."""
    seed: int
    store: str
    reward: str | None
    learner: Mapping[str, Any]
    obs: tuple[str, ...]
    folder: str
    """Receives policy and metrics."""
    curve_task: str | None = None
    curve_every: int = 2_000
    curve_episodes: int = 10
    action: str = "action"
    labels: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    clip_norm: float = 0.0
    resume: bool = True
    tracker: TrackerName = "jsonl"
    cameras: tuple[str, ...] = ()
    sight: Sight = field(default_factory=Sight)
    chunk: int = 1
    choose: Rule = "last"
    held_out: float = 0.1
    device: str = "auto"

    @property
    def discount(self) -> float:
        """The learner's, or what is usual."""
        return float(getattr(self.config(), "discount", 0.99))

    @property
    def done(self) -> bool:
        """Whether this very policy is there already."""
        path = Path(self.folder) / "config.json"
        if not path.is_file():
            return False
        facts, wanted = read_json(path)["facts"], self.facts()
        if any(facts.get(key) != value for key, value in wanted.items()) or set(FURTHER) & facts.keys() - wanted.keys():
            return False
        best = Path(self.folder) / "best" / "config.json"
        return self.choose == "last" or (
            best.is_file() and read_json(best)["facts"].get("chosen", {}).get("by") == self.choose
        )

    def facts(self) -> dict[str, Any]:
        """What decides the policy."""
        further: dict[str, Any] = (
            {}
            if self.sampling == Sampling()
            else {"sampling": {"temperature": self.sampling.temperature, "shares": list(self.sampling.shares)}}
        )
        further |= {"clip_norm": self.clip_norm} if self.clip_norm else {}
        further |= {"action": self.action} if self.action != "action" else {}
        further |= {"chunk": self.chunk} if self.chunk > 1 else {}
        further |= {"held_out": self.held_out} if self.choose == "held_out" else {}
        if self.cameras:
            sight = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self.sight).items()}
            further |= {"cameras": list(self.cameras), "sight": sight}
        further |= {"labels": read_labels(self.labels).snapshot} if self.labels else {}
        return {
            "learner": dict(self.learner),
            "obs": list(self.obs),
            "reward": self.reward or "none",
            "data": Store.open(self.store).data_hash,
            "seed": self.seed,
            **further,
        }

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the store that are seen and done."""
        numbers = dict.fromkeys(named(key)[0] for key in self.obs if not embedding(key) and not sentence(key))
        return (*(f"obs/{name}" for name in numbers), "action")

    def config(self) -> Any:
        """The learner's settings."""
        return configuration.build(learner(self.learner["name"]).Config, self.learner, where="learner")

    def transitions(self) -> Transitions:
        """What is learned from."""
        store = Store.open(self.store)
        obs = [kept(store, key)[0] for key in self.obs if not sentence(key)]
        found = store.transitions(obs, self.reward, action=self.action, cameras=self.cameras, sight=self.sight)
        found = spoken(found, store, [encoder for key in self.obs if (encoder := sentence(key))])
        found = weighted(replace(self.sampling, shares=()), found, store.episodes.source)
        if self.chunk != 1:
            found = chunked(found, self.chunk, self.discount)
        # Last: which rows there are decides what makes a share.
        found = weighted(replace(self.sampling, temperature=None), found, store.episodes.source)
        return compared(found, store, read_labels(self.labels)) if self.labels else found


def kept(store: Store, key: str) -> tuple[str, Mapping[str, str]]:
    """The column of an observation's key, and the fingerprint of the encoder that makes it, if one does.

    Embeddings that the store lacks are made and kept.
    """
    if encoder := sentence(key):
        return key, {encoder: DualEncoder.load(encoder).fingerprint}
    if (found := embedding(key)) is None:
        return key, {}
    encoder = DualEncoder.load(found[0])
    embeddings(store, found[1], encoder)
    return f"{EMBEDDING}{column(encoder, found[1])}", {found[0]: encoder.fingerprint}


def spoken(found: Transitions, store: Store, encoders: Sequence[str]) -> Transitions:
    """The transitions with what encoders make of each episode's sentence, behind the other numbers."""
    for encoder in encoders:
        vectors = np.stack([text_vector(encoder, text) for text in store.episodes.instruction])[found.episode]
        obs, after = (np.concatenate([column, vectors], 1) for column in (found.obs, found.next_obs))
        found = replace(found, obs=obs, next_obs=after)
    return found


def main(content: Mapping[str, Any], folder: Path) -> None:
    """Run the job that a composed configuration describes."""
    if not content["store"]:
        raise ConfigError("train needs a store: vlmrl train store=FOLDER reward=COLUMN (vlmrl data show lists columns)")
    config = configuration.build(TrainConfig, content, where="train")
    store = Store.open(config.store)
    check(config, content["learner"], store)
    for problem in autoresets(store):
        print(f"warning, {config.store}: {problem}")
    write_json(folder / "config.json", masked(dict(content)))
    write_json(folder / "meta.json", provenance() | {"store": store.hash})
    name = f"{content['learner']['name']} on {config.reward or 'no reward'}"
    trainings = [
        Training(
            name,
            seed,
            config.store,
            config.reward,
            content["learner"],
            config.obs,
            str(folder / "policies" / f"seed{seed}"),
            config.curve_task,
            config.curve_every,
            config.curve_episodes,
            config.action,
            config.labels,
            config.sampling,
            config.clip_norm,
            config.resume,
            config.tracker,
            config.cameras,
            config.sight,
            config.chunk,
            config.choose,
            config.held_out,
            config.device,
        )
        for seed in config.seeds
    ]
    train_all(trainings, workers=config.workers, together=config.together)
    print(f"{len(trainings)} policies in {folder / 'policies'}; run one with: vlmrl evaluate policy=FOLDER")
    if config.choose != "last":
        print(f"the best of each by {config.choose}, apart: vlmrl evaluate policy=FOLDER/best versus=FOLDER")


def check_chunk(chunk: int, settings: Mapping[str, Any]) -> None:
    """Refuse chunks without an action, and those of a learner that does not take them, or that remembers what it saw.

    Raises:
        ConfigError: naming those that do, or what is in the way.
    """
    if chunk < 1:
        raise ConfigError(f"chunk={chunk}: wanted at least 1 action")
    if chunk != 1 and (name := settings["name"]) not in CHUNKED:
        have = ", ".join(CHUNKED)
        raise ConfigError(f"chunk={chunk}: learner {name!r} does not take it; those that do: {have}")
    if chunk != 1 and settings.get("history", 1) > 1:
        name = settings["name"]
        raise ConfigError(f"chunk={chunk}: learner {name!r} then looks at one observation, learner.history=1")


def check(config: TrainConfig, settings: Mapping[str, Any], store: Store) -> None:
    """Refuse settings that do not go together, or not with the learner's or the store; warn of pictures that are old.

    Raises:
        ConfigError: naming what was found and what was wanted.
    """
    if config.reward is not None and config.reward not in store.rewards():
        raise ConfigError(
            f"unknown reward column {config.reward!r}; have: {', '.join(sorted(store.rewards())) or 'none'}"
        )
    check_chunk(config.chunk, settings)
    wants = {
        "learner=filtered_bc": settings["name"] == "filtered_bc",
        "sampling.temperature": config.sampling.temperature,
    }
    if config.reward is None and (what := next((key for key, value in wants.items() if value), None)):
        raise ConfigError(f"{what} ranks episodes by a reward: reward=COLUMN (vlmrl data show lists columns)")
    if config.labels and settings["name"] != "cpl":
        raise ConfigError(
            f"labels are what learner=cpl is trained on; learner {settings['name']!r} wants reward=COLUMN"
        )
    if config.choose == "held_out" and (settings["name"] == "filtered_bc" or config.sampling != Sampling()):
        raise ConfigError("choose=held_out judges by episodes as they come, not by chosen ones: use fqe or last")
    if config.curve_every < 1:
        raise ConfigError(f"curve_every={config.curve_every}: at least 1 wanted; curve_episodes=0 measures nothing")
    if sorted(config.obs, key=lambda key: sentence(key) is not None) != list(config.obs):
        raise ConfigError(f"obs={list(config.obs)}: sentences stand last")
    if config.choose != "last" and config.cameras:
        raise ConfigError(f"choose={config.choose}: the rules look at numbers alone; leave cameras out")
    if config.choose == "held_out" and config.labels:
        raise ConfigError(
            "choose=held_out holds out episodes, and learner=cpl is trained on comparisons: use fqe or last"
        )
    if config.choose == "fqe" and config.reward is None:
        raise ConfigError("choose=fqe values policies by a reward column: reward=COLUMN")
    if config.action not in ("action", *(name for name in store.columns() if name == "action_requested")):
        raise unknown("column of actions", config.action, ["action", "action_requested (of a robot's recordings)"])
    for camera in config.cameras:
        if camera not in store.cameras:
            raise unknown("camera", camera, store.cameras)
        if (share := len(store.frame_rows(camera)) / len(store)) < 1:
            print(
                f"warning, {config.store}: {share:.0%} of rows have a picture of {camera!r} of their own, the others "
                "show the latest before, while a policy in use sees each moment: collect with picture_every=1"
            )


def train_all(trainings: Sequence[Training], *, workers: int, together: bool = True) -> None:
    """Train what is not trained yet, several processes side by side, and in each several policies as one program."""
    missing = [t for t in trainings if not t.done]
    total = sum(int(t.learner["updates"]) for t in missing)
    with tqdm(
        total=total, desc="train", unit="update", unit_scale=True, dynamic_ncols=True, disable=not missing
    ) as bar:
        programs = spread(bundles(missing, workers, together=together), torch.cuda.device_count())
        for bundle in side_by_side(train, programs, workers=workers):
            seeds = ", ".join(str(t.seed) for t in bundle)
            bar.set_postfix_str(f"{bundle[-1].name}, seed {seeds}", refresh=False)
            bar.update(sum(int(t.learner["updates"]) for t in bundle))


def bundles(trainings: Sequence[Training], workers: int, *, together: bool = True) -> list[tuple[Training, ...]]:
    """Which trainings run as one program: those of one learner and settings, in as many parts as there are workers."""
    groups: dict[str, list[Training]] = {}
    for training in trainings:
        alike = replace(training, name="", seed=0, reward=None, folder="")
        joint = together and stackable(training.config()) and not training.cameras
        groups.setdefault(repr(alike) if joint else training.folder, []).append(training)
    count = workers or len(os.sched_getaffinity(0))
    return [
        tuple(group[k] for k in part.tolist())
        for group in groups.values()
        for part in np.array_split(np.arange(len(group)), min(max(count, -(-len(group) // WIDEST)), len(group)))
    ]


def spread(programs: Sequence[tuple[Training, ...]], count: int) -> list[tuple[Training, ...]]:
    """The programs that may choose their device on `count` GPUs in turn."""
    return [
        tuple(replace(t, device=f"cuda:{k % count}") if count and t.device == "auto" else t for t in program)
        for k, program in enumerate(programs)
    ]


def train(bundle: Sequence[Training]) -> None:
    """Train policies of one learner and save them; everything that decides a result is in its folder."""
    folders, first = [Path(training.folder) for training in bundle], bundle[0]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folders[0] / "training.safetensors"
    if not first.resume:
        checkpoint.unlink(missing_ok=True)
    config, data = first.config(), [training.transitions() for training in bundle]
    unseen = data
    if first.choose == "held_out":
        data, unseen = zip(*(parted(own, first.held_out, seed=0) for own in data), strict=True)
    facts = [told(training, own, beside=len(bundle) - 1) for training, own in zip(bundle, data, strict=True)]
    with ExitStack() as stack:
        curves = [stack.enter_context(curve(training)) for training in bundle]
        trained = fit_seeds(
            first.learner["name"],
            data,
            config,
            seeds=[training.seed for training in bundle],
            metrics=[stack.enter_context(metrics(training)) for training in bundle],
            every=first.curve_every,
            at=[chosen(*each) for each in zip(bundle, unseen, facts, curves, strict=True)],
            clip_norm=first.clip_norm,
            kept=checkpoint,
            facts={"trainings": [training.facts() for training in bundle]},
            quiet=True,
            device=pick_device(first.device),
        )
    for training, learned, own, folder in zip(bundle, trained, facts, folders, strict=True):
        if learned.critic is not None:
            name = f"critic of {training.name}"
            chunk = len(learned.critic.action.shift) // Store.open(training.store).column("action").shape[1]
            LearnedValue(learned.critic, name, training.obs, own, chunk).save_pretrained(folder / "critic")
        # Last: the policy's config says that the training is done.
        LearnedPolicy(learned.policy, training.name, training.obs, own, training.chunk).save_pretrained(folder)
    checkpoint.unlink(missing_ok=True)


def told(training: Training, data: Transitions, *, beside: int) -> dict[str, Any]:
    """What a saved policy says of its training."""
    store, precision = Store.open(training.store), getattr(training.config(), "precision", "float32")
    encoders = dict(pair for key in training.obs for pair in kept(store, key)[1].items())
    return {
        **training.facts(),
        "transitions": len(data),
        "products": str(product_dtype(precision)),
        "beside": beside,
        "device": pick_device(training.device).type,
        "columns": {name: store.attributes.get(name, {}) for name in training.columns},
        **({"encoders": encoders} if encoders else {}),
    }


def chosen(
    training: Training,
    unseen: Transitions,
    facts: Mapping[str, Any],
    measure: Callable[[int, PolicyNetwork], Mapping[str, float]] | None,
) -> Callable[[int, PolicyNetwork], Mapping[str, float]] | None:
    """What measures a policy under way, and keeps the best by the rule, if there is one, in the folder `best`."""
    if training.choose == "last":
        return measure
    folder = Path(training.folder) / "best"
    path, score = folder / "config.json", float("-inf")
    if path.is_file():
        # Of a training that was cut: what this one would find again, unless it is another or was chosen otherwise.
        before = read_json(path)["facts"]
        same = before.items() >= json.loads(json.dumps(facts)).items() and before["chosen"]["by"] == training.choose
        score = before["chosen"]["score"] if same else score

    def at(update: int, policy: PolicyNetwork) -> Mapping[str, float]:
        nonlocal score
        found = (
            -energy_score(policy, unseen)
            if training.choose == "held_out"
            else fitted_value(policy, unseen, discount=training.discount)
        )
        if found > score:
            score = found
            own = {**facts, "chosen": {"by": training.choose, "update": update, "score": found}}
            name = f"{training.name}, best by {training.choose}"
            LearnedPolicy(policy, name, training.obs, own, training.chunk).save_pretrained(folder)
        return {**(measure(update, policy) if measure else {}), training.choose: found}

    return at


def metrics(training: Training) -> AbstractContextManager[Metrics]:
    """Where the figures of a training go."""
    path, name = Path(training.folder) / "metrics.jsonl", f"{training.name}, seed {training.seed}"
    return tracked(training.tracker, path, run=name, facts=training.facts())


@contextmanager
def curve(training: Training) -> Generator[Callable[[int, PolicyNetwork], Mapping[str, float]] | None]:
    """Success on a few initial states of their own: curves are drawn from it, nothing is chosen by it."""
    if training.curve_task is None or not training.curve_episodes:
        yield None
        return
    task = load_task(training.curve_task)
    envs = [make(task) for _ in range(min(10, training.curve_episodes))]
    seeds = range(FIRST_CURVE_SEED, FIRST_CURVE_SEED + training.curve_episodes)

    def measure(_: int, policy: PolicyNetwork) -> Mapping[str, float]:
        done = rollout(task, LearnedPolicy(policy, training.name, training.obs, chunk=training.chunk), seeds, envs=envs)
        return {"success": float(done.success.mean()), "return": float(done.returns.mean())}

    try:
        yield measure
    finally:
        for env in envs:
            env.close()
