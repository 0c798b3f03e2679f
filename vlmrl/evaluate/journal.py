"""Episodes of an evaluation on disk from the moment they are over, so that one cut off goes on where it was."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from vlmrl.errors import ConfigError, DataError
from vlmrl.evaluate.lanes import Outcome
from vlmrl.sim import Task, make


class Journal:
    """One line of JSON an episode, below a line that says of what."""

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        """Open or begin a file.

        Raises:
            ConfigError: if it holds episodes of another policy or another task.
            DataError: if it is damaged.
        """
        self.path = path
        self.episodes: dict[int, Outcome] = {}
        if path.is_file() and (lines := _whole_lines(path)):
            self._read(lines, key)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(dict(key), sort_keys=True) + "\n")

    def add(self, outcome: Outcome) -> None:
        """Append an episode that is over."""
        with self.path.open("a") as file:
            file.write(json.dumps(outcome.as_json()) + "\n")
        self.episodes[outcome.seed] = outcome

    def _read(self, lines: list[str], key: Mapping[str, Any]) -> None:
        try:
            found, *rest = map(json.loads, lines)
            episodes = [Outcome.from_json(content) for content in rest]
        except (json.JSONDecodeError, TypeError) as error:
            raise DataError(f"{self.path} is damaged ({error}); remove it, and its episodes are run again") from error
        wanted = json.loads(json.dumps(dict(key)))
        known = {*found, *wanted} - ({*_NEWER} - {*found})
        if changed := sorted(k for k in known if found.get(k) != wanted.get(k)):
            what = "; ".join(f"{k} was {found.get(k)!r}, is {wanted.get(k)!r}" for k in changed)
            raise ConfigError(f"{self.path} holds episodes of something else ({what}); choose another out=FOLDER")
        self.episodes = {episode.seed: episode for episode in episodes}


_NEWER = ("versions", "model")
"""What older files do not say, and are not refused for."""
_SIMULATORS = ("mujoco", "gymnasium", "metaworld", "robosuite", "gymnasium-robotics")
_STRUCTURE = (
    *("body_mass", "body_inertia", "geom_type", "geom_size", "geom_friction", "geom_solref", "jnt_type", "jnt_range"),
    *("dof_damping", "dof_armature", "dof_frictionloss", "actuator_gainprm", "actuator_biasprm", "actuator_ctrlrange"),
)
"""Of a compiled model; what resets move (positions, colours) is no part of it."""

_LATER = (("success_at", "any"), ("solved_at_start", False))
"""Defaults of keys that tasks did not always have: they change no version."""


def task_key(task: Task) -> dict[str, Any]:
    """What decides the episodes of a task: everything in its file, and its scene."""
    content = {k: v for k, v in asdict(task).items() if k != "folder" and (k, v) not in _LATER}
    scene = task.folder / "scene.xml"
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode())
    digest.update(scene.read_bytes() if scene.is_file() else b"")
    return {"task": task.name, "task_version": digest.hexdigest()[:16]}


def physics_key(task: Task) -> dict[str, Any]:
    """What decides episodes besides the task's file: the simulators' versions, and the model that came of its scene."""
    env = make(task)
    try:
        model = env.model
        digest = hashlib.sha256(repr((model.nq, model.nu, model.opt.timestep, list(model.opt.gravity))).encode())
        for name in _STRUCTURE:
            digest.update(np.ascontiguousarray(getattr(model, name)).tobytes())
    finally:
        env.close()
    versions = {name: version for name in _SIMULATORS if (version := _version(name))}
    return {"versions": versions, "model": digest.hexdigest()[:16]}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _whole_lines(path: Path) -> list[str]:
    """The lines that were written whole; half a line, which a killed process leaves, is cut off the file."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    return whole.decode().splitlines()
