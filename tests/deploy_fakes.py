"""A robot, a policy and a camera that do as they are told, in a time that passes only when it is waited for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlmrl.deploy.cameras import Feed, Picture
from vlmrl.deploy.inference import About, Answer
from vlmrl.deploy.node import Node
from vlmrl.deploy.pilot import PolicyPilot
from vlmrl.deploy.recorder import Recorder
from vlmrl.deploy.scene import Scene
from vlmrl.deploy.seams import ActionQueue
from vlmrl.deploy.state import Settings
from vlmrl.errors import RobotError
from vlmrl.robot import Observed, RobotSpec, load_robot
from vlmrl.safety import SafetyChain

SPEC = load_robot("so101")
Fault = Callable[["World"], None]


@dataclass
class World:
    """Everything around the node, and what is wrong with it."""

    time: float = 0.0
    lag_s: float = 0.0
    """What a reading takes."""
    silent: bool = False
    """The robot does not answer."""
    deaf: bool = False
    """It cannot be sent to."""
    lost: int = 0
    """Every so manieth reading fails; 0: none."""
    stuck: bool = False
    current: float = 0.1
    still: bool = False
    """The camera gives no new picture."""
    unplugged: bool = False
    """It is gone."""
    mute: bool = False
    """The policy does not answer."""
    says: Any = None
    """What the policy says instead of an action."""
    unheard: bool = False
    """No operator."""
    full: bool = False
    """The disk is."""


@dataclass
class FakeRobot:
    """Its joints are where they are told to be, a tick later."""

    world: World
    spec: RobotSpec = SPEC
    position: np.ndarray = field(default_factory=lambda: SPEC.home)
    sent: list[np.ndarray] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    readings: int = 0
    absent: bool = False
    """It cannot be connected to, nor switched on."""
    log: list[str] = field(default_factory=list)
    """Stops and commands, in their order."""

    def connect(self) -> None:
        self.calls.append("connect")
        if self.absent:
            raise RobotError("no servo answers")

    def enable(self) -> None:
        self.calls.append("enable")
        if self.absent:
            raise RobotError("no servo answers")

    def release(self) -> None:
        self.calls.append("release")

    def observe(self) -> Observed:
        self.readings += 1
        self.world.time += self.world.lag_s
        if self.world.silent or (self.world.lost and self.readings % self.world.lost == 0):
            raise RobotError("no answer")
        current = np.full(6, self.world.current)
        return Observed(self.world.time, self.position.copy(), np.zeros(6), current)

    def command(self, position: np.ndarray) -> np.ndarray:
        if self.world.deaf:
            raise RobotError("cannot be sent to")
        self.sent.append(position.copy())
        self.log.append("command")
        if not self.world.stuck:
            self.position = position.copy()
        return position

    def stop(self) -> None:
        self.calls.append("stop")
        self.log.append("stop")

    def close(self) -> None:
        self.calls.append("close")


@dataclass
class FakeInference:
    """Swings one joint, a chunk of `length` actions at a time."""

    world: World
    about: About = field(default_factory=lambda: About("swing"))
    length: int = 4
    busy: bool = False
    _asked: int = 0

    def reset(self, instruction: str, seed: int) -> None:
        self.busy = False

    def ask(self, observation: Mapping[str, np.ndarray], tick: int) -> None:
        self.busy, self._asked = True, tick

    def forget(self) -> None:
        self.busy = False

    def answer(self, wait_s: float) -> Answer | None:
        if not self.busy or self.world.mute:
            return None
        self.busy = False
        middle = (SPEC.home - SPEC.centre) / SPEC.half
        chunk = np.repeat(middle[None], self.length, 0)
        chunk[:, 0] += 0.3 * np.sin((self._asked + np.arange(self.length)) / 15)
        return Answer(self._asked, chunk if self.world.says is None else self.world.says, 0.001)

    def close(self) -> None:
        pass


class FakeFeed(Feed):
    """One black picture after the other."""

    def __init__(self, world: World) -> None:
        self.world, self.name, self.latest, self._changed = world, "eye", None, 0.0

    @property
    def failed(self) -> str:
        return "camera 'eye' is unplugged" if self.world.unplugged else ""

    def show(self, still: object, now: float) -> None:
        if not self.world.still:
            self._changed = now
            self.latest = Picture(now, np.zeros((4, 4, 3), np.uint8))

    def forget(self) -> None:
        self.latest = None

    def unchanged(self, now: float) -> float:
        return now - self._changed

    def close(self) -> None:
        pass


class FakeScene(Scene):
    """A task that nobody solves."""

    def __init__(self, horizon: int = 400) -> None:
        self.follows = True
        self.task = type("Task", (), {"horizon": horizon, "success_at": "any", "name": "swing", "camera": "eye"})
        names = [*SPEC.names, *(f"{n}_velocity" for n in SPEC.names)]
        self.env = type("Env", (), {"state_names": names, "state_units": ["rad"] * 6 + ["rad/s"] * 6})
        self.begun: list[int] = []
        self.at: int | None = None
        """Observation at which the task is solved."""
        self._seen: Observed | None = None
        self._looks = 0

    def begin(self, seed: int) -> None:
        self.begun.append(seed)
        self._looks = 0

    def follow(self, seen: Observed) -> None:
        self._seen = seen

    def observe(self) -> Mapping[str, np.ndarray]:
        assert self._seen is not None
        return {"state": np.concatenate([self._seen.position, self._seen.velocity]).astype(np.float32)}

    def solved(self) -> bool:
        self._looks += 1
        return self.at is not None and self._looks >= self.at

    @property
    def progress(self) -> float:
        return 0.0

    def still(self) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(1), np.zeros(1)


class FakeRecorder(Recorder):
    def __init__(self, world: World) -> None:
        self.world, self.episodes = world, []

    @property
    def failed(self) -> str:
        return "no space left on device" if self.world.full else ""

    def put(self, episode: Any) -> None:
        self.episodes.append(episode)

    def close(self, patience_s: float = 0.0) -> None:
        pass


@dataclass
class Bench:
    """A node with all of these."""

    world: World
    node: Node
    robot: FakeRobot
    scene: FakeScene
    recorder: FakeRecorder
    told: list[str]


def bench(*, seam: str = "fade", length: int = 4, horizon: int = 400, **settings: Any) -> Bench:
    """A node whose time passes as it waits."""
    world, told = World(), list[str]()
    robot, scene, recorder = FakeRobot(world), FakeScene(horizon), FakeRecorder(world)
    pilot = PolicyPilot(FakeInference(world, length=length), SPEC, ActionQueue(seam))

    def pace(due: float) -> None:
        world.time = due

    node = Node(
        robot,
        chain=SafetyChain(SPEC),
        settings=Settings(**{"instruction": "swing the arm", "priority": 0, "auto": False, **settings}),
        pilot=pilot,
        scene=scene,
        feeds=[FakeFeed(world)],
        recorder=recorder,
        clock=lambda: world.time,
        pace=pace,
        tell=told.append,
    )
    return Bench(world, node, robot, scene, recorder, told)
