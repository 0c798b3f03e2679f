"""Every episode into a store, written beside the control loop: what is committed survives whatever happens next."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8

from vlmrl.deploy.child import Child, Wire
from vlmrl.deploy.clock import now
from vlmrl.deploy.scene import Scene
from vlmrl.errors import ConfigError, DataError, VlmrlError
from vlmrl.robot import RobotSpec
from vlmrl.safety import Reason
from vlmrl.store import Store
from vlmrl.types import NO_FRAME, Episode, Frames

_SLOW_S = 30.0
_PATIENCE_S = 60.0
PERSON = 128
"""Added to a row's reason where a person was in command."""


@dataclass
class Rows:
    """One episode under way."""

    obs: dict[str, list[np.ndarray]] = field(default_factory=dict)
    sent: list[np.ndarray] = field(default_factory=list)
    requested: list[np.ndarray] = field(default_factory=list)
    reason: list[int] = field(default_factory=list)
    time: list[float] = field(default_factory=list)
    solved: list[bool] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)
    pixels: dict[str, list[UInt8[np.ndarray, "H W 3"]]] = field(default_factory=dict)
    index: dict[str, list[int]] = field(default_factory=dict)

    def see(self, now: float, observation: Mapping[str, np.ndarray], *, solved: bool, progress: float) -> None:
        """Begin a row; its action follows, but for the last."""
        self.time.append(now)
        self.solved.append(solved)
        self.progress.append(progress)
        for key, value in observation.items():
            self.obs.setdefault(key, []).append(value)

    def look(self, camera: str, pixels: UInt8[np.ndarray, "H W 3"] | None) -> None:
        """A picture of the row that was begun last, if there is one."""
        kept = self.pixels.setdefault(camera, [])
        self.index.setdefault(camera, []).append(NO_FRAME if pixels is None else len(kept))
        if pixels is not None:
            kept.append(pixels)

    def do(self, sent: np.ndarray, requested: np.ndarray, reason: Reason, *, person: bool) -> None:
        """What was done about it, in actions."""
        self.sent.append(sent)
        self.requested.append(requested)
        self.reason.append(int(reason) + PERSON * person)

    def episode(self, *, task: str, robot: str, instruction: str, source: str, seed: int, success: int) -> Episode:
        """As a store keeps it."""
        rows, blank = len(self.time), np.zeros_like(self.sent[0])
        asked = np.arange(rows) < len(self.sent)
        pad = [blank] * (rows - len(self.sent))
        return Episode(
            action=np.array([*self.sent, *pad], np.float32),
            obs={key: np.array(values, np.float32) for key, values in self.obs.items() if values[0].ndim == 1},
            time=np.array(self.time) - self.time[0],
            has_action=asked,
            has_next=np.arange(rows) < rows - 1,
            terminated=False,
            truncated=True,
            task=task,
            instruction=instruction,
            source=source,
            robot=robot,
            images={
                camera: Frames(np.array(pixels), np.array(self.index[camera], np.int32))
                for camera, pixels in self.pixels.items()
                if pixels
            },
            truth={"success": np.array(self.solved, np.float32), "progress": np.array(self.progress, np.float32)},
            requested=np.array([*self.requested, *pad], np.float32),
            intervention=np.array([*self.reason, *[0] * len(pad)], np.uint8),
            seed=seed,
            success=success,
        )


def open_store(path: Path, scene: Scene, spec: RobotSpec) -> Store:
    """The store at a path, made where there is none.

    Raises:
        ConfigError: if it holds another robot's episodes.
    """
    columns = described(scene, spec)
    if not (path / "manifest.json").exists():
        return Store.create(
            path,
            names={key: about["names"] for key, about in columns.items()},
            units={key: about["units"] for key, about in columns.items()},
            meta={
                "task": scene.task.name,
                "robot": spec.name,
                "control_hz": spec.control_hz,
                "render": {scene.task.camera: dict(scene.env.settings())},
            },
        )
    store = Store.open(path)
    if {key: store.attributes.get(key) for key in columns} != columns:
        raise ConfigError(f"{path} holds episodes with other names or units than robot {spec.name!r} has")
    return store


def described(scene: Scene, spec: RobotSpec) -> dict[str, dict[str, Any]]:
    """Names and units of what the robot shows and is told, by column."""
    return {
        "obs/state": {"names": list(scene.env.state_names), "units": list(scene.env.state_units)},
        "action": {"names": list(spec.names), "units": list(spec.action_units)},
    }


class Recorder:
    """Appends episodes in a process of its own, which also finishes what it was given when the node is killed."""

    def __init__(self, path: Path, *, waits: bool = False) -> None:
        """Append to the store at a path; `waits`: each `put` until its episode is written, where time waits too."""
        self._failed, self._child, self._given, self._written = "", Child(_write, path), 0, 0
        self._moved, self._waits = now(), waits
        self.path = path

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._child.pid

    @property
    def failed(self) -> str:
        """Why nothing can be recorded any more, empty where it can."""
        while (said := self._child.hear()) is not None:
            self._written, self._failed, self._moved = self._written + (not said), self._failed or said, now()
        if self._child.dead and not self._failed:
            self._failed = "the recorder's process has ended"
        if min(self._child.behind_s, now() - self._moved) > _SLOW_S and not self._failed:
            self._failed = f"the recorder has not taken an episode for {_SLOW_S:.0f} s"
        return self._failed

    def put(self, episode: Episode) -> None:
        """Have an episode written."""
        self._given += 1
        self._child.send(episode)
        if self._waits:
            self._settle(_PATIENCE_S)

    def _settle(self, patience_s: float) -> None:
        """Wait until all is written, or nothing can be."""
        until = now() + patience_s
        while not self.failed and self._written < self._given and now() < until:
            time.sleep(0.01)

    def close(self, patience_s: float = _PATIENCE_S) -> None:
        """Wait until all is written.

        Raises:
            DataError: if it could not be.
        """
        self._settle(patience_s)
        failed, missing = self.failed, self._given - self._written
        self._child.close()
        if missing:
            raise DataError(f"{missing} of {self._given} episodes were not recorded in {self.path}: {failed}")


def _write(pipe: Wire, path: Path) -> None:
    """Append what comes; answer each with nothing, or with what went wrong."""
    # There is time: what moves the arm goes first.
    os.nice(10)
    store = Store.open(path)
    while True:
        episode = cast("Episode", pipe.recv())
        try:
            store.append([episode])
            said = ""
        except (OSError, VlmrlError) as error:
            said = f"{path} cannot be written: {error}"
        try:
            pipe.send(said)
        except OSError:
            # The node is gone; what it gave is still written.
            continue
