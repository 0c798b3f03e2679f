"""Collected data: who acts in simulation, for how long, what is kept; into a store, by several processes.

Episode k depends on the seed and k alone. Whoever collects it, in which process and after which interruption, the
store holds the same episodes in the same order, and has the same `data_hash`.
"""

import functools
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

from vlmrl.errors import ConfigError, DataError, unknown
from vlmrl.evaluate import replay
from vlmrl.evaluate.behaviour import GradedPolicy, check_policies, grades
from vlmrl.evaluate.journal import task_key
from vlmrl.evaluate.record import DivergedError, Recipe, episode, seeded
from vlmrl.evaluate.rollout import FIRST_EVALUATION_SEED
from vlmrl.evaluate.workers import in_order
from vlmrl.runfolder import flatten
from vlmrl.sim import SimEnv, Task, make
from vlmrl.store import Store
from vlmrl.store.disk import digest
from vlmrl.types import Episode, Policy

STRIDE = 10_000
"""Initial states that belong to one value of `collect.seed`."""

RESERVE = 10_000_000
"""First of the initial states that replace those whose episode diverged: ATTEMPTS of them for each."""
ATTEMPTS = 10

REPLAY = "replay"

MOST_EPISODES, MOST_BYTES = 20, 64 << 20
"""What is collected and committed at once: as many episodes as have this many bytes of pictures."""


@dataclass(frozen=True)
class Config:
    """How much is collected, by whom, and how good it is."""

    episodes: int = 200
    steps: int | None = None
    """Length of each episode, control steps; null: the task's horizon, or that of the recording in a replay."""
    policy: Any = "expert"
    """Who acts: expert (the task's script), random, the folder of a saved policy, or several of these as [A,B,...] in
    equal parts; replay: actions recorded in `source` are executed again."""
    noise: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0)
    """Share of actions replaced by random ones (epsilon), in equal parts over the episodes of each policy."""
    source: str = ""
    """Folder of the store whose episodes are replayed."""
    picture_every: int = 5
    """Control steps between pictures; the last row always has one."""
    cameras: tuple[str, ...] = ()
    """Cameras of the task that are drawn; empty: the one that rewards and labelers look through."""
    seed: int = 0

    @property
    def policies(self) -> tuple[str, ...]:
        """Who acts, as a list."""
        return (self.policy,) if isinstance(self.policy, str) else tuple(map(str, cast("Sequence[Any]", self.policy)))

    @property
    def replays(self) -> bool:
        """Whether recorded actions are executed again."""
        return self.policies == (REPLAY,)


def check(task: Task, config: Config) -> None:
    """Refuse settings that make no sense, before anything is collected.

    Raises:
        ConfigError: what was found, and what is wanted.
    """
    if config.steps is not None and not 0 < config.steps <= task.horizon:
        raise ConfigError(f"collect.steps is {config.steps}; task {task.name!r} has a horizon of {task.horizon}")
    if not config.noise or min(config.noise) < 0 or max(config.noise) > 1:
        raise ConfigError(f"collect.noise holds shares between 0 and 1, found {config.noise}")
    if config.picture_every < 1 or config.episodes < 1:
        raise ConfigError(f"at least 1 wanted, found picture_every={config.picture_every}, episodes={config.episodes}")
    for camera in config.cameras:
        if camera not in task.cameras:
            raise unknown("camera", camera, task.cameras)
    if config.seed < 0 or (config.seed + 1) * STRIDE > FIRST_EVALUATION_SEED or config.episodes > STRIDE:
        most = FIRST_EVALUATION_SEED // STRIDE
        raise ConfigError(
            f"collect.seed {config.seed} and {config.episodes} episodes reach into the seeds kept for evaluation; "
            f"wanted a seed below {most} and at most {STRIDE} episodes"
        )
    if (
        config.replays != bool(config.source)
        or not config.policies
        or (REPLAY in config.policies and not config.replays)
    ):
        raise ConfigError(f"policy=replay, alone, goes with source=STORE; found {config.policies}, {config.source!r}")
    if config.replays:
        replay.check(task, Store.open(config.source))
    else:
        check_policies(task, config.policies)


def collect(task: Task, config: Config, *, start: int = 0) -> Iterator[Episode]:
    """Yield episodes `start` to `config.episodes`; episode k depends on the seed and k alone, so a cut run resumes.

    Raises:
        ConfigError: if settings make no sense.
    """
    check(task, config)
    with _collector(task, config) as some:
        for k in range(start, _count(config)):
            yield from some(range(k, k + 1))


def fill(
    path: Path, task: Task, config: Config, *, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> Store:
    """Collect into a store what it lacks; several `workers` (0: one a processor) leave the same store as one.

    `progress` hears how many episodes there are, and how many there will be. Interrupted at any moment, what was
    committed is kept, and the next call goes on.

    Raises:
        ConfigError: if settings make no sense, or the store was collected with others.
    """
    check(task, config)
    total = _count(config)
    store = open_store(path, task, config)
    size = _batch(task, config)
    starts = [have := len(store.episodes), *range(have - have % size + size, total, size)]
    spans = [range(a, b) for a, b in zip(starts, [*starts[1:], total], strict=True) if a < b]
    if progress is not None:
        progress(have, total)
    for episodes in in_order(functools.partial(_collector, task, config), spans, workers=workers):
        store.append(episodes)
        if progress is not None:
            progress(len(store.episodes), total)
    return store


def open_store(path: Path, task: Task, config: Config) -> Store:
    """The store at `path`, made where there is none.

    Raises:
        ConfigError: if it was collected with other settings, or something else was appended to it.
    """
    if not (path / "manifest.json").exists():
        return create_store(path, task, cameras=config.cameras, collect=_facts(config))
    store = Store.open(path)
    wanted = {"task": task.name, "render": _rendering(task, config.cameras), "collect": _facts(config)}
    version = task_key(task)["task_version"]
    if "task_version" in store.meta:
        wanted["task_version"] = version
    else:
        warnings.warn(
            f"{path} does not say which {task.name!r} it was collected in (it was made by an older vlmrl); if the task "
            "was changed since, choose another out=FOLDER",
            stacklevel=2,
        )
    before, now = (flatten({key: meta.get(key) or {} for key in wanted}) for meta in (store.meta, wanted))
    if changed := [key for key in {**before, **now} if before.get(key) != now.get(key)]:
        differences = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in changed)
        raise ConfigError(f"{path} was collected with other settings ({differences}); choose another out=FOLDER")
    ids = _ids(task, config, len(store.episodes))
    if strange := [a for a, b in zip_longest(store.episodes.id, ids) if a != b]:
        raise ConfigError(f"{path} holds {strange[0]!r}, which was not collected here; choose another out=FOLDER")
    return store


def create_store(
    path: Path, task: Task, *, cameras: Sequence[str] = (), collect: Mapping[str, Any] | None = None
) -> Store:
    """An empty store that says what its columns hold, how its pictures were rendered, and how it is collected."""
    env = make(task)
    try:
        names = {"obs/state": env.state_names, "action": env.action_names}
        units = {"obs/state": list(env.state_units), "action": list(env.action_units)}
    finally:
        env.close()
    meta = {"task": task.name, "control_hz": task.control_hz, "render": _rendering(task, cameras)} | task_key(task)
    return Store.create(path, names=names, units=units, meta=meta | ({"collect": collect} if collect else {}))


def record(task: Task, policy: Policy, seeds: Sequence[int], *, picture_every: int = 5) -> Iterator[Episode]:
    """Yield one episode of a policy from each seed, to the task's horizon, as a store keeps it.

    What the policy does is the data of its own reward's examination: unlike a rollout, pictures and truth are kept.
    """
    env = make(task)
    try:
        for seed in seeds:
            name = f"{task.name}-{seed:06d}"
            recipe = Recipe(name, policy.name, seed, task.horizon, (task.camera,), picture_every)
            yield episode(env, policy, recipe, seeded(seed))
    finally:
        env.close()


def redrawn(store: Store) -> int:
    """Episodes that diverged and were drawn again while a store was collected, counted by their seeds."""
    seeds = store.episodes.seed
    return int(((seeds - RESERVE) % ATTEMPTS + 1)[seeds >= RESERVE].sum())


@contextmanager
def _collector(task: Task, config: Config) -> Generator[Callable[[range], list[Episode]]]:
    """What collects episodes by their numbers, with one environment."""
    env = make(task)
    try:
        one = _replayer(env, task, config) if config.replays else _actor(env, task, config)
        yield lambda numbers: [one(k) for k in numbers]
    finally:
        env.close()


def _actor(env: SimEnv, task: Task, config: Config) -> Callable[[int], Episode]:
    policy = GradedPolicy(task, config.noise, config.policies, width=len(env.action_names))
    cameras, ids = config.cameras or (task.camera,), _ids(task, config, config.episodes)

    def one(k: int) -> Episode:
        diverged = ""
        for seed in _seeds(config.seed * STRIDE + k):
            policy.episode = k
            steps = config.steps or task.horizon
            recipe = Recipe(ids[k], policy.source(k), seed, steps, cameras, config.picture_every)
            try:
                return episode(env, policy, recipe, seeded(seed))
            except DivergedError as error:
                diverged = str(error)
        raise DataError(f"episode {k} diverged from {ATTEMPTS + 1} starts: nothing is stored of it; {diverged}")

    return one


def _replayer(env: SimEnv, task: Task, config: Config) -> Callable[[int], Episode]:
    source = Store.open(config.source)
    cameras, ids = config.cameras or (task.camera,), _ids(task, config, config.episodes)

    def one(k: int) -> Episode:
        recorded = source.episode(source.episodes.id[k], images=False)
        steps = int(recorded.has_action.sum())
        steps = min(config.steps, steps) if config.steps else steps
        name = f"{task.name} replay of {recorded.source}"
        recipe = Recipe(ids[k], name, recorded.seed, steps, cameras, config.picture_every)
        return replay.replayed(env, recorded, recipe)

    return one


def _seeds(first: int) -> list[int]:
    """The initial state of an episode, and those that replace it as long as it diverges."""
    return [first, *range(RESERVE + first * ATTEMPTS, RESERVE + (first + 1) * ATTEMPTS)]


def _count(config: Config) -> int:
    return min(config.episodes, len(Store.open(config.source).episodes)) if config.replays else config.episodes


def _batch(task: Task, config: Config) -> int:
    cameras = [task.cameras[name] for name in config.cameras or (task.camera,)]
    pictures = (config.steps or task.horizon) // config.picture_every + 2
    episode_bytes = pictures * sum(3 * camera.height * camera.width for camera in cameras)
    return max(1, min(MOST_EPISODES, MOST_BYTES // episode_bytes))


def _ids(task: Task, config: Config, count: int) -> list[str]:
    if config.replays:
        return [f"{name}-replay" for name in Store.open(config.source).episodes.id[:count]]
    suffix = digest(_facts(config))[:6]
    return [f"{task.name}-{config.seed * STRIDE + k:06d}-{suffix}" for k in range(count)]


def _facts(config: Config) -> dict[str, Any]:
    """What decides the content of an episode besides the task and the number of it, JSON-ready."""
    kept = {"steps": config.steps, "picture_every": config.picture_every, "cameras": list(config.cameras)}
    if config.replays:
        return kept | {"policy": REPLAY, "source": Store.open(config.source).data_hash}
    return kept | {"policy": [grade.facts for grade in grades(config.policies, config.noise)], "seed": config.seed}


def _rendering(task: Task, cameras: Sequence[str]) -> dict[str, Any]:
    renderer = f"mujoco {metadata.version('mujoco')}"
    return {camera: {**task.settings(camera), "renderer": renderer} for camera in cameras or (task.camera,)}
