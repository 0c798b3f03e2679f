"""Small commands: data, task, judge, reward, robot, robomimic, doctor."""

from pathlib import Path
from typing import Annotated

import typer

from vlmrl import config as configuration
from vlmrl.cli.given import configured, pairs
from vlmrl.cli.judge import app as judge
from vlmrl.cli.reward import app as reward
from vlmrl.cli.robomimic import app as robomimic
from vlmrl.cli.robot import app as robot
from vlmrl.cli.stats import app as stats
from vlmrl.cli.task import app as task
from vlmrl.errors import ConfigError

HELP = """Teach robots from vision-language-model feedback.

Jobs take settings as key=value: [bold]vlmrl JOB --help[/bold] lists them with their defaults and meanings.

Try: [bold]vlmrl run preset=fast[/bold]
"""

JOBS = {
    "run": "Logs and a sentence in; labels, reward, policies, evaluation and one report out.",
    "label": "Ask a labeler about pairs or single episodes of a store, and write a reward made of the answers.",
    "score": "Score every frame of a store zero-shot against a sentence, and draw the scores beside the film.",
    "train": "Train one learner on one reward column, for one or several seeds.",
    "evaluate": "Run policies in simulation, with intervals and films; `evaluate compare` puts runs on one page.",
    "flywheel": "Recorded episodes in; labels, reward, a new policy, and a gate that promotes or refuses it.",
    "deploy": "Run a policy on a robot, or its simulated twin, through the safety chain, and record every episode.",
    "record": "Record demonstrations by keyboard, gamepad or a leader arm into a store.",
}

app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="rich", add_completion=False)
data = typer.Typer(help="Stores of episodes: collect, import logs, look inside, draw, check.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(task, name="task")
app.add_typer(robot, name="robot")
app.add_typer(robomimic, name="robomimic")
app.add_typer(judge, name="judge")
app.add_typer(reward, name="reward")
app.add_typer(stats, name="stats")


def _add_job(name: str, text: str) -> None:
    """A Hydra job takes everything behind its name, `--help` too."""
    everything = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

    @app.command(name, help=text, context_settings=everything, rich_help_panel="Jobs", add_help_option=False)
    def job(context: typer.Context) -> None:
        from vlmrl.cli.jobs import run_job

        run_job(name, context.args)


for _name, _text in JOBS.items():
    _add_job(_name, _text)


@app.command()
def doctor() -> None:
    """Say what this machine has, what it lacks, and what to do."""
    from vlmrl import doctor as examination

    raise typer.Exit(examination.main())


@app.command("serve")
def serve_(settings: Annotated[list[str] | None, typer.Argument(help="key=value")] = None) -> None:
    """Serve a saved policy by the openpi websocket protocol, on this machine only unless told otherwise.

    Settings: policy, critic, samples, temperature, average, spread, bind, port, tokens, clients. A client of openpi
    connects as to any server of that protocol; `vlmrl evaluate policy=ws://HOST:PORT` with many observations at once.

    Example: vlmrl serve policy=runs/mine/policies/seed0
    """
    from vlmrl.cli.serve_policy import ServePolicyConfig, serve

    serve(configured(ServePolicyConfig, settings, where="serve"))


@data.command("import")
def import_(
    settings: Annotated[list[str], typer.Argument(help="format=NAME and the format's settings as key=value")],
) -> None:
    """Import logs into a store; run again to go on after an interruption.

    Example: vlmrl data import format=lerobot source=FOLDER out=runs/mine
    """
    from vlmrl.store import Store
    from vlmrl.store.autoreset import autoresets
    from vlmrl.store.importers import IMPORTERS, importer

    content = pairs(settings)
    if "format" not in content:
        raise ConfigError(f"which format? format=NAME; have: {', '.join(sorted(IMPORTERS))}")
    module = importer(str(content.pop("format")))
    config = configuration.fill(module.Config, content, where="import")
    typer.echo(module.run(config))
    for problem in autoresets(Store.open(config.out)):
        typer.echo(f"warning, {config.out}: {problem}", err=True)


@data.command("export")
def export_(
    settings: Annotated[list[str], typer.Argument(help="format=NAME and the format's settings as key=value")],
) -> None:
    """Write a store in another format.

    Example: vlmrl data export format=robomimic store=runs/mine reward=COLUMN out=mine.hdf5
    """
    from vlmrl.store.importers import EXPORTERS, importer

    content = pairs(settings)
    if content.get("format") not in EXPORTERS:
        raise ConfigError(f"which format? format=NAME; have: {', '.join(EXPORTERS)}")
    module = importer(str(content.pop("format")))
    typer.echo(module.export(configuration.fill(module.ExportConfig, content, where="export")))


_EVERYTHING = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@data.command("collect", context_settings=_EVERYTHING, add_help_option=False)
def collect_(context: typer.Context) -> None:
    """Collect episodes in simulation: random, a scripted expert with noise, saved policies, mixtures, replays.

    Example: vlmrl data collect task=drawer_open mix=quick out=runs/mine
    """
    from vlmrl.cli.collect import collect

    collect(context.args)


@data.command("learn", context_settings=_EVERYTHING, add_help_option=False)
def learn_(context: typer.Context) -> None:
    """Learn a task on-line with soft actor-critic, and keep checkpoints to collect medium and expert data with.

    Example: vlmrl data learn task=cartpole out=runs/sac-cartpole
    """
    from vlmrl.cli.collect import learn

    learn(context.args)


@data.command()
def show(
    store: Annotated[Path, typer.Argument(help="Folder of a store")],
    sheet: Annotated[
        Path | None, typer.Option(help="Where the contact sheet goes; by default beside the store")
    ] = None,
) -> None:
    """Print what is inside a store, and draw a contact sheet of its frames."""
    from vlmrl.store import Store
    from vlmrl.store.show import contact_sheet, describe

    opened = Store.open(store)
    typer.echo(describe(opened))
    if opened.cameras and len(opened):
        path = sheet or store.parent / f"{store.name}-contact-sheet.png"
        contact_sheet(opened, path)
        typer.echo(f"contact sheet: {path}")


@data.command()
def strip(
    store: Annotated[Path, typer.Argument(help="Folder of a store")],
    reward: Annotated[str, typer.Option(help="Reward column, as `vlmrl data show` lists it")],
    camera: Annotated[str, typer.Option(help="Camera; by default the store's first")] = "",
    out: Annotated[Path | None, typer.Option(help="Where the picture goes; by default beside the store")] = None,
) -> None:
    """Draw film strips of episodes with a reward beneath."""
    from vlmrl.store import Store
    from vlmrl.store.strip import strip as draw

    opened = Store.open(store)
    if not opened.cameras:
        raise ConfigError(f"{store} has no camera, so there is nothing to draw")
    path = out or store.parent / f"{store.name}-{reward}-strip.png"
    draw(opened, reward, camera or opened.cameras[0], path)
    typer.echo(f"film strips: {path}")


@data.command("shape")
def shape_(
    store: Annotated[Path, typer.Argument(help="Folder of a store")],
    settings: Annotated[list[str], typer.Argument(help="operation=NAME reward=COLUMN out=COLUMN and its numbers")],
) -> None:
    """Derive a reward column from another: pessimism, standardise, bounded, difference, potential.

    Example: vlmrl data shape runs/mine operation=pessimism reward=COLUMN amount=1 out=COLUMN-pessimism-1
    """
    from vlmrl.reward.shaping import Config, shape
    from vlmrl.store import Store

    config = configuration.fill(Config, pairs(settings), where="shape")
    shape(Store.open(store), config)
    typer.echo(f"reward column {config.out!r}")


@data.command()
def check(store: Annotated[Path, typer.Argument(help="Folder of a store")]) -> None:
    """Read every byte of a store and name what is damaged, and transitions that lead into another episode."""
    from vlmrl.store import Store
    from vlmrl.store.autoreset import autoresets

    opened = Store.open(store)
    problems = opened.validate() or autoresets(opened)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{store}: whole")
