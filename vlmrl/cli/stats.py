"""`vlmrl stats`: how many episodes an answer needs, and the interval of a count."""

from typing import Annotated

import typer

from vlmrl.errors import ConfigError

app = typer.Typer(help="How many episodes are enough, and what a count is worth.", no_args_is_help=True)


@app.callback()
def stats() -> None:
    """How many episodes are enough, and what a count is worth."""


@app.command()
def n(
    rate: Annotated[float, typer.Option(help="Success rate that you expect")] = 0.5,
    margin: Annotated[float | None, typer.Option(help="How far the interval may reach: 0.05 is five points")] = None,
    versus: Annotated[float | None, typer.Option(help="The rate that it is to be told from")] = None,
    power: Annotated[float, typer.Option(help="How often the difference is to be found")] = 0.8,
    correlation: Annotated[
        float, typer.Option(help="Of the two outcomes over initial states; 0 is the careful guess")
    ] = 0.0,
) -> None:
    """Say how many episodes are needed.

    Example: vlmrl stats n --margin 0.05 --rate 0.8

    Example: vlmrl stats n --rate 0.8 --versus 0.6
    """
    from vlmrl.evaluate import power as needed

    if (margin is None) == (versus is None):
        raise ConfigError("say either --margin (how narrow the interval is to be) or --versus (what to be told from)")
    if margin is not None:
        fixed, stopping = needed.for_margin(rate, margin), needed.sequentially(rate, margin)
        typer.echo(f"{fixed} episodes: Wilson's 95 % interval of a rate of {rate:g} reaches at most {margin:g}")
        typer.echo(f"{stopping} episodes: the interval that may be looked at at any time (evaluate margin={margin:g})")
    elif versus is not None:
        count = needed.for_difference(rate, versus, power=power, correlation=correlation)
        typer.echo(
            f"{count} initial states: {rate:g} is told from {versus:g} in {power:.0%} of comparisons "
            f"(paired, McNemar's test at 5 %, correlation {correlation:g})"
        )
    typer.echo("that is for policies as they are; a claim about a training method needs several training seeds too")


@app.command()
def interval(
    successes: Annotated[int, typer.Argument(help="Episodes that succeeded")],
    episodes: Annotated[int, typer.Argument(help="Episodes in all")],
) -> None:
    """Print the intervals of a count.

    Example: vlmrl stats interval 45 50
    """
    from vlmrl.evaluate import sequential
    from vlmrl.interval import wilson

    if not 0 <= successes <= episodes or episodes < 1:
        raise ConfigError(f"successes from 0 to the number of episodes wanted, found {successes} of {episodes}")
    typer.echo(f"Wilson, number of episodes fixed before: {wilson(successes, episodes).percent()}")
    typer.echo(f"valid at any time one stops:             {sequential.rate(successes, episodes).percent()}")
