"""`vlmrl data collect` and `vlmrl data learn`: behaviour data from simulation, and policies of any skill to make it."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import typer
import yaml
from tqdm import tqdm

from vlmrl import config as configuration
from vlmrl.cli import help
from vlmrl.cli.given import pairs
from vlmrl.content import places
from vlmrl.errors import ConfigError, unknown
from vlmrl.evaluate import collect as collection
from vlmrl.evaluate import online, replay
from vlmrl.sim import load_task, task_names
from vlmrl.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Where:
    """What is collected in, and where it goes."""

    task: str = ""
    """Name of a task: `vlmrl task list`."""
    out: str = ""
    """Folder of the store: a new one, or one of the same settings that lacks episodes."""
    mix: str = ""
    """File of conf/collect/ (yours, then the installed ones) whose settings are taken where the command has none."""
    workers: int = 0
    """Processes that collect, 0: one a processor; the store does not depend on it."""


COLLECT = """
  vlmrl data collect task=drawer_open mix=quick out=runs/quick         a small mixed set, to try things on
  vlmrl data collect task=cartpole policy=random episodes=1000 out=runs/random
  vlmrl data collect task=drawer_open noise=[0,0.3,0.6] out=runs/graded   an expert's actions, 0, 30, 60 % replaced
  vlmrl data collect task=cartpole mix=medium policy=runs/sac/step001500 out=runs/medium
  vlmrl data collect task=cartpole policy=[random,runs/sac/step001500,runs/sac/step003000] noise=[0.01] out=runs/mixed
  vlmrl data collect task=cartpole policy=replay source=runs/graded out=runs/again
Run the same command again to go on where it was cut, or with more episodes to extend."""

LEARN = """
  vlmrl data learn task=cartpole out=runs/sac
  vlmrl data learn task=cartpole steps=50000 every=5000 seed=1 out=runs/sac1
  vlmrl data learn task=cartpole lr=5e-4 hidden=[1024,1024] batch=1024 out=runs/sac-wide
Each checkpoint OUT/stepNNNNNN is a saved policy: vlmrl evaluate policy=OUT/stepNNNNNN task=cartpole"""


def collect(arguments: Sequence[str]) -> None:
    """Run `vlmrl data collect`."""
    if _asks_help(arguments):
        mixes = ["", f"mix=NAME  have: {', '.join(help.files('collect'))}"]
        first = "Collect episodes in simulation into a store."
        configs = (Where, collection.Config)
        print(help.of_command("vlmrl data collect [KEY=VALUE ...]", first, COLLECT, configs, more=mixes))
        return
    content = pairs(arguments)
    where, content = split(Where, content, others=collection.Config)
    _named(where.task, where.out, "collect")
    config = configuration.fill(collection.Config, mixture(where.mix) | lists(content), where="collect")
    task, start = load_task(where.task), time.perf_counter()
    with progress_bar() as progress:
        store = collection.fill(Path(where.out), task, config, workers=where.workers, progress=progress)
    typer.echo(told(store, config, time.perf_counter() - start))


def learn(arguments: Sequence[str]) -> None:
    """Run `vlmrl data learn`."""
    if _asks_help(arguments):
        first = "Learn a task on-line with soft actor-critic (SAC) on the simulator's own reward, from states."
        configs = (online.Config, online.sac.Config)
        print(help.of_command("vlmrl data learn [KEY=VALUE ...]", first, LEARN, configs))
        return
    config, content = split(online.Config, pairs(arguments), others=online.sac.Config)
    _named(config.task, config.out, "learn")
    learner = configuration.fill(online.sac.Config, lists(content, "hidden"), where="learn")
    found = online.learn(config, learner)
    typer.echo("\n".join(f"{point.folder}: return {point.mean:.1f}, success {point.success:.0%}" for point in found))


def mixture(name: str) -> dict[str, Any]:
    """The settings of conf/collect/<name>.yaml.

    Raises:
        ConfigError: if there is none.
    """
    if not name:
        return {}
    path = next((f for place in places("conf") if (f := place / "collect" / f"{name}.yaml").is_file()), None)
    if path is None:
        raise unknown("mix", name, help.files("collect"))
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def told(store: Store, config: collection.Config, seconds: float) -> str:
    """What a store of collected episodes holds, in a few lines."""
    table = store.episodes
    won = int((table.success == 1).sum())
    size = sum(f.stat().st_size for f in (store.path / "parts").rglob("*") if f.is_file())
    lines = [f"{store.path}: {len(table):,} episodes, {len(store):,} rows, {won} succeeded; {size / 1e6:.1f} MB"]
    for source in dict.fromkeys(table.source):
        mine = [k for k, other in enumerate(table.source) if other == source]
        lines.append(f"  {len(mine):5} {source}: {int((table.success[mine] == 1).sum())} succeeded")
    if again := collection.redrawn(store):
        lines.append(f"  {again} episodes diverged; each was drawn again from another start and none is stored")
    if config.replays:
        lines.append(f"  {replay.reproduction(store)}")
    return "\n".join([*lines, f"  data {store.data_hash[:12]}, {seconds:.1f} s"])


@contextmanager
def progress_bar() -> Generator[Callable[[int, int], None]]:
    """A bar of episodes that are stored."""
    with tqdm(desc="collect", unit="episode", dynamic_ncols=True) as bar:

        def progress(have: int, total: int) -> None:
            if bar.total is None:
                bar.reset(total)
                bar.initial = have
            bar.update(have - bar.n)

        yield progress


def split(cls: type[T], content: Mapping[str, Any], *, others: type) -> tuple[T, dict[str, Any]]:
    """The settings that are `cls`'s, and the rest, which must be those of `others`."""
    own, rest = ([field.name for field in fields(c)] for c in (cls, others))  # type: ignore[arg-type]
    if wrong := [key for key in content if key not in (*own, *rest)]:
        raise unknown("setting", wrong[0], (*own, *rest))
    mine = {key: value for key, value in content.items() if key in own}
    return configuration.fill(cls, mine, where="data"), {k: v for k, v in content.items() if k not in own}


def _named(task: str, out: str, command: str) -> None:
    if not task:
        raise ConfigError(f"which task? task=NAME; have: {', '.join(task_names())}")
    if not out:
        raise ConfigError(f"where to? vlmrl data {command} task={task} out=FOLDER")


def lists(content: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A single value where a list may stand is a list of one."""
    wanted = names or ("noise", "cameras")
    return {key: [value] if key in wanted and isinstance(value, str) else value for key, value in content.items()}


def _asks_help(arguments: Sequence[str]) -> bool:
    return not arguments or any(argument in ("-h", "--help") for argument in arguments)
