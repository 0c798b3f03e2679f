"""Real cameras: frames with their time, and what is lost, frozen, absent or of another size is told."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from vlmrl.deploy import v4l2
from vlmrl.deploy.cameras import Feed
from vlmrl.deploy.clock import now
from vlmrl.deploy.v4l2 import Config, V4l2Feed, Watched, cameras, stamp, watch
from vlmrl.errors import ConfigError, RobotError
from vlmrl.types import Frames

STILL = (np.zeros(1), np.zeros(1))


class Sensor:
    """Stands where `cv2.VideoCapture` does: blue rises from frame to frame, until it is unplugged or freezes."""

    def __init__(self, *, lasts: int = 10**9, freezes: int = 10**9, clock: Callable[[], float] = now) -> None:
        self.lasts, self.freezes, self.clock, self.count, self.released = lasts, freezes, clock, 0, False

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.002)
        if self.count >= self.lasts:
            return False, None
        self.count += 1
        frame = np.zeros((6, 8, 3), np.uint8)
        frame[:, :, 0] = min(self.count, self.freezes) % 256
        return True, frame

    def get(self, property: int) -> float:
        assert property == 0
        return 1000 * self.clock()

    def release(self) -> None:
        self.released = True


@contextmanager
def watched(first: Sensor, again: Callable[[], Sensor]) -> Iterator[tuple[Connection, np.ndarray]]:
    """A camera under watch: the pipe to ask at, and its pixels."""
    pipe, theirs = Pipe()
    pixels, sensors = np.zeros((6, 8, 3), np.uint8), [first]
    camera = Watched("front", Config("/dev/video9"), lambda: sensors.pop() if sensors else again())
    camera.open()

    def work() -> None:
        with pytest.raises((EOFError, BrokenPipeError, ConnectionResetError)):
            watch(theirs, camera, pixels)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield pipe, pixels
    finally:
        pipe.close()
        thread.join(20)
        assert not thread.is_alive()


def asked(pipe: Connection, until: Callable[[tuple[str, float, float]], bool]) -> tuple[str, float, float]:
    """Ask until an answer is as wanted."""
    for _ in range(2000):
        pipe.send("")
        assert pipe.poll(20)
        if until(said := pipe.recv()):
            return said
        time.sleep(0.005)
    raise AssertionError(said)


def absent() -> Sensor:
    raise RobotError("no video device; have: none")


def test_a_lost_camera_is_told_and_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v4l2, "_AGAIN_S", 0.05)
    first, there = Sensor(lasts=20), threading.Event()
    with watched(first, lambda: Sensor() if there.is_set() else absent()) as (pipe, pixels):
        wrong, _, _ = asked(pipe, lambda said: bool(said[0]))
        assert wrong in ("camera 'front' (/dev/video9) gives no pictures any more", "no video device; have: none")
        assert first.released
        asked(pipe, lambda said: said[0] == "no video device; have: none")
        assert pixels[0, 0].tolist() == [0, 0, 20], "the last picture, red first"
        there.set()
        _, when, _ = asked(pipe, lambda said: not said[0])
        assert now() - when < 10


def test_a_picture_that_does_not_change_is_frozen_whatever_its_time() -> None:
    with watched(Sensor(freezes=5), absent) as (pipe, _):
        _, when, changed = asked(pipe, lambda said: said[1] - said[2] > 0.1)
        assert when > changed
        assert asked(pipe, lambda said: said[1] > when)[2] == changed


def test_a_frame_has_the_devices_own_time_where_that_is_of_this_clock() -> None:
    assert now() - stamp(Sensor(clock=lambda: now() - 0.04)) == pytest.approx(0.04, abs=0.03)
    for strange in (0.0, 3.2, now() + 60):
        before = now()
        assert before <= stamp(Sensor(clock=lambda at=strange: at)) <= now()


def test_settings_of_cameras_are_read_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v4l2, "find_spec", lambda name: object())
    found = cameras({"front": "/dev/video0", "wrist": {"device": 2, "width": 320, "height": 240}})
    assert found == {"front": Config("/dev/video0"), "wrist": Config("2", 320, 240)}
    assert cameras(None) == {}
    with pytest.raises(ConfigError, match=r"devices\.front: unknown key 'size'; have: device, fourcc, fps"):
        cameras({"front": {"device": 0, "size": 3}})
    with pytest.raises(ConfigError, match=r"devices\.front: width and height from 1"):
        cameras({"front": {"device": 0, "width": 0}})
    monkeypatch.setattr(v4l2, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'vlmrl\[cameras\]'"):
        cameras({"front": 0})


def film(path: Path, frames: int = 12) -> Path:
    """A film whose red rises, 20 frames a second."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'vlmrl[cameras]'")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20, (64, 48))
    for k in range(frames):
        writer.write(np.full((48, 64, 3), (0, 0, 20 * k), np.uint8))
    writer.release()
    return path


def test_a_device_that_is_absent_or_of_another_size_is_told(tmp_path: Path) -> None:
    path = film(tmp_path / "f.avi")
    with pytest.raises(RobotError, match=r"'front' .* gives pictures of 64x48, wanted 640x480; say width=64 height=48"):
        v4l2.opened("front", Config(str(path)))
    for device in ("77", "/dev/video77", "/dev/nothing", "front door"):
        with pytest.raises(RobotError, match=f"camera 'front': no video device '{device}'; have: "):
            v4l2.opened("front", Config(device))
    (tmp_path / "broken.avi").write_bytes(b"no film at all")
    with pytest.raises(RobotError, match="cannot be opened"):
        v4l2.opened("front", Config(str(tmp_path / "broken.avi")))


@pytest.mark.slow
def test_a_film_is_watched_in_its_own_process(tmp_path: Path) -> None:
    path = film(tmp_path / "f.avi")
    with pytest.raises(RobotError, match="gives pictures of 64x48"):
        V4l2Feed("front", Config(str(path), width=32, height=24))
    feed = V4l2Feed("front", Config(str(path), width=64, height=48, fps=60.0), hz=200.0)
    try:
        assert isinstance(feed, Feed)
        seen, until = dict[int, float](), now() + 60
        while len(seen) < 11 and now() < until:
            feed.show(STILL, now())
            if feed.latest is not None:
                seen.setdefault(int(feed.latest.pixels[0, 0, 0]) // 10, feed.latest.time)
                assert feed.latest.pixels[0, 0, 1:].max() < 5, "red first"
            time.sleep(0.002)
        # All but the first, by which it was opened; it goes round, so no order is asked for.
        assert len(seen) >= 11
        assert feed.failed == ""
        assert feed.unchanged(now()) < 30
        feed._child._process.kill()
        while not feed.failed and now() < until:
            feed.show(STILL, now())
        assert feed.failed == "camera 'front': its process has ended"
    finally:
        feed.close()


@pytest.mark.slow
def test_an_episode_keeps_what_a_real_camera_showed(tmp_path: Path) -> None:
    from vlmrl.cli.deploy import DeployConfig, node
    from vlmrl.deploy.inference import Inline
    from vlmrl.deploy.pilot import PolicyPilot
    from vlmrl.deploy.seams import ActionQueue
    from vlmrl.evaluate.candidates import Candidate
    from vlmrl.robot import load_robot
    from vlmrl.safety import Thresholds
    from vlmrl.sim import load_task
    from vlmrl.store import Store

    path = film(tmp_path / "f.avi")
    config = DeployConfig(
        driver="mujoco",
        cameras=(),
        devices={"front": {"device": str(path), "width": 64, "height": 48}},
        episodes=1,
        store=str(tmp_path / "s"),
        priority=0,
        safety=Thresholds(overruns=10**9, camera_s=60.0, action_s=60.0, observation_s=60.0),
    )
    task = load_task(config.task)
    pilot = PolicyPilot(Inline(Candidate("expert").make(task)), load_robot("so101"), ActionQueue("hold"), 0)
    stepped = node(dataclasses.replace(config, lockstep=True), pilot, tmp_path, whole=False)
    with pytest.raises(ConfigError, match="with lockstep=true time waits, and no camera does"), stepped:
        pass
    with node(config, pilot, tmp_path, whole=False) as made:
        assert made.run().ended == "all episodes done"
    store = Store.open(tmp_path / "s")
    assert store.cameras == ["front"]
    frames = store.episode(store.episodes.id[0]).images["front"]
    assert isinstance(frames, Frames)
    assert frames.pixels.shape[1:] == (48, 64, 3)
    assert frames.pixels[..., 1:].max() < 8, "red is first in the store, too"
    assert len(np.unique(frames.pixels[:, 0, 0, 0])) > 1
