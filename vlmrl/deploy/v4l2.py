"""Real cameras: V4L2 devices through OpenCV, each in a process of its own.

Pictures come over shared memory: a pipe holds 64 kB, and a reader of more waits for its writer, who is no real-time
process. A recorded film is a legal device too, and begins again at its end: to rehearse with.
"""

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from vlmrl.deploy.cameras import Picture, Still
from vlmrl.deploy.child import Child, Wire
from vlmrl.deploy.clock import now
from vlmrl.errors import ConfigError, RobotError, VlmrlError
from vlmrl.strict import build

_OPEN_S = 30.0
_AGAIN_S = 1.0
"""Between tries to open a camera that was lost."""
_MISSES = 5
"""Frames in a row that must fail before a camera counts as lost."""
_OLDEST_S = 1.0
"""A device's time stamp that lies farther back is not of this clock."""


@dataclass(frozen=True)
class Config:
    """One camera."""

    device: str
    """/dev/video0 (or /dev/v4l/by-id/...), its number, or a recorded film."""
    width: int = 640
    height: int = 480
    fps: float = 30.0
    fourcc: str = ""
    """Pixel format that is asked for, as MJPG; empty: the driver's choice."""


def cameras(given: Mapping[str, Any] | None) -> dict[str, Config]:
    """Real cameras by name, from a setting like {front: /dev/video0, wrist: {device: 2, width: 320, height: 240}}.

    Raises:
        ConfigError: if a setting makes no sense, or OpenCV is not installed.
    """
    found = dict[str, Config]()
    for name, one in (given or {}).items():
        settings = {str(k): v for k, v in one.items()} if isinstance(one, Mapping) else {"device": one}
        if "device" in settings:
            settings["device"] = str(settings["device"])
        found[str(name)] = made = build(Config, settings, f"devices.{name}")
        if min(made.width, made.height) < 1 or made.fps <= 0 or len(made.fourcc) not in (0, 4):
            raise ConfigError(
                f"devices.{name}: width and height from 1, fps above 0 and a fourcc of four letters wanted, found "
                f"{made.width}, {made.height}, {made.fps:g}, {made.fourcc!r}"
            )
    if found and find_spec("cv2") is None:
        raise ConfigError("real cameras need OpenCV: pip install 'vlmrl[cameras]'")
    return found


@runtime_checkable
class Taken(Protocol):
    """What is used of `cv2.VideoCapture`."""

    def read(self) -> tuple[bool, Any]:
        """Whether there is a frame, and it: (H, W, 3) uint8, blue first."""
        ...

    def get(self, property: int, /) -> float:
        """A property's value."""
        ...

    def release(self) -> None:
        """Close it."""
        ...


class V4l2Feed:
    """The latest picture of a real camera, at most `hz` of them a second."""

    def __init__(self, name: str, config: Config, *, hz: float = 10.0) -> None:
        """Open the camera, and wait for its first picture.

        Raises:
            RobotError: if it cannot be opened, or gives pictures of another size.
        """
        self.name, self._period, self._shape = name, 1 / hz, (config.height, config.width, 3)
        self.latest: Picture | None = None
        self.failed = ""
        shared = get_context("forkserver").RawArray("B", int(np.prod(self._shape)))
        self._pixels = np.frombuffer(shared, np.uint8).reshape(self._shape)
        self._asked, self._changed, self._busy = -np.inf, -np.inf, False
        self._child = Child(_serve, name, config, shared)
        said = self._child.wait(_OPEN_S)
        if said is None or isinstance(said, VlmrlError):
            self._child.close()
            raise said or RobotError(f"camera {name!r} ({config.device}) was not opened within {_OPEN_S:.0f} s")

    def show(self, still: Still, now: float) -> None:
        """Take what has come, and where it is time ask for the next picture; never waits."""
        del still
        if (said := self._child.hear()) is not None:
            self._busy = False
            self.failed, taken, changed = cast("tuple[str, float, float]", said)
            if not self.failed and (self.latest is None or taken > self.latest.time):
                self.latest, self._changed = Picture(taken, self._pixels.copy()), changed
        if self._child.dead:
            self.failed = f"camera {self.name!r}: its process has ended"
        elif not self._busy and now - self._asked >= self._period:
            self._asked, self._busy = now, True
            self._child.send("")

    def forget(self) -> None:
        """A real camera shows what there is."""

    def unchanged(self, now: float) -> float:
        """Since any pixel last changed, s: a sensor's noise changes some in every picture."""
        return now - self._changed

    def close(self) -> None:
        """End the process."""
        self._child.close()


def _serve(pipe: Wire, name: str, config: Config, shared: Any) -> None:
    """Open the camera, say so, and watch it."""
    pixels = np.frombuffer(shared, np.uint8).reshape(config.height, config.width, 3)
    watched = Watched(name, config, lambda: opened(name, config))
    try:
        watched.open()
    except VlmrlError as error:
        pipe.send(error)
        return
    pipe.send("")
    watch(pipe, watched, pixels, fps=config.fps)


class Watched:
    """A camera of which every frame is read, so that none is old; one that is lost is opened again and again."""

    def __init__(self, name: str, config: Config, open_it: Callable[[], Taken]) -> None:
        self.film = Path(config.device).is_file()
        self.latest: UInt8[np.ndarray, "H W 3"] | None = None
        """Blue first."""
        self.time = self.changed = -np.inf
        """When it was taken, and when a pixel last changed."""
        self.wrong = ""
        """Why there is no picture now, empty where there is one."""
        self._told, self._open_it = f"camera {name!r} ({config.device}) gives no pictures any more", open_it
        self._taken: Taken | None = None
        self._misses, self._tried = 0, -np.inf

    def open(self) -> None:
        """Open it.

        Raises:
            RobotError: if it cannot be.
        """
        self._tried, self._taken, self._misses = now(), self._open_it(), 0

    def read(self) -> None:
        """Take the next frame, or try to open the camera."""
        if self._taken is None:
            self._open_again()
            return
        good, frame = self._taken.read()
        if good:
            self._misses, self.time, self.wrong = 0, stamp(self._taken), ""
            if self.latest is None or not np.array_equal(frame, self.latest):
                self.latest, self.changed = frame, self.time
            return
        self._misses += 1
        if self.film or self._misses >= _MISSES:
            self._taken.release()
            self._taken, self.wrong = None, "" if self.film else self._told

    def _open_again(self) -> None:
        if not self.film and now() - self._tried < _AGAIN_S:
            time.sleep(0.01)
            return
        try:
            self.open()
        except VlmrlError as error:
            self.wrong = str(error)


def watch(pipe: Wire, watched: Watched, pixels: UInt8[np.ndarray, "H W 3"], *, fps: float = 30.0) -> None:
    """Read frames, a film's at their rate; to each question put the latest into `pixels`, and answer.

    An answer is what is wrong, when the frame was taken, and when the picture last changed.
    """
    while True:
        watched.read()
        due = now() + (1 / fps if watched.film else 0.0)
        while pipe.poll(max(0.0, due - now())):
            pipe.recv()
            if watched.latest is not None:
                pixels[:] = watched.latest[:, :, ::-1]
            pipe.send((watched.wrong, watched.time, watched.changed))


def stamp(taken: Taken) -> float:
    """When the frame was taken, by the clock of the control loop, s.

    V4L2 stamps frames with the monotonic clock when they are captured, and OpenCV hands that on as the position in ms
    (modules/videoio/src/cap_v4l.cpp). What does not lie within the last second is no such stamp: then it is now.
    """
    here = now()
    own = taken.get(_POSITION_MS) / 1000
    return own if here - _OLDEST_S < own <= here else here


_POSITION_MS = 0
"""cv2.CAP_PROP_POS_MSEC."""


def opened(name: str, config: Config) -> Taken:
    """The camera, after its first frame.

    Raises:
        RobotError: if there is none, it gives no frame, or frames of another size.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    cv2: Any = import_module("cv2")
    wanted, film = f"camera {name!r} ({config.device})", Path(config.device).is_file()
    taken = cv2.VideoCapture(config.device) if film else cv2.VideoCapture(number(name, config.device), cv2.CAP_V4L2)
    if not taken.isOpened():
        raise RobotError(f"{wanted} cannot be opened: another process may use it; have: {', '.join(devices())}")
    if not film:
        if config.fourcc:
            taken.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*config.fourcc))
        taken.set(cv2.CAP_PROP_FRAME_WIDTH, config.width)
        taken.set(cv2.CAP_PROP_FRAME_HEIGHT, config.height)
        taken.set(cv2.CAP_PROP_FPS, config.fps)
    good, frame = taken.read()
    if not good or frame.shape != (config.height, config.width, 3):
        taken.release()
        if not good:
            raise RobotError(f"{wanted} is open and gives no pictures")
        found = f"{frame.shape[1]}x{frame.shape[0]}"
        raise RobotError(
            f"{wanted} gives pictures of {found}, wanted {config.width}x{config.height}; say width={frame.shape[1]} "
            f"height={frame.shape[0]}, or a size of `v4l2-ctl --list-formats-ext`"
        )
    return cast("Taken", taken)


def number(name: str, device: str) -> int:
    """Of a device as V4L2 counts them.

    Raises:
        RobotError: if there is no such device.
    """
    found = re.fullmatch(r"(?:/dev/video)?(\d+)", str(Path(device).resolve()) if "/" in device else device)
    if found is None or not Path(f"/dev/video{found[1]}").exists():
        here = ", ".join(devices())
        raise RobotError(f"camera {name!r}: no video device {device!r}; have: {here}; a recorded film will do too")
    return int(found[1])


def devices() -> list[str]:
    """Those there are."""
    return sorted(str(path) for path in Path("/dev").glob("video[0-9]*")) or ["none"]
