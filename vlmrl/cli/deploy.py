"""`vlmrl deploy` and `vlmrl record`: a policy or a person moves a robot at its rate, inside its limits, recorded."""

import signal
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from vlmrl import config as configuration
from vlmrl.deploy import gamepad, v4l2
from vlmrl.deploy.cameras import Feed, SimulatedFeed
from vlmrl.deploy.clock import now, wait_until
from vlmrl.deploy.drivers import mujoco as twin
from vlmrl.deploy.drivers import robot
from vlmrl.deploy.gamepad import GamepadPilot, SdlPad
from vlmrl.deploy.inference import Inference, Inline, Worker
from vlmrl.deploy.node import Node, Operator
from vlmrl.deploy.onlooker import Onlooker
from vlmrl.deploy.page import Page
from vlmrl.deploy.pilot import KeyboardPilot, LeaderPilot, Pilot, PolicyPilot
from vlmrl.deploy.recorder import Recorder, open_store
from vlmrl.deploy.report import Limits, Report
from vlmrl.deploy.scene import Scene
from vlmrl.deploy.seams import ActionQueue
from vlmrl.deploy.state import Settings
from vlmrl.deploy.terminal import HELP, jog_help, terminal
from vlmrl.deploy.v4l2 import V4l2Feed
from vlmrl.errors import ConfigError, RobotError, unknown
from vlmrl.evaluate.candidates import Candidate, Steering
from vlmrl.robot import Robot, RobotSpec, load_robot
from vlmrl.runfolder import masked, provenance, write_json
from vlmrl.safety import Config as SafetyConfig
from vlmrl.safety import SafetyChain, Thresholds
from vlmrl.sim import load_task

SHOWN_HZ, SEEN_HZ = 10.0, 30.0
"""Pictures a second that are asked of a camera: for people, and for a policy."""
WELL = ("all episodes done", "ended by the operator")
"""Ends that are no failure."""


@dataclass(frozen=True)
class Hardware:
    """Which robot, and how it is reached."""

    robot: str = ""
    """A robot, as `vlmrl robot list` names it; empty: the task's."""
    task: str = "so101/reach"
    driver: str = ""
    """mujoco: the robot's simulated twin; empty: the robot's own driver."""
    port: str = ""
    """Serial port of the robot's bus, as /dev/ttyACM0."""
    options: Any = None
    """What else the driver takes, as {baud: 1000000, reversed: [wrist_roll]}."""
    lockstep: bool = False
    """With driver=mujoco: time goes on a period with each command and waits for the policy, as in vlmrl evaluate."""
    episodes: int = 20
    seconds: float | None = None
    """Longest episode; null: the task's horizon."""
    seed: int = 1_000_000
    """Initial state of the first episode, as evaluations count them; the next has the next."""
    sentence: str | None = None
    """What the robot is to do; null: the task's own."""
    cameras: tuple[str, ...] = ("judge",)
    """Cameras of the task that are shown and recorded, simulated from where the joints are; not those in devices."""
    devices: Any = None
    """Real cameras by name, shown and recorded too: {front: /dev/video0, wrist: {device: 2, width: 640, height: 480,
    fps: 30, fourcc: MJPG}}. A recorded film will do for a device."""
    picture_every: int = 5
    """Control ticks between recorded pictures."""
    store: str = ""
    """Folder of the store that episodes are appended to; empty: `store` in the run folder."""
    page: bool = False
    """Show the operator's page; an episode then starts when the operator says so, and stops when nobody watches."""
    page_port: int = 8766
    reward: str = ""
    """Folder of a learned reward that looks on, once a second and beside the loop; the page shows what it thinks."""
    judged_by: Literal["task", "operator"] = "task"
    """Who tells success: the task's own predicate, or the operator."""
    priority: int = 50
    """Real-time priority of the control loop where the system allows it; 0: none. The policy's process stays ordinary:
    with such a priority it would keep the kernel's threads from carrying what a serial port sends and hears."""
    safety: Thresholds = field(default_factory=Thresholds)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class DeployConfig(Hardware):
    """Run a policy on a robot, or on its twin: on time, inside limits, every episode recorded."""

    policy: str = ""
    """Folder or hub id of a saved policy, or a policy server at ws://HOST:PORT; expert: the task's scripted expert;
    random."""
    critic: str | None = None
    """Folder of a saved critic, by which the policy's chunks are chosen (V-GPS)."""
    samples: int = 10
    temperature: float = 0.0
    """Of the softmax over the critic's values; 0: the highest."""
    average: bool = False
    """Execute the mean of the chunks weighted by that softmax, not one of them."""
    spread: float = 1.0
    """Scale of the chance behind the samples: less than 1 keeps them nearer to the policy's mean, which is what a clone
    of noisy logs is good at, and the critic where it has seen more."""
    budget_s: float = 0.015
    """Seconds that choosing may take before the policy acts alone for a while."""
    seam: str = "fade"
    """What happens where two chunks meet: hold, fade, ensemble, anchor. In lock step always hold."""
    fade: int = 5
    """Control ticks that fade and anchor take."""
    ahead: int | None = None
    """Ask for the next chunk while so many actions are left; null: as measured."""
    unchecked: bool = False
    """Run a policy that does not say names and units of what it sees and does, as servers of other projects do not."""
    whole: bool = False
    """Run each episode to the task's horizon, after success too."""


@dataclass(frozen=True)
class RecordConfig(Hardware):
    """Record demonstrations that a person gives, by keyboard, gamepad or a leader arm, into a store."""

    seconds: float | None = 60.0
    """Longest episode, for hands are slower than policies; null: the task's horizon."""
    by: Literal["keyboard", "gamepad", "leader"] = "keyboard"
    """leader: a second arm of the same kind that a person moves."""
    leader_port: str = ""
    """Serial port of the leader's bus."""
    leader_driver: str = ""
    leader_options: Any = None


def main(content: Mapping[str, Any], folder: Path) -> None:
    """Run `vlmrl deploy`."""
    config = configuration.build(DeployConfig, content, where="deploy")
    if not config.policy:
        raise ConfigError("deploy needs a policy: vlmrl deploy policy=FOLDER task=NAME (or policy=expert)")
    write_json(folder / "config.json", masked(dict(content)))
    write_json(folder / "meta.json", provenance())
    chosen = (config.samples, config.temperature, config.average, config.spread, config.budget_s)
    steering = Steering(config.critic, *chosen) if config.critic else None
    candidate = Candidate(config.policy, steering=steering)
    task, spec = load_task(config.task), _spec(config)
    inference: Inference = Inline(candidate.make(task)) if config.lockstep else Worker(candidate, task)
    queue = ActionQueue("hold" if config.lockstep else config.seam, config.fade)
    ahead, wait_s = 0 if config.lockstep else config.ahead, 0.25 * spec.period
    pilot = PolicyPilot(inference, spec, queue, ahead, wait_s=wait_s, unchecked=config.unchecked)
    run(config, pilot, folder, whole=config.whole)


def record(content: Mapping[str, Any], folder: Path) -> None:
    """Run `vlmrl record`."""
    config = configuration.build(RecordConfig, content, where="record")
    spec = _spec(config)
    write_json(folder / "config.json", masked(dict(content)))
    write_json(folder / "meta.json", provenance())
    if config.by == "keyboard":
        pilot: Pilot = KeyboardPilot(spec)
    elif config.by == "gamepad":
        pilot = GamepadPilot(spec, SdlPad())
    else:
        options = {"once": True, **(config.leader_options or {})}
        options |= {"port": config.leader_port} if config.leader_port else {}
        leader = robot(spec, name=config.leader_driver, **options)
        leader.connect()
        if sys.stdin.isatty():
            input("hold the leader arm, for its torque goes off, and press Enter ")
        leader.release()
        pilot = LeaderPilot(leader)
    run(config, pilot, folder, whole=False)


def run(config: Hardware, pilot: Pilot, folder: Path, *, whole: bool) -> Report:
    """Run the node to its end, print its report and write it.

    Raises:
        RobotError: if it ended before its episodes were done, or crossed a threshold.
    """
    with node(config, pilot, folder, whole=whole) as made:
        report = made.run()
    print(f"\n{report.text()}")
    write_json(folder / "report.json", report.as_json())
    print(f"report: {folder / 'report.json'}, episodes: {config.store or folder / 'store'}")
    if report.ended not in WELL:
        raise RobotError(report.ended)
    report.check(config.limits)
    return report


@contextmanager
def node(config: Hardware, pilot: Pilot, folder: Path, *, whole: bool) -> Generator[Node]:
    """A node with everything that belongs to it, closed afterwards."""
    spec, task = _spec(config), load_task(config.task)
    real = v4l2.cameras(config.devices)
    seen = pilot.inference.about.cameras if isinstance(pilot, PolicyPilot) else ()
    drawn = tuple(camera for camera in dict.fromkeys((*config.cameras, *seen)) if camera not in real)
    with ExitStack() as stack:
        stack.callback(pilot.close)
        simulated = (config.driver or spec.driver) == "mujoco"
        if config.lockstep and not simulated:
            raise ConfigError("lockstep=true is for driver=mujoco: a real robot does not wait")
        if config.lockstep and real:
            raise ConfigError("devices are for a robot in real time: with lockstep=true time waits, and no camera does")
        scene = Scene(task, spec, follows=not simulated)
        stack.callback(scene.close)
        if wrong := [camera for camera in drawn if camera not in task.cameras]:
            raise unknown("camera", wrong[0], task.cameras)
        if not simulated and (unreal := [name for name in seen if name in drawn]):
            print(f"the policy sees simulated pictures: name the real one by devices={{{unreal[0]}: /dev/video0}}")
        connected = _robot(config, spec, scene, simulated)
        path = Path(config.store or folder / "store")
        open_store(path, scene, spec)
        recorder = Recorder(path, waits=config.lockstep)
        stack.callback(recorder.close)
        person = pilot if isinstance(pilot, KeyboardPilot) else KeyboardPilot(spec)
        settings = Settings(
            episodes=config.episodes,
            seed=config.seed,
            horizon=round((config.seconds or 0.0) * spec.control_hz),
            auto=not config.page and isinstance(pilot, PolicyPilot),
            attended=sys.stdin.isatty() or config.page,
            whole=whole,
            judge=config.judged_by == "task",
            heartbeat=config.page,
            picture_every=config.picture_every if drawn or real else 0,
            drawn=drawn if config.lockstep else (),
            instruction=config.sentence or task.instruction,
            priority=0 if config.lockstep else config.priority,
        )
        feeds: list[Feed] = []
        for camera in () if config.lockstep else (*drawn, *real):
            hz = SEEN_HZ if camera in seen else SHOWN_HZ
            device = real.get(camera)
            feeds.append(V4l2Feed(camera, device, hz=hz) if device else SimulatedFeed(camera, task, hz=hz))
            stack.callback(feeds[-1].close)
        own = isinstance(connected, twin.Twin) and config.lockstep
        made = Node(
            connected,
            chain=SafetyChain(spec, SafetyConfig(config.safety)),
            settings=settings,
            pilot=pilot,
            scene=scene,
            human=person,
            feeds=feeds,
            recorder=recorder,
            clock=cast("twin.Twin", connected).now if own else now,
            pace=(lambda _: None) if own else wait_until,
            tell=_teller(folder),
            operators=_operators(config, stack, spec, pilot),
        )
        print(f"task: {settings.instruction}", flush=True)
        stack.enter_context(signals(made))
        yield made


def _operators(config: Hardware, stack: ExitStack, spec: RobotSpec, pilot: Pilot) -> list[Operator]:
    """Gamepad, page and terminal, as far as they are there."""
    found: list[Operator] = []
    if config.reward:
        onlooker = Onlooker(config.reward)
        stack.callback(onlooker.close)
        found.append(onlooker)
    if isinstance(pilot, GamepadPilot):
        print(f"gamepad: {gamepad.HELP}\nmove: {gamepad.stick_help(spec.names)}", flush=True)
        found.append(pilot)
    if config.page:
        page = Page(config.page_port)
        stack.callback(page.close)
        print(f"the page is at {page.address}", flush=True)
        found.append(page)
    if (here := stack.enter_context(terminal())) is not None:
        print(f"{HELP}\nmove: {jog_help(spec.names)}", flush=True)
        found.append(here)
    return found


def _spec(config: Hardware) -> RobotSpec:
    named = load_task(config.task).physics
    return load_robot(config.robot or (named.name if named.family == "robot" else ""))


def _robot(config: Hardware, spec: RobotSpec, scene: Scene, simulated: bool) -> Robot:
    if simulated:
        return twin.Twin(spec, twin.Config(real_time=not config.lockstep), scene.world)
    options = {**(config.options or {}), **({"port": config.port} if config.port else {})}
    return robot(spec, name=config.driver, **({"once": True} | options))


def _teller(folder: Path) -> Any:
    """Says what happens, and keeps it."""
    path = folder / "events.log"

    def tell(text: str) -> None:
        print(text, flush=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{now():.3f} {text}\n")

    return tell


@contextmanager
def signals(made: Node) -> Generator[None]:
    """Ctrl-C, SIGTERM and a terminal that is closed bring the robot to rest; a second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def hear(kind: int, _: object) -> None:
        made.say("quit")
        signal.signal(kind, before[signal.Signals(kind)])

    for kind in kinds:
        signal.signal(kind, hear)
    try:
        yield
    finally:
        for kind in kinds:
            signal.signal(kind, before[kind])
