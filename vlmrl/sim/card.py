"""A task's card: what it asks for, how it moves, what is seen, and what counts as success; in words and in pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from vlmrl.content import places
from vlmrl.errors import ConfigError
from vlmrl.sim.predicates import MEASURES, PREDICATES
from vlmrl.sim.reference import FILE, reference_poses
from vlmrl.sim.register import expert, id_of, make
from vlmrl.sim.task import Camera, Render, Task

if TYPE_CHECKING:
    from vlmrl.sim.env import SimEnv

Picture = UInt8[np.ndarray, "H W 3"]

UNBOUNDED = 1e30
"""From here on a bound is only the largest number of its type."""


def card(task: Task, *, question: str = "") -> str:
    """The card as a terminal prints it; `question` is what a vision-language model is asked of two pictures.

    Raises:
        ConfigError: if the task's scene cannot be made.
    """
    env = make(task)
    try:
        lines = [*_words(task, question), *_motion(task), *_judged(task), *_spaces(env), *_pictures(task)]
    finally:
        env.close()
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join([task.name, *(f"  {name:{width}}{text}".rstrip() for name, text in lines)])


def _words(task: Task, question: str) -> list[tuple[str, str]]:
    found = {"sentence": task.instruction, "goal": task.caption, "baseline": task.baseline, "question": question}
    return [(name, text) for name, text in found.items() if text]


def _motion(task: Task) -> list[tuple[str, str]]:
    physics = " ".join(x for x in (task.physics.family, task.physics.name, _plain(task.physics.options)) if x)
    length = f"{task.horizon} control steps at {task.control_hz:g} Hz ({task.horizon / task.control_hz:g} s)"
    return [("physics", physics), ("episode", length), ("starts", _starts(task)), ("expert", _expert(task))]


def _starts(task: Task) -> str:
    if task.resets.fixed:
        return "every episode alike (rates are 0 or 100 %): for comparison with papers only"
    ranges = "; ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in task.resets.ranges.items())
    return f"drawn by the episode's seed{f': {ranges}' if ranges else ''}"


def _expert(task: Task) -> str:
    try:
        expert(task)
    except ConfigError as error:
        return f"none: {error}"
    return "scripted; graded by replacing some of its actions with random ones"


def _judged(task: Task) -> list[tuple[str, str]]:
    success = _named(PREDICATES, task.success, "predicate")
    held = f", held for {task.hold} steps" if task.hold > 1 else ""
    held += ", at the end of the episode" if task.success_at == "end" else ""
    return [("success", success + held), ("progress", _named(MEASURES, task.progress, "measure"))]


def _named(table: Mapping[str, Any], given: Mapping[str, Any], kind: str) -> str:
    said = (table[given[kind]].__doc__ or "").strip().splitlines()[0]
    return f"{given[kind]} ({_plain({k: v for k, v in given.items() if k != kind})}): {said}"


def _spaces(env: "SimEnv") -> list[tuple[str, str]]:
    space = env.observation_space["state"]
    told = [
        ("state", f"{len(env.state_names)} numbers"),
        *_entries(env.state_names, env.state_units, space.low, space.high),
    ]
    more = [
        (f"observation {key}", f"float32 {box.shape}")
        for key, box in env.observation_space.spaces.items()
        if key != "state"
    ]
    actions = [("action", f"{len(env.action_names)} numbers from -1 to 1")]
    units = [("", f"{name}: 1 is {unit}") for name, unit in zip(env.action_names, env.action_units, strict=True)]
    return [*told, *more, *actions, *units, ("Gymnasium", id_of(env.task.name))]


def _entries(
    names: Sequence[str], units: Sequence[str], low: np.ndarray, high: np.ndarray, most: int = 12
) -> list[tuple[str, str]]:
    shown = [
        ("", f"{name}{'' if unit == '1' else f', {unit}'} ({_range(float(a), float(b))})")
        for name, unit, a, b in list(zip(names, units, low, high, strict=True))[:most]
    ]
    return [*shown, ("", f"... and {len(names) - most} more")] if len(names) > most else shown


def _range(low: float, high: float) -> str:
    return f"{low:.4g} to {high:.4g}" if high < UNBOUNDED else "any number"


def _pictures(task: Task) -> list[tuple[str, str]]:
    cameras = [
        (f"camera {name}", _camera(camera, robot=bool(task.robot_bodies))) for name, camera in task.cameras.items()
    ]
    on = [f.name for f in fields(Render) if getattr(task.render, f.name)]
    return [*cameras, ("drawn with", ", ".join(on) or "no shadows, reflections, multisampling or sites")]


def _camera(camera: Camera, *, robot: bool) -> str:
    crop = "" if camera.crop == Camera.crop else f", crop {_plain({'': camera.crop})}"
    flip = ", upside down" if camera.flip else ""
    drawn = f", robot {'drawn' if camera.robot else 'hidden'}" if robot else ""
    return f"{camera.height}x{camera.width} pixels{drawn}{crop}{flip}"


def _plain(content: Mapping[str, Any]) -> str:
    """Keys and values in a line."""
    parts: list[str] = []
    for key, value in content.items():
        text = f"{value:g}" if isinstance(value, float) else str(list(value) if isinstance(value, tuple) else value)
        parts.append(f"{key} {text}".strip())
    return ", ".join(parts)


def pictures(task: Task, *, seed: int = 0) -> dict[str, Picture]:
    """The start and what a scripted expert reaches, or a reference pose of the goal; for the judge and for people.

    Raises:
        ConfigError: if the task's scene cannot be made or drawn.
    """
    env = make(task)
    try:
        observation, info = env.reset(seed=seed)
        found = _shots(env, "start")
        try:
            policy = expert(task)
        except ConfigError:
            return found | (_shots(env, "goal") if _posed(env) else {})
        policy.reset(seed)
        for _ in range(task.horizon):
            observation, _, _, over, info = env.step(policy.action(observation))
            if over or (info["success"] and task.hold == 1):
                break
        end = "success" if info["success"] else "end"
        return found | _shots(env, end)
    finally:
        env.close()


def _shots(env: "SimEnv", what: str) -> dict[str, Picture]:
    return {f"{what}, {name}": env.frame(name) for name in (env.task.camera, env.task.video)}


def _posed(env: "SimEnv") -> bool:
    """Put the scene into a reference pose of the task's goal, where its group has one."""
    group, _, goal = env.task.name.partition("/")
    if not goal or not any((place / group / FILE).is_file() for place in places("tasks")):
        return False
    for pose in reference_poses(group, env.model):
        if goal in pose.goals:
            pose.strike(env.model, env.data)
            return True
    return False
