"""The control node: one loop at the robot's rate, from reading the joints to sending where they go.

disconnected -> idle -> homing -> armed -> running <-> paused, and from anywhere stopped (latched until an operator
resets) or fault (the robot does not answer). Whatever the state, one tick is: observe, decide what to ask for, let the
safety chain make of it what may be sent, send it, remember it.
"""

import gc
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from vlmrl.deploy import checklist
from vlmrl.deploy.cameras import Feed
from vlmrl.deploy.clock import now, raise_priority, wait_until
from vlmrl.deploy.episodes import DISCARDED, Episodes
from vlmrl.deploy.homing import Homing
from vlmrl.deploy.link import Link
from vlmrl.deploy.pilot import Asked, KeyboardPilot, Pilot, PolicyPilot
from vlmrl.deploy.recorder import Recorder
from vlmrl.deploy.report import Report, Tally
from vlmrl.deploy.scene import Scene
from vlmrl.deploy.state import WORDS, Settings, State, Status
from vlmrl.errors import RobotError, unknown
from vlmrl.robot import Observed, Robot
from vlmrl.safety import Command, Reading, Reason, Response, SafetyChain

_SAME_S = 1e-6
"""A deadline is met to within this: in lock step, where the clock stands on it, sums of periods round differently."""
_READY_S = 30.0
"""How long an automatic run waits for its checklist: cameras need a moment."""


@runtime_checkable
class Operator(Protocol):
    """Where a person sits: a terminal, a page."""

    def attend(self, node: "Node") -> None:
        """Pass on what the person said since the last tick, and show how things are; must not wait."""
        ...


class Node:
    """Runs one robot, in one thread."""

    def __init__(
        self,
        robot: Robot,
        *,
        chain: SafetyChain,
        settings: Settings,
        pilot: Pilot | None = None,
        scene: Scene | None = None,
        human: KeyboardPilot | None = None,
        feeds: Sequence[Feed] = (),
        recorder: Recorder | None = None,
        clock: Callable[[], float] = now,
        pace: Callable[[float], None] = wait_until,
        tell: Callable[[str], None] = lambda text: None,
        operators: Sequence[Operator] = (),
    ) -> None:
        """`clock` and `pace` are those of the robot's time: a twin in lock step has its own, and waits for nobody."""
        self.robot, self.spec, self.chain, self.settings = robot, robot.spec, chain, settings
        self.pilot, self.human = pilot, human
        self.episodes = Episodes(self.spec, settings, scene=scene, feeds=feeds, recorder=recorder)
        self.operators, self.told = operators, ""
        self._clock, self._pace, self._say_so = clock, pace, tell
        self.state, self.status, self.tally = State.DISCONNECTED, Status(), Tally()
        self.link = Link(robot, clock, self.tally)
        self.ended, self.priority = "", ""
        self.reward: tuple[float, float] | None = None
        """What a reward model makes of the last picture, where one looks on."""
        self.goal_from: Callable[[Float64[np.ndarray, " J"]], Float64[np.ndarray, " J"]] = lambda seen: self.spec.home
        """Where homing leads, rad, from where the joints are when it begins."""
        self._homing = Homing(self.spec)
        self._said: deque[str] = deque()
        self._heard = clock()
        self._late_in_a_row, self._person, self._braking = 0, False, False
        self._halted = False
        """Whether the robot was stopped by its own means, or was never sent anything: nothing is sent then."""
        self._armed = self._due = clock()
        self._behind = 0.0

    # ---- what others may do

    def say(self, word: str) -> None:
        """Hear an operator, from any thread; acted on at the next tick, a stop or quit before everything else.

        Raises:
            ConfigError: if it is no word of WORDS.
        """
        if word not in WORDS:
            raise unknown("word", word, WORDS)
        self._said.appendleft(word) if word in ("stop", "quit") else self._said.append(word)
        self.alive()

    @property
    def time(self) -> float:
        """By the clock of the robot, s."""
        return self._clock()

    def alive(self) -> None:
        """The operator is there."""
        self._heard = self._clock()

    # ---- the loop

    def run(self, until: Callable[["Node"], bool] = lambda node: False) -> Report:
        """Connect, and run ticks at the robot's rate until the episodes are done, somebody quits, or `until` holds."""
        self.priority = raise_priority(self.settings.priority)
        self._connect()
        if self.settings.auto:
            self._go_home()
        gc.collect()
        gc.disable()
        try:
            self._due = self._clock()
            while not self.ended and not until(self):
                self._wait()
                self._tick()
        finally:
            gc.enable()
            self._leave()
        return self.report()

    def _wait(self) -> None:
        """For the next deadline, a period after the last; where it is over, they begin anew with this tick.

        Every deadline that is over counts as missed, and none is caught up with: two commands in a row would be a jump.
        """
        self._due += self.spec.period
        self._behind = self._clock() - self._due
        if self._behind > _SAME_S:
            missed = 1 + int(self._behind / self.spec.period)
            self.tally.overruns += missed if self.state is State.RUNNING else 0
            self._late_in_a_row += missed
            self._due = self._clock()
            return
        self._late_in_a_row, self._behind = 0, 0.0
        self._pace(self._due)

    def _tick(self) -> None:
        due, started, begin = self._due, self._clock(), time.perf_counter()
        for operator in self.operators:
            operator.attend(self)
        self._obey()
        if due != self._due:
            # An episode has begun, and this is its first tick.
            due, started, begin = self._due, self._clock(), time.perf_counter()
        seen = self._observe()
        observed = time.perf_counter()
        if seen is None or self.state in (State.IDLE, State.FAULT) or not self.chain.begun:
            self.status = self._shown(None)
            return
        observation = self._look(seen)
        asked = self._ask(observation, seen)
        command = self.chain.step(asked.position, self._reading(started, seen, asked))
        before = time.perf_counter()
        sent = self._send(command)
        after = time.perf_counter()
        self._remember(asked, command, sent)
        self._follow(command, seen)
        if self.state is State.RUNNING:
            spent = {"observe": observed - begin, "send": after - before, "late": started - due + self._behind}
            for name, seconds in (spent | {"tick": time.perf_counter() - begin}).items():
                self.tally.seconds[name].append(max(0.0, seconds))

    # ---- observe

    def _observe(self) -> Observed | None:
        """The joints; None where there is no robot."""
        if self.state in (State.DISCONNECTED, State.FAULT):
            return None
        try:
            return self.link.read()
        except RobotError as error:
            self._fail(str(error))
            return None

    def _look(self, seen: Observed) -> Mapping[str, np.ndarray]:
        """The policy's observation; an episode that is over ends here."""
        running = self.state is State.RUNNING
        observation = self.episodes.look(seen, self._clock(), record=running)
        if running and (over := self.episodes.over()) is not None:
            self._end(*over)
        if running and isinstance(self.pilot, PolicyPilot) and (cameras := self.pilot.inference.about.cameras):
            return self.episodes.pictured(observation, cameras)
        return observation

    # ---- ask

    def _ask(self, observation: Mapping[str, np.ndarray], seen: Observed) -> Asked:
        """What the state wants."""
        match self.state:
            case State.RUNNING if self._person and self.human is not None:
                return self.human.ask(observation, seen, self.episodes.step)
            case State.RUNNING if self.pilot is not None:
                try:
                    return self.pilot.ask(observation, seen, self.episodes.step)
                except RobotError as error:
                    self.chain.stop(Reason.LATE_POLICY, str(error))
                    return Asked(self.chain.rest)
            case State.HOMING if not self._braking:
                return Asked(self._homing.step(self.chain))
            case State.HOMING if self.chain.resting:
                self._set_out()
                return Asked(self.chain.rest)
            case _:
                return Asked(self.chain.rest)

    def _reading(self, started: float, seen: Observed, asked: Asked) -> Reading:
        if failed := self.episodes.failed:
            self.chain.stop(Reason.RECORDER, failed)
        running, heard = self.state is State.RUNNING, self._clock() - self._heard
        watched = self.settings.heartbeat and self.state in (State.RUNNING, State.HOMING)
        for feed in self.episodes.feeds:
            if running and feed.failed:
                self.chain.stop(Reason.FROZEN_CAMERA, feed.failed)
        return Reading(
            started,
            position=seen.position if self.link.fresh else None,
            current=seen.current if self.link.fresh else None,
            observation_age=max(0.0, started - seen.time),
            action_age=asked.late_s if running else None,
            camera_unchanged={feed.name: feed.unchanged(started) for feed in self.episodes.feeds if running},
            heartbeat_age=heard if watched else None,
            overruns=self._late_in_a_row if running else 0,
        )

    # ---- send

    def _send(self, command: Command) -> Float64[np.ndarray, " J"]:
        """The command, unless the driver has stopped by its own means."""
        if self._halted:
            return command.position
        try:
            return self.robot.command(command.position)
        except RobotError as error:
            self._fail(str(error))
            return command.position

    def _remember(self, asked: Asked, command: Command, sent: Float64[np.ndarray, " J"]) -> None:
        """Count and record the step, and show it."""
        self.status = self._shown(command)
        if self.state is not State.RUNNING:
            return
        self.tally.ticks += 1
        self.tally.person += asked.person
        self.tally.reasons.update(command.reasons.keys())
        self.episodes.add(asked, sent, command.reason)

    def _shown(self, command: Command | None) -> Status:
        """What operators see; without a command where nothing is sent."""
        found = Status(
            self.state,
            len(self.episodes.outcomes),
            position=() if self.link.seen is None else tuple(self.link.seen.position.tolist()),
            latched=self._latched(),
            outcomes=tuple(self.episodes.outcomes),
        )
        if command is None:
            return found
        return replace(
            found,
            step=self.episodes.step,
            asked=tuple(command.position.tolist()),
            response=command.response.name.lower(),
            reasons=tuple(f"{reason.name.lower()}: {words}" for reason, words in command.reasons.items()),
            late=self.tally.overruns,
            person=self._person,
            value=self.pilot.value if isinstance(self.pilot, PolicyPilot) else None,
            reward=self.reward,
        )

    def _latched(self) -> str:
        """Why it is stopped, in words; empty where it is not."""
        return "" if self.chain.latched is None else f"{self.chain.latched[0].name.lower()}: {self.chain.latched[1]}"

    # ---- from state to state

    def _follow(self, command: Command, seen: Observed) -> None:
        """Where a stop, or an arrival, leads."""
        if command.response >= Response.STOP and self.state is not State.FAULT and not self._halted:
            # Before everything else, and also of a robot that was only braking or resting.
            self._halt()
        if self.state in (State.STOPPED, State.FAULT):
            if self.chain.resting:
                self.episodes.hand_over()
            return
        if self.chain.latched is not None:
            why = self._latched()
            if self.state in (State.RUNNING, State.PAUSED):
                self._end(0 if self.settings.judge else -1, f"stopped by {self.chain.latched[0].name.lower()}")
            self._enter(State.STOPPED, why)
            operator = self.chain.latched[0] is Reason.OPERATOR
            if self.settings.auto and not self.ended and not operator and not self.episodes.travels:
                # A simulated robot is put at its next start, as in evaluation; a real one waits for a person.
                self._put()
                self.chain.reset()
                self._next()
            elif self.settings.auto and not self.settings.attended:
                self._finish(f"stopped by {why}; an operator must reset")
            elif self.episodes.done:
                self._finish("all episodes done")
        elif self.state is State.HOMING and not self._braking:
            if self._homing.arrived(command, seen) and self.chain.resting:
                self._enter(State.ARMED)
            elif words := self._homing.overdue(command, seen, self._clock()):
                self.chain.stop(Reason.TRACKING, words)
        elif self.state is State.ARMED and self.settings.auto and self.pilot is not None:
            self.say("start")

    def _obey(self) -> None:
        """Do what operators have said, as far as the state allows it."""
        while self._said:
            word = self._said.popleft()
            match word, self.state:
                case "quit", _:
                    self._finish("ended by the operator")
                    self._said.clear()
                case "stop", State.FAULT | State.DISCONNECTED:
                    pass
                case "stop", _:
                    self.chain.stop(Reason.OPERATOR, "the operator's stop")
                    if self.state is State.IDLE:
                        # It was not moving, and where it was commanded to be before is no place to send it to.
                        self._halted = True
                        self._enter(State.STOPPED, "operator: the operator's stop")
                case "reset", State.STOPPED if not self.chain.begun or self.chain.resting:
                    self.chain.reset()
                    self._enter(State.IDLE)
                case "reset", State.FAULT:
                    self.robot.close()
                    self.chain.latched = None
                    self._tried(self._connect)
                case "home", State.IDLE | State.ARMED:
                    self._tried(self._go_home)
                case "start", State.ARMED if self.chain.latched is None:
                    self._start()
                case "pause", State.RUNNING:
                    self._enter(State.PAUSED)
                case (("resume" | "start"), State.PAUSED):
                    self._go_on()
                    self._enter(State.RUNNING)
                case "take", State.RUNNING if self.human is not None:
                    self._person = not self._person
                    self._go_on()
                case (("success" | "failure" | "discard"), State.RUNNING | State.PAUSED):
                    self._end({"success": 1, "failure": 0, "discard": DISCARDED}[word], f"{word}, says the operator")
                case _:
                    self._tell(f"{word}: not while {self.state}")

    def _tried(self, way: Callable[[], None]) -> None:
        """Go a way on which the robot may not answer."""
        try:
            way()
        except RobotError as error:
            self._fail(str(error))

    def _go_on(self) -> None:
        """From here: what a policy or a person said before is over."""
        if self.human is not None and self.link.seen is not None:
            self.human.begin("", 0, self.link.seen)
        if isinstance(self.pilot, PolicyPilot):
            self.pilot.forget()

    @property
    def by_hand(self) -> bool:
        """Whether a person's keys move the robot."""
        return self.state is State.RUNNING and (self._person or self.pilot is self.human)

    def _halt(self) -> None:
        """Stop by the robot's own means, and send nothing until it is brought home again."""
        self.robot.stop()
        self._halted = True

    def _begin(self, pose: Float64[np.ndarray, " J"]) -> Mapping[Reason, str]:
        """Take a measured pose as where the robot is, at rest."""
        self._halted = False
        return self.chain.begin(pose)

    def _put(self) -> None:
        """Put a twin where the next episode starts; a robot on a wire must go there itself."""
        if (pose := self.episodes.put()) is not None:
            self._begin(pose)
            # Where it was before it was put here is not where a person's hands go on from.
            self.link.reach()

    def _connect(self) -> None:
        """Open the robot and read it once."""
        self.robot.connect()
        self.link.reach()
        self._enter(State.IDLE)

    def _go_home(self) -> None:
        """Torque on, and slowly to the home pose; a twin in a scene is put where its episode starts."""
        self.robot.enable()
        self.episodes.lay_out()
        seen = self.link.reach()
        if told := self._begin(seen.position):
            self._tell(f"outside its limits, so it may only move inwards: {'; '.join(told.values())}")
        self._homing.goal = self.goal_from(seen.position)
        self._homing.begin(seen.position, self._clock())
        self._braking = False
        self._enter(State.HOMING if self.episodes.travels else State.ARMED)

    def _start(self) -> None:
        """Begin an episode, if nothing speaks against it."""
        if wrong := self.problems():
            text = f"the episode cannot start: {'; '.join(wrong)}"
            if not self.settings.auto or self._clock() - self._armed > _READY_S:
                self._tell(text)
                self._finish(text if self.settings.auto else "")
            return
        assert self.pilot is not None and self.link.seen is not None  # noqa: PT018 - looked at
        self.episodes.hand_over()
        self.episodes.begin()
        self._person, self._late_in_a_row = False, 0
        self._put()
        self.pilot.begin(self.settings.instruction, self.episodes.seed, self.link.seen)
        self._enter(State.RUNNING)
        # The arm stood still while all this took its time: deadlines begin with the episode.
        self._due = self._clock()

    def problems(self) -> list[str]:
        """The checklist: why no episode may start now, in words; empty where all is well."""
        return checklist.problems(
            self.spec, self.settings, self.episodes, self.pilot, self.link.seen, now=self._clock(), heard=self._heard
        )

    def _end(self, success: int, why: str) -> None:
        """An episode is over: record it, and go on to the next."""
        self.episodes.end(success, "" if self.pilot is None else self.pilot.name)
        if success != DISCARDED:
            count, wanted = len(self.episodes.outcomes), self.settings.episodes
            self._tell(f"episode {count} of {wanted}: {why}, {self.episodes.step} steps")
        self._person = False
        if self.chain.latched is None:
            self._next()

    def _next(self) -> None:
        """Brake, and go to where the next episode starts, if there is one."""
        if self.episodes.done:
            self._finish("all episodes done")
        self._braking = self.episodes.travels
        if not self._braking:
            # So that pictures of it are there when it starts.
            self.episodes.hand_over()
            self.episodes.lay_out()
            self._put()
        self._enter(State.HOMING if self.episodes.travels else State.ARMED)

    def _set_out(self) -> None:
        """Lay out the next episode and set out for it, which takes longer than a tick: the arm has come to rest."""
        gc.collect(0)
        self.episodes.hand_over()
        self.episodes.lay_out()
        self._homing.begin(self.chain.rest, self._clock())
        self._braking, self._due = False, self._clock()

    def _fail(self, words: str) -> None:
        """The robot is lost: nothing more is sent until a reset."""
        self._halt()
        if self.state in (State.RUNNING, State.PAUSED):
            self.chain.stop(Reason.DRIVER, words)
            self._end(0 if self.settings.judge else -1, "the robot is lost")
        self.episodes.hand_over()
        self._enter(State.FAULT, f"driver: {words}")
        self.chain.stop(Reason.DRIVER, words)
        if self.settings.auto and not self.settings.attended:
            self._finish(f"the robot is lost: {words}")

    def _enter(self, state: State, why: str = "") -> None:
        if state is not self.state:
            self._armed = self._clock()
            self._tell(f"{state}{': ' if why else ''}{why}")
        self.state = state

    def _tell(self, text: str) -> None:
        self.told = text
        self._say_so(text)

    def _finish(self, why: str) -> None:
        self.ended = self.ended or why

    def _leave(self) -> None:
        """Brake, hold by the robot's own means, and give the connection back."""
        try:
            if self.state not in (State.IDLE, State.FAULT, State.DISCONNECTED) and not self._halted:
                self._due = self._clock()
                while not self.chain.resting:
                    self._wait()
                    self.robot.command(self.chain.step(self.chain.rest, Reading(self._clock())).position)
        except RobotError:
            self.robot.stop()
        finally:
            self.episodes.hand_over()
            self.robot.close()
            self._enter(State.DISCONNECTED)

    def report(self) -> Report:
        """What the run was like so far."""
        found: dict[str, Any] = {}
        if isinstance(self.pilot, PolicyPilot):
            self.tally.seconds["infer"] = self.pilot.infer_s
            found = self.pilot.figures()
        name = "nobody" if self.pilot is None else self.pilot.name
        return Report(
            name,
            self.ended or "still running",
            tuple(self.episodes.outcomes),
            self.tally,
            priority=self.priority,
            discarded=self.episodes.discarded,
            **found,
        )
