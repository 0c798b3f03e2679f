"""`vlmrl task`: what can be simulated, in words and pictures."""

from pathlib import Path
from string import Template
from typing import Annotated

import typer
from tqdm import tqdm

from vlmrl import config as configuration
from vlmrl.cli.given import pairs
from vlmrl.content import find
from vlmrl.errors import ConfigError

app = typer.Typer(help="Simulated tasks: list them, show one's card, draw them all.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """Name the tasks, yours (./tasks) and the installed ones, with their sentences."""
    from vlmrl.sim import load_task, task_names

    found = [load_task(name) for name in task_names()]
    width = max(len(task.name) for task in found) + 2
    for task in found:
        typer.echo(f"{task.name:{width}}{task.instruction}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A task, as `vlmrl task list` names it")],
    out: Annotated[Path | None, typer.Option(help="Where the picture goes; by default ./NAME.png")] = None,
    seed: Annotated[int, typer.Option(help="Which start is drawn")] = 0,
) -> None:
    """Print a task's card (sentence, spaces, success) and draw its start and what the scripted expert reaches."""
    from vlmrl.sim import load_task
    from vlmrl.sim.card import card, pictures
    from vlmrl.sim.sheet import sheet

    task = load_task(name)
    typer.echo(card(task, question=_question(task.instruction)))
    path = out or Path(f"{name.replace('/', '-')}.png")
    typer.echo(f"picture: {sheet([(name, task.instruction, pictures(task, seed=seed))], path, height=240)}")


def _question(sentence: str) -> str:
    """What the labelers' default prompt asks of two pictures of this task."""
    from vlmrl.annotate.script import COMPARE

    text = find("conf", f"prompt/{COMPARE}/one_stage.txt").read_text(encoding="utf-8")
    asked = next(line for line in text.splitlines() if "$goal" in line)
    return Template(asked).safe_substitute(goal=sentence).lstrip("0123456789. ")


@app.command()
def poses(
    group: Annotated[str, typer.Argument(help="A group of tasks with reference poses, as humanoid")],
    settings: Annotated[list[str], typer.Argument(help="out=FOLDER, and side=PIXELS for smaller pictures")],
) -> None:
    """Render a group's reference poses into a store, with the truth of every goal, to score pictures on.

    Example: vlmrl task poses humanoid out=runs/poses
    """
    from vlmrl.evaluate.poses import Config, sheet, write
    from vlmrl.reward.quality import truths

    store = write(group, configuration.fill(Config, pairs(settings), where="task poses"))
    typer.echo(f"{len(store.episodes)} poses; how many show each goal, as truth/NAME in the store:")
    for goal in sorted(truths(store)):
        typer.echo(f"  {goal:16} {int(store.column(f'truth/{goal}')[store.episodes.start].sum())}")
    typer.echo(f"contact sheet: {sheet(store, store.path.parent / f'{store.path.name}.png')}")


@app.command("suite")
def suite_(settings: Annotated[list[str] | None, typer.Argument(help="Settings as key=value")] = None) -> None:
    """Run a policy, or examine a judge, under the conditions of a robustness suite; without settings, list the suites.

    Settings: suite, task, policy, episodes, judge, pairs, out.

    Example: vlmrl task suite suite=delay task=drawer_open policy=FOLDER episodes=50

    Example: vlmrl task suite suite=camera_shift task=drawer_open judge=seen
    """
    from vlmrl.cli.suite import main

    typer.echo(main(settings))


@app.command("sheet")
def sheet_(
    group: Annotated[str, typer.Argument(help="Only tasks whose name starts so")] = "",
    out: Annotated[Path, typer.Option(help="Where the picture goes")] = Path("tasks.png"),
    seed: Annotated[int, typer.Option(help="Which start is drawn")] = 0,
) -> None:
    """Draw start and end of all tasks, as their judge sees them, on one sheet."""
    from vlmrl.sim import load_task, task_names
    from vlmrl.sim.card import pictures
    from vlmrl.sim.sheet import choose, sheet

    names = [name for name in task_names() if name.startswith(group)]
    if not names:
        raise ConfigError(f"no task starts with {group!r}; have: {', '.join(task_names())}")
    cells, left_out = [], []
    for name in tqdm(names, unit="task", dynamic_ncols=True):
        task = load_task(name)
        try:
            shots = pictures(task, seed=seed)
        except ConfigError as error:
            left_out.append(f"{name} left out: {error}")
            continue
        cells.append((name, task.instruction, choose(shots, [task.camera])))
    for line in left_out:
        typer.echo(line)
    typer.echo(f"{len(cells)} tasks: {sheet(cells, out)}")
