"""`vlmrl evaluate compare`: several evaluations on one page."""

from collections.abc import Sequence
from pathlib import Path

from vlmrl.errors import ConfigError
from vlmrl.evaluate.comparison import page

USAGE = """usage: vlmrl evaluate compare RUN [RUN ...] [out=PAGE]

One page over several runs of `vlmrl evaluate` or `vlmrl run`: rates, differences from the first paired over the initial
states that both have, when and from where each succeeds, films.

  vlmrl evaluate compare runs/today runs/yesterday out=runs/comparison.html"""


def main(arguments: Sequence[str]) -> None:
    """Write the page that the arguments describe.

    Raises:
        ConfigError: if no run is named, or a setting is unknown.
    """
    if not arguments or any(a in ("-h", "--help") for a in arguments):
        print(USAGE)
        return
    settings = dict(a.split("=", 1) for a in arguments if "=" in a)
    if wrong := sorted(set(settings) - {"out"}):
        raise ConfigError(f"unknown setting {wrong[0]!r}; have: out")
    folders = [Path(a) for a in arguments if "=" not in a]
    if not folders:
        raise ConfigError("which runs? vlmrl evaluate compare RUN [RUN ...] [out=PAGE]")
    print(f"page: {page.write(folders, Path(settings.get('out', 'comparison.html')))}")
