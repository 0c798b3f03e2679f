"""`vlmrl judge`: make the built-in judge anew, and examine it."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from vlmrl.cli.given import configured

Settings = Annotated[list[str] | None, typer.Argument(help="Settings as key=value")]

app = typer.Typer(help="The built-in judge: make it anew, examine it.", no_args_is_help=True)


@dataclasses.dataclass(frozen=True)
class PicturesConfig:
    """The judge's data set."""

    out: str = "runs/judge"
    workers: int = 2
    seed: int = 0


@app.command()
def card(settings: Settings = None) -> None:
    """Examine a checkpoint on new episodes: checkpoint, pictures, out, device.

    Example: vlmrl judge card checkpoint=seen pictures=runs/judge out=docs/judge
    """
    from vlmrl.judge import card as judge_card

    typer.echo(f"card: {judge_card.main(configured(judge_card.CardConfig, settings, where='judge'))}")


@app.command()
def pictures(settings: Settings = None) -> None:
    """Render the pictures of every task, resumed task by task: out, workers, seed.

    Example: vlmrl judge pictures out=runs/judge
    """
    from vlmrl.judge import dataset

    config = configured(PicturesConfig, settings, where="judge")
    dataset.make(Path(config.out), workers=config.workers, seed=config.seed)
    typer.echo(f"pictures: {config.out}")


@app.command()
def train(settings: Settings = None) -> None:
    """Make both checkpoints from nothing: teacher, backbone, work, out, workers, train.updates, ...

    Example: vlmrl judge train teacher=FOLDER backbone=FILE out=data/judge
    """
    from vlmrl.judge import make

    config = configured(make.MakeConfig, settings, where="judge")
    make.main(config)
    typer.echo(f"checkpoints: {config.out}")
