"""Where conf, tasks, robots and data (the built-in judge) are found: the working folder, then the installation."""

from pathlib import Path
from typing import Literal, get_args

from vlmrl.errors import ConfigError, unknown

Group = Literal["conf", "tasks", "robots", "data"]

GROUPS: tuple[Group, ...] = get_args(Group)

_KIND = {"conf": "configuration", "tasks": "task", "robots": "robot", "data": "data"}


def find(group: Group, name: str) -> Path:
    """Return the file or folder `name` of a group; the working folder's own hides the installed one.

    Raises:
        ConfigError: if no place holds it; the message lists what there is.
    """
    for place in places(group):
        path = place / name
        if name and ".." not in Path(name).parts and not Path(name).is_absolute() and path.exists():
            return path
    raise unknown(_KIND[group], name, names(group))


def names(group: Group) -> list[str]:
    """Return every name of a group: its folders, and its YAML files with their suffix."""
    found = {p.name for place in places(group) for p in place.iterdir() if p.is_dir() or p.suffix == ".yaml"}
    return sorted(n for n in found if not n.startswith((".", "_")))


def places(group: Group) -> list[Path]:
    """Return the existing folders of a group in the order of search: yours, the wheel's, the checkout's.

    Raises:
        ConfigError: if there is none.
    """
    package = Path(__file__).resolve().parent
    candidates = [Path.cwd() / group, package / "_content" / group]
    if (package.parent / "pyproject.toml").is_file():
        candidates.append(package.parent / group)
    found = list(dict.fromkeys(p.resolve() for p in candidates if p.is_dir()))
    if not found:
        raise ConfigError(f"no {group!r} folder in {Path.cwd()} nor in the installation {package}")
    return found
