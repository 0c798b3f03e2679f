"""What the judge learns from: Meta-World's tasks with sentences for each, read from `conf/judge/tasks.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from vlmrl.content import find
from vlmrl.errors import ConfigError, unknown

MEASURES = ("distance", "object", "second")


@dataclass(frozen=True)
class Lesson:
    """One task."""

    name: str
    sentences: tuple[str, ...]
    """Any of them may stand for the task."""
    against: tuple[str, ...] = ()
    """Sentences of the opposite goal."""
    measure: str = "distance"
    """Which distance to the target is the progress: `distance` (Meta-World's own), `object`, `second`."""
    marker: bool = False
    """Whether a drawn marker shows the goal."""
    held_out: bool = False
    """Whether the checkpoint `zeroshot` never sees it."""


def lessons() -> dict[str, Lesson]:
    """Read the tasks.

    Raises:
        ConfigError: if an entry is not understood.
    """
    path = find("conf", "judge") / "tasks.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    held_out = set(content["held_out"])
    if strangers := held_out - set(content["tasks"]):
        raise ConfigError(f"{path}: held_out: {unknown('task', min(strangers), content['tasks'])}")
    return {name: _lesson(name, entry, name in held_out, str(path)) for name, entry in content["tasks"].items()}


def _lesson(name: str, entry: Mapping[str, object], held_out: bool, where: str) -> Lesson:
    match entry:
        case {"sentences": [*sentences], **rest} if set(rest) <= {"against", "measure", "goal"}:
            measure = str(rest.get("measure", MEASURES[0]))
            if measure not in MEASURES:
                raise ConfigError(f"{where}: {name}: {unknown('measure', measure, MEASURES)}")
            against = rest.get("against", [])
            assert isinstance(against, list)
            marker = rest.get("goal") == "marker"
            return Lesson(name, tuple(map(str, sentences)), tuple(map(str, against)), measure, marker, held_out)
        case _:
            raise ConfigError(f"{where}: {name}: sentences, and perhaps against, measure, goal wanted; found {entry}")
