"""A task: the sentence, the scene, the cameras and the success predicate, read from `tasks/<name>/task.yaml`."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from vlmrl.annotate.asking import QUESTIONS, check_view
from vlmrl.content import find, names, places
from vlmrl.errors import ConfigError, unknown
from vlmrl.sim.predicates import MEASURES, PREDICATES, check_parameters
from vlmrl.sim.variation import SPLITS, Variation, check_splits
from vlmrl.strict import FROM_PLACE, build, read

Vector = tuple[float, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Camera:
    """Where a picture is taken from, in the scene's frame."""

    position: Vector
    """m; relative to the body `follow` where that is set."""
    xyaxes: Vector
    """Picture's right and up axes as six numbers, MuJoCo's convention."""
    fovy: float = 45.0
    """Vertical opening angle of the uncropped picture, degrees."""
    crop: Vector = (0.0, 0.0, 1.0, 1.0)
    """Left, top, right, bottom of what is kept, in fractions of the picture as it comes out."""
    flip: bool = False
    """Mirror top and bottom (RL-VLM-F flips its Meta-World pictures)."""
    robot: bool = False
    """Whether the robot's visual geoms are drawn."""
    follow: str = ""
    """Body the camera travels with; its orientation stays fixed."""
    height: int = 128
    width: int = 128
    """Pixels."""


@dataclass(frozen=True)
class Render:
    """What software OpenGL spends its time on (shadows, reflections, multisampling: 10 to 17 times) is off."""

    shadows: bool = False
    reflections: bool = False
    multisampling: int = 0
    """Samples a pixel, 0 none."""
    sites: bool = False
    """Draw MuJoCo sites: Meta-World marks the goal with one, which would tell the answer."""
    cull: bool = True
    """Draw only the side of a surface that faces the camera, as MuJoCo itself does; both sides take a third longer."""


@dataclass(frozen=True)
class Physics:
    """Which dynamics move the scene."""

    family: str
    """A name in `vlmrl.sim.dynamics.FAMILIES`."""
    name: str = ""
    """The family's own environment, for example `drawer-open-v3`."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What else the family takes."""


@dataclass(frozen=True)
class Resets:
    """How episodes start."""

    fixed: bool = False
    """Every seed starts alike, so that success rates are 0 or 100 %: only for comparison with papers."""
    object: Vector = ()
    """Fixed pose of the object, m; empty: the family's own distribution."""
    hand: Vector = ()
    """Start of the hand, m; empty: the family's own."""
    spread: float = 0.05
    """Half-width of the uniform start of each state, for families that draw one (cartpole)."""
    ranges: Mapping[str, Vector] = field(default_factory=dict[str, Vector])
    """Quantities that the family draws evenly from [low, high], by their names; SI units, radians."""


@dataclass(frozen=True)
class View:
    """What labelers are shown of the task, and in which words they are asked."""

    crop: Vector = ()
    """Left, top, right, bottom of what is shown, in fractions of the stored picture; empty: all of it."""
    size: tuple[int, ...] = ()
    """Height and width that pictures are brought to; empty: as stored."""
    prompt: Mapping[str, str] = field(default_factory=dict[str, str])
    """Question (preference, progress, yes, score, success) to the folder of conf/prompt it is asked with."""
    hand: tuple[str, ...] = ()
    """Names of the three numbers of obs/state that say where the robot's hand is, m, in the scene's frame."""


@dataclass(frozen=True)
class Task:
    """Everything that defines a task; hyperparameters of learners are not part of it."""

    name: str
    instruction: str
    """Goal phrase, as it follows `The goal is `."""
    physics: Physics
    horizon: int
    """Control steps an episode."""
    control_hz: float
    cameras: Mapping[str, Camera]
    success: Mapping[str, Any]
    """`predicate` names an entry of `PREDICATES`, the other keys are its parameters."""
    progress: Mapping[str, Any]
    """`measure` names an entry of `MEASURES`, the other keys are its parameters."""
    caption: str = ""
    """The finished goal as a statement, for image-text models."""
    baseline: str = ""
    """The scene without the goal as a statement: VLM-RM's second prompt."""
    camera: str = "judge"
    """The camera of rewards and labelers."""
    video: str = "video"
    """The camera of rollout videos."""
    robot_bodies: tuple[str, ...] = ()
    """Root bodies of the robot, for cameras that hide it."""
    hold: int = 1
    """Control steps without a break over which the predicate must hold to count as success."""
    success_at: Literal["any", "end"] = "any"
    """Which control step decides over an episode: any, or the last where what was reached can be undone."""
    solved_at_start: bool = False
    """The predicate holds at reset, and the task is to keep it up over `hold` steps; true without saying where
    `hold` is the horizon."""
    resets: Resets = Resets()
    render: Render = Render()
    reference: Mapping[str, float] = field(default_factory=dict[str, float])
    """Mean returns of a `random` policy and of an `expert`: the 0 and 100 of normalised scores."""
    variations: Mapping[str, Variation] = field(default_factory=dict[str, Variation])
    """Ranges kept apart, `train` and `held_out`, of which `varied` chooses one."""
    variation: Variation = field(default_factory=Variation)
    """What is drawn anew for every episode."""
    ask: View = field(default_factory=View)
    """What labelers are shown and asked."""
    folder: Path = field(default=Path(), compare=False)

    def settings(self, camera: str = "") -> dict[str, object]:
        """Return what determines a picture of one camera, JSON-ready, for the store to record."""
        chosen = camera or self.camera
        if chosen not in self.cameras:
            raise unknown("camera", chosen, self.cameras)
        placement = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.cameras[chosen]).items()}
        varied = {"variation": self.variation.settings()} if self.variation.active else {}
        return {"task": self.name, "camera": chosen, **placement, **asdict(self.render), **varied}


DEFAULTS = "defaults.yaml"
"""In a group's folder: keys that its tasks have where they do not say otherwise."""


def task_names() -> list[str]:
    """Every task, yours (./tasks) and the installed ones: `<folder>`, or `<group>/<file>` for tasks of one file."""
    found, searched = set[str](), places("tasks")
    for folder in names("tasks"):
        held = {place: {p.stem for p in (place / folder).glob("*.yaml")} for place in searched}
        members = set[str]().union(*held.values())
        if "task" in members or any((place / folder).is_dir() and not there for place, there in held.items()):
            found.add(folder)
        found |= {f"{folder}/{member}" for member in members - {"task", "defaults"}}
    return sorted(found)


def matching(patterns: Sequence[str]) -> list[str]:
    """The tasks that names stand for; `*` stands for anything: `metaworld/*`.

    Raises:
        ConfigError: if no task fits a pattern.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        fitting = fnmatch.filter(task_names(), pattern) if "*" in pattern else [pattern]
        if not fitting:
            raise unknown("task", pattern, task_names())
        found |= dict.fromkeys(fitting)
    return list(found)


def load_task(name: str) -> Task:
    """Read `tasks/<name>/task.yaml`, or for a name with a slash `tasks/<name>.yaml` over its group's defaults.

    An underscore may stand for the slash: `humanoid_kneeling` is `humanoid/kneeling`. `<name>@train` and
    `<name>@held_out` are the task with its variation of that name.

    Raises:
        ConfigError: if there is no such task, or a key is unknown, missing or of the wrong type.
    """
    name, at, split = name.partition("@")
    have = task_names()
    name = next((n for n in have if name not in have and n.replace("/", "_") == name), name)
    if name not in have:
        raise unknown("task", name, have)
    group = name.rpartition("/")[0]
    path = find("tasks", f"{name}.yaml") if group else find("tasks", name) / "task.yaml"
    if not path.is_file():
        raise ConfigError(f"task {name!r}: {path} is missing")
    content = read(path)
    if group and any((place / group / DEFAULTS).is_file() for place in places("tasks")):
        content = _over(read(find("tasks", f"{group}/{DEFAULTS}")), content)
    task = build(Task, content | {"name": name, "folder": path.parent}, str(path), hidden=FROM_PLACE)
    _check(task, str(path))
    return varied(task, split) if at else task


def varied(task: Task, split: str) -> Task:
    """The task with its variation `train` or `held_out`, named `<name>@<split>`.

    Raises:
        ConfigError: if the task has none of this name.
    """
    if split not in task.variations:
        have = ", ".join(map(repr, task.variations)) or f"none; its task.yaml may say variations: {', '.join(SPLITS)}"
        raise ConfigError(f"task {task.name!r} has no variation {split!r}; have: {have}")
    return replace(task, name=f"{task.name}@{split}", variation=task.variations[split])


def parsed(cls: type[T], task: Task) -> T:
    """Read a task's `physics.options` as a family's dataclass.

    Raises:
        ConfigError: if a key is unknown, missing or of the wrong type.
    """
    return build(cls, task.physics.options, f"task {task.name!r}: physics.options")


def _over(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given keys over the defaults; mappings are joined, but a predicate or measure replaces the other whole."""
    merged = dict(defaults)
    for key, value in given.items():
        before = merged.get(key)
        joined = isinstance(before, Mapping) and isinstance(value, Mapping) and key not in ("success", "progress")
        merged[key] = _over(cast("Mapping[str, Any]", before), cast("Mapping[str, Any]", value)) if joined else value
    return merged


def _check(task: Task, where: str) -> None:
    for wanted in (task.camera, task.video):
        if wanted not in task.cameras:
            raise ConfigError(f"{where}: {unknown('camera', wanted, task.cameras)}")
    for name, camera in task.cameras.items():
        _check_camera(camera, f"{where}: cameras.{name}")
    check_parameters(PREDICATES, task.success, "predicate", f"{where}: success")
    check_parameters(MEASURES, task.progress, "measure", f"{where}: progress")
    _check_view(task.ask, f"{where}: ask")
    if task.horizon < 1 or task.control_hz <= 0 or task.hold < 1:
        raise ConfigError(f"{where}: horizon, control_hz and hold must be positive")
    task.variation.check(f"{where}: variation")
    check_splits(task.variations, f"{where}: variations")


def _check_view(view: View, where: str) -> None:
    check_view(view.crop, view.size, where=where)
    if wrong := set(view.prompt) - set(QUESTIONS):
        raise ConfigError(f"{where}.prompt: {unknown('question', min(wrong), QUESTIONS)}")
    if view.hand and len(view.hand) != 3:
        raise ConfigError(f"{where}.hand: names of three numbers wanted, found {list(view.hand)}")


def _check_camera(camera: Camera, where: str) -> None:
    left, top, right, bottom = camera.crop if len(camera.crop) == 4 else (0.0, 0.0, 0.0, 0.0)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ConfigError(f"{where}.crop: left, top, right, bottom within 0 and 1 wanted, found {list(camera.crop)}")
    if len(camera.position) != 3 or len(camera.xyaxes) != 6:
        raise ConfigError(f"{where}: position has 3 numbers and xyaxes 6")
    if min(camera.height, camera.width) < 1 or not 0 < camera.fovy < 180:
        raise ConfigError(f"{where}: height and width must be positive and fovy between 0 and 180 degrees")
