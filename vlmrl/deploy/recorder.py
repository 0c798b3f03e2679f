"""Every episode into a store, written beside the control loop: what is committed survives whatever happens next."""

import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vlmrl.deploy.scene import Scene
from vlmrl.errors import ConfigError, VlmrlError
from vlmrl.robot import RobotSpec
from vlmrl.safety import Reason
from vlmrl.store import Store
from vlmrl.types import NO_FRAME, Episode, Frames

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
    pixels: dict[str, list[UInt8[np.ndarray, "H W 3"]]] = field(default_factory=dict)
    index: dict[str, list[int]] = field(default_factory=dict)

    def see(self, now: float, observation: Mapping[str, np.ndarray], solved: bool) -> None:
        """Begin a row; its action follows, but for the last."""
        self.time.append(now)
        self.solved.append(solved)
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
            truth={"success": np.array(self.solved, np.float32)},
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
    """Appends episodes in a thread: a part is written and synced between two episodes, not in the control loop."""

    def __init__(self, store: Store) -> None:
        self.store, self.failed = store, ""
        self._waiting: queue.Queue[Episode | None] = queue.Queue()
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def put(self, episode: Episode) -> None:
        """Have an episode written."""
        self._waiting.put(episode)

    def close(self) -> None:
        """Wait until all is written."""
        self._waiting.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (episode := self._waiting.get()) is not None:
            try:
                self.store.append([episode])
            except (OSError, VlmrlError) as error:
                self.failed = f"{self.store.path} cannot be written: {error}"
