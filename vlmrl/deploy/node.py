"""The control node: one loop at the robot's rate, from reading the joints to sending where they go.

disconnected -> idle -> homing -> armed -> running <-> paused, and from anywhere stopped (latched until an operator
resets) or fault (the robot does not answer). Whatever the state, one tick is: observe, decide what to ask for, let the
safety chain make of it what may be sent, send it, remember it.
"""

import gc
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from vlmrl.deploy.cameras import Feed
from vlmrl.deploy.clock import now, raise_priority, wait_until
from vlmrl.deploy.pilot import Asked, KeyboardPilot, Pilot, PolicyPilot
from vlmrl.deploy.recorder import Recorder, Rows, described
from vlmrl.deploy.report import Report, Tally
from vlmrl.deploy.scene import Scene
from vlmrl.deploy.state import WORDS, Settings, State, Status
from vlmrl.errors import DataError, RobotError, unknown
from vlmrl.robot import Observed, Robot
from vlmrl.safety import Command, Reading, Reason, Response, SafetyChain

_SLOWLY = 0.25
"""Share of each joint's speed at which targets move on the way home."""
_HOME_S = 30.0
_TRIES = 5
_READY_S = 30.0
"""How long an automatic run waits for its checklist: cameras need a moment."""
_LOST_S = 2.0
"""So long without a reading of the joints, and the robot counts as lost."""


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
        self.pilot, self.scene, self.human, self.feeds, self.recorder = pilot, scene, human, feeds, recorder
        self.operators, self.told = operators, ""
        self._clock, self._pace, self._say_so = clock, pace, tell
        self.state, self.status, self.tally = State.DISCONNECTED, Status(), Tally()
        self.ended, self.outcomes, self.discarded, self.priority = "", list[int](), 0, ""
        self.goal_from: Callable[[Float64[np.ndarray, " J"]], Float64[np.ndarray, " J"]] = lambda seen: self.spec.home
        """Where homing leads, rad, from where the joints are when it begins."""
        self.goal = self.spec.home
        self._said: deque[str] = deque()
        self._heard = clock()
        self._seen: Observed | None = None
        self._fresh = False
        self._rows, self._step, self._target = Rows(), 0, np.zeros(0)
        self._late_in_a_row, self._homing_since, self._person = 0, 0.0, False
        self._armed = clock()

    # ---- what others may do

    def say(self, word: str) -> None:
        """Hear an operator, from any thread; acted on at the next tick, a stop before everything else.

        Raises:
            ConfigError: if it is no word of WORDS.
        """
        if word not in WORDS:
            raise unknown("word", word, WORDS)
        self._said.appendleft(word) if word == "stop" else self._said.append(word)
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
        gc.collect()
        gc.disable()
        try:
            due = self._clock()
            while not self.ended and not until(self):
                due = self._paced(due)
                self._tick(due)
        finally:
            gc.enable()
            self._leave()
        return self.report()

    def _paced(self, due: float) -> float:
        """Wait for the next deadline: they lie a period apart, however late the last tick was."""
        due += self.spec.period
        behind = self._clock() - due
        if behind > 0:
            self.tally.overruns += self.state is State.RUNNING
            self._late_in_a_row += 1
            # Deadlines that are over are left out: two commands in a row would be a jump.
            return due + self.spec.period * int(behind / self.spec.period)
        self._late_in_a_row = 0
        self._pace(due)
        return due

    def _tick(self, due: float) -> None:
        started, begin = self._clock(), time.perf_counter()
        for operator in self.operators:
            operator.attend(self)
        self._obey()
        seen = self._observe()
        observed = time.perf_counter()
        if seen is None or self.state in (State.IDLE, State.FAULT):
            self._idle(seen)
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
            spent = {"observe": observed - begin, "send": after - before, "late": started - due}
            for name, seconds in (spent | {"tick": time.perf_counter() - begin}).items():
                self.tally.seconds[name].append(max(0.0, seconds))

    # ---- observe

    def _observe(self) -> Observed | None:
        """The joints; the last reading again while the robot does not answer, None where there was none."""
        if self.state in (State.DISCONNECTED, State.FAULT):
            return None
        self._fresh = True
        try:
            self._seen = self.robot.observe()
        except RobotError as error:
            self._fresh = False
            self.tally.missed += 1
            if self._seen is None or self._clock() - self._seen.time > _LOST_S:
                self._fail(str(error))
                return None
        return self._seen

    def _reach(self) -> Observed:
        """A reading while nothing moves, for which there is time."""
        for _ in range(_TRIES - 1):
            try:
                return self.robot.observe()
            except RobotError:
                self.tally.missed += 1
        return self.robot.observe()

    def _look(self, seen: Observed) -> Mapping[str, np.ndarray]:
        """The policy's observation, recorded as a new row; an episode that is over ends here."""
        if self.scene is None:
            return {"state": np.concatenate([seen.position, seen.velocity]).astype(np.float32)}
        self.scene.follow(seen)
        observation = self.scene.observe()
        for feed in self.feeds:
            feed.show(self.scene.still(), self._clock())
        if self.state is State.RUNNING:
            solved = self._step > 0 and self.scene.solved()
            self._rows.see(seen.time, observation, solved)
            self._picture()
            won = self.settings.judge and solved and not self.settings.whole
            if won or self._step >= self.scene.task.horizon:
                solved = self._rows.solved[-1] if self.scene.task.success_at == "end" else any(self._rows.solved)
                self._end(int(solved) if self.settings.judge else -1, "success" if won else "over")
        return observation

    def _picture(self) -> None:
        """Pictures of the row, where one is due: the feeds' latest, or one that is drawn now."""
        every = self.settings.picture_every
        if not every or self.scene is None:
            return
        due = self._step % every == 0
        for feed in self.feeds:
            latest = feed.latest
            self._rows.look(feed.name, latest.pixels if due and latest else None)
        for camera in self.settings.drawn:
            self._rows.look(camera, self.scene.frame(camera) if due else None)

    # ---- ask

    def _ask(self, observation: Mapping[str, np.ndarray], seen: Observed) -> Asked:
        """What the state wants."""
        match self.state:
            case State.RUNNING if self._person and self.human is not None:
                return self.human.ask(observation, seen, self._step)
            case State.RUNNING if self.pilot is not None:
                try:
                    return self.pilot.ask(observation, seen, self._step)
                except RobotError as error:
                    self.chain.stop(Reason.LATE_POLICY, str(error))
                    return Asked(self.chain.rest)
            case State.HOMING:
                self._target = self._nearer()
                return Asked(self._target)
            case _:
                return Asked(self.chain.rest)

    def _nearer(self) -> Float64[np.ndarray, " J"]:
        """One slow step of the way home; where the straight way is barred, joints that may move go first."""
        most = np.array([j.velocity for j in self.spec.joints]) * self.spec.period * _SLOWLY
        steps = (self.goal - self._target).clip(-most, most)
        if self.chain.allows(self._target + steps):
            return self._target + steps
        reached = self._target
        for step in np.diag(steps):
            reached = reached + step if self.chain.allows(reached + step) else reached
        return reached

    def _reading(self, started: float, seen: Observed, asked: Asked) -> Reading:
        if self.recorder is not None and self.recorder.failed:
            self.chain.stop(Reason.RECORDER, self.recorder.failed)
        running = self.state is State.RUNNING
        return Reading(
            started,
            # An old reading says nothing of where the robot is now.
            position=seen.position if self._fresh else None,
            current=seen.current if self._fresh else None,
            observation_age=max(0.0, started - seen.time),
            action_age=asked.late_s if running else None,
            camera_unchanged={feed.name: feed.unchanged(started) for feed in self.feeds if running},
            heartbeat_age=self._clock() - self._heard if self.settings.heartbeat and running else None,
            overruns=self._late_in_a_row if running else 0,
        )

    # ---- send

    def _send(self, command: Command) -> Float64[np.ndarray, " J"]:
        """The command, unless the driver has stopped by its own means."""
        if self.state is State.STOPPED and command.response >= Response.STOP:
            return command.position
        try:
            return self.robot.command(command.position)
        except RobotError as error:
            self._fail(str(error))
            return command.position

    def _remember(self, asked: Asked, command: Command, sent: Float64[np.ndarray, " J"]) -> None:
        """Count and record the step, and show it."""
        self.status = Status(
            self.state,
            len(self.outcomes),
            self._step,
            () if self._seen is None else tuple(self._seen.position.tolist()),
            tuple(command.position.tolist()),
            command.response.name.lower(),
            tuple(f"{reason.name.lower()}: {words}" for reason, words in command.reasons.items()),
            "" if self.chain.latched is None else f"{self.chain.latched[0].name.lower()}: {self.chain.latched[1]}",
            tuple(self.outcomes),
            self.tally.overruns,
            self._person,
        )
        if self.state is not State.RUNNING:
            return
        self.tally.ticks += 1
        self.tally.person += asked.person
        self.tally.reasons.update(command.reasons.keys())
        requested = np.full(len(sent), np.nan)
        if isinstance(asked.position, np.ndarray) and asked.position.shape == sent.shape:
            requested = (asked.position - self.spec.centre) / self.spec.half
        action = (sent - self.spec.centre) / self.spec.half
        self._rows.do(action, requested, command.reason, person=asked.person)
        self._step += 1

    # ---- from state to state

    def _follow(self, command: Command, seen: Observed) -> None:
        """Where a stop, or an arrival, leads."""
        if self.state in (State.STOPPED, State.FAULT):
            return
        if self.chain.latched is not None:
            reason, words = self.chain.latched
            if self.state in (State.RUNNING, State.PAUSED):
                self._end(0 if self.settings.judge else -1, f"stopped by {reason.name.lower()}")
            self._enter(State.STOPPED, f"{reason.name.lower()}: {words}")
            if command.response >= Response.STOP:
                self.robot.stop()
            if self.settings.auto and self.scene is not None and not self._travels and not self.ended:
                # A simulated robot is put at its next start, as in evaluation; a real one waits for a person.
                self.chain.begin(self.scene.pose)
                self.chain.reset()
                self._next()
            elif self.settings.auto:
                self._finish(f"stopped by {reason.name.lower()}: {words}; an operator must reset")
        elif self.state is State.HOMING:
            arrived = np.abs(command.position - self.goal).max() < 1e-3 and np.abs(seen.velocity).max() < 0.05
            if arrived and self.chain.resting:
                self._enter(State.ARMED)
            elif self._clock() - self._homing_since > _HOME_S:
                away = int(np.abs(seen.position - self.goal).argmax())
                self.chain.stop(Reason.TRACKING, f"not there after {_HOME_S:.0f} s: {self.spec.names[away]}")
        elif self.state is State.ARMED and self.settings.auto and self.pilot is not None:
            self.say("start")

    def _obey(self) -> None:
        """Do what operators have said, as far as the state allows it."""
        while self._said:
            word = self._said.popleft()
            match word, self.state:
                case "quit", _:
                    self._finish("ended by the operator")
                case "stop", State.FAULT | State.DISCONNECTED:
                    pass
                case "stop", _:
                    self.chain.stop(Reason.OPERATOR, "the operator's stop")
                    if self.state is State.IDLE:
                        self._enter(State.STOPPED, "operator: the operator's stop")
                case "reset", State.STOPPED if self.state is State.STOPPED and self._rests():
                    self.chain.reset()
                    self._enter(State.IDLE)
                case "reset", State.FAULT:
                    self.robot.close()
                    self.chain.latched = None
                    self._connect()
                case "home", State.IDLE | State.ARMED:
                    self._go_home()
                case "start", State.ARMED:
                    self._start()
                case "pause", State.RUNNING:
                    self._enter(State.PAUSED)
                case (("resume" | "start"), State.PAUSED):
                    self._enter(State.RUNNING)
                case "take", State.RUNNING if self.human is not None and self._seen is not None:
                    self._person = not self._person
                    self.human.begin("", 0, self._seen)
                case (("success" | "failure" | "discard"), State.RUNNING | State.PAUSED):
                    self._end({"success": 1, "failure": 0, "discard": -2}[word], f"{word}, says the operator")
                case _:
                    self._tell(f"{word}: not while {self.state}")

    def _rests(self) -> bool:
        """Whether the commanded motion is over; before the chain has begun nothing moves."""
        try:
            return self.chain.resting
        except DataError:
            return True

    def _connect(self) -> None:
        """Open the robot and read it once; an automatic run goes on to its first pose."""
        self.robot.connect()
        self._seen = self._reach()
        self._enter(State.IDLE)
        if self.settings.auto:
            self._go_home()

    def _go_home(self) -> None:
        """Torque on, and slowly to the home pose; a twin in a scene is put where its episode starts."""
        self.robot.enable()
        if self.scene is not None:
            self.scene.begin(self.seed)
        self._seen = seen = self._reach()
        if told := self.chain.begin(seen.position):
            self._tell(f"outside its limits, so it may only move inwards: {'; '.join(told.values())}")
        self.goal = self.goal_from(seen.position)
        self._target, self._homing_since = seen.position.copy(), self._clock()
        self._enter(State.HOMING if self._travels else State.ARMED)

    @property
    def seed(self) -> int:
        """Of the present or next episode; one that was discarded is done again from the same."""
        return self.settings.seed + len(self.outcomes)

    @property
    def _travels(self) -> bool:
        """Whether the robot must go to where episodes start; a twin in a scene is put there."""
        return self.scene is None or self.scene.follows

    def _start(self) -> None:
        """Begin an episode, if nothing speaks against it."""
        if wrong := self.problems():
            text = f"the episode cannot start: {'; '.join(wrong)}"
            if not self.settings.auto or self._clock() - self._armed > _READY_S:
                self._tell(text)
                self._finish(text if self.settings.auto else "")
            return
        assert self.pilot is not None and self.scene is not None and self._seen is not None  # noqa: PT018 - looked at
        self._rows, self._step, self._person, self._late_in_a_row = Rows(), 0, False, 0
        if not self._travels:
            self.scene.begin(self.seed)
            self.chain.begin(self.scene.pose)
        self.pilot.begin(self.settings.instruction, self.seed, self._seen)
        self._enter(State.RUNNING)

    def problems(self) -> list[str]:
        """The checklist: why no episode may start now, in words; empty where all is well."""
        found: list[str] = []
        if self.pilot is None or self.scene is None or self._seen is None:
            return ["there is no policy, no task or no robot"]
        if not self.settings.instruction:
            found.append("the task has no sentence")
        found += [
            f"{joint.name} at {q:.3f} rad is outside {joint.lower:.3f} to {joint.upper:.3f}"
            for joint, q in zip(self.spec.joints, self._seen.position, strict=True)
            if not joint.lower - 0.02 <= q <= joint.upper + 0.02
        ]
        for feed in self.feeds:
            age = np.inf if feed.latest is None else self._clock() - feed.latest.time
            if not age < 1.0:
                found.append(f"camera {feed.name!r} has given no picture for {age:.1f} s")
        found += self.pilot.problems(self.spec, described(self.scene, self.spec))
        if isinstance(self.pilot, PolicyPilot) and not found:
            strange = self.pilot.strange(self.scene.observe(), self.scene.env.state_names)
            found += [strange] if strange else []
        if self.recorder is not None and self.recorder.failed:
            found.append(self.recorder.failed)
        if self.settings.heartbeat and self._clock() - self._heard > 1.0:
            found.append("no operator is heard: open the page")
        return found

    def _end(self, success: int, why: str) -> None:
        """An episode is over: record it, and go on to the next."""
        if success == -2:
            self.discarded += 1
        else:
            self._record(success)
            self.outcomes.append(success)
            self._tell(f"episode {len(self.outcomes)} of {self.settings.episodes}: {why}, {self._step} steps")
        self._person = False
        if len(self.outcomes) >= self.settings.episodes:
            self._finish("all episodes done")
        if self.chain.latched is None:
            self._next()

    def _next(self) -> None:
        """Brake, and go to where the next episode starts."""
        gc.collect(0)
        if self.scene is not None and self._travels:
            self.scene.begin(self.seed)
        self._target, self._homing_since = self.chain.rest, self._clock()
        self._enter(State.HOMING if self._travels else State.ARMED)

    def _record(self, success: int) -> None:
        if self.recorder is None or self.scene is None or self.pilot is None or not self._rows.sent:
            return
        self.recorder.put(
            self._rows.episode(
                task=self.scene.task.name,
                robot=self.spec.name,
                instruction=self.settings.instruction,
                source=self.pilot.name,
                seed=self.seed,
                success=success,
            )
        )

    def _idle(self, seen: Observed | None) -> None:
        position = () if seen is None else tuple(seen.position.tolist())
        latched = "" if self.chain.latched is None else f"{self.chain.latched[0].name.lower()}: {self.chain.latched[1]}"
        self.status = Status(
            self.state, len(self.outcomes), 0, position, latched=latched, outcomes=tuple(self.outcomes)
        )

    def _fail(self, words: str) -> None:
        """The robot is lost: nothing more is sent until a reset."""
        if self.state in (State.RUNNING, State.PAUSED):
            self.chain.stop(Reason.DRIVER, words)
            self._end(0 if self.settings.judge else -1, "the robot is lost")
        self.robot.stop()
        self._enter(State.FAULT, f"driver: {words}")
        self.chain.stop(Reason.DRIVER, words)
        if self.settings.auto:
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
            if self.state not in (State.IDLE, State.FAULT, State.DISCONNECTED):
                due = self._clock()
                while not self.chain.resting:
                    due = self._paced(due)
                    self.robot.command(self.chain.step(self.chain.rest, Reading(self._clock())).position)
        except RobotError:
            self.robot.stop()
        finally:
            self.robot.close()
            self._enter(State.DISCONNECTED)

    def report(self) -> Report:
        """What the run was like so far."""
        found: dict[str, Any] = {}
        if isinstance(self.pilot, PolicyPilot):
            self.tally.seconds["infer"] = self.pilot.infer_s
            queue = self.pilot.queue
            restarts = getattr(self.pilot.inference, "restarts", 0)
            found = {"jumps": queue.jumps, "stale": queue.stale, "restarts": restarts, "note": self.pilot.note}
        name = "nobody" if self.pilot is None else self.pilot.name
        return Report(
            name,
            self.ended or "still running",
            tuple(self.outcomes),
            self.tally,
            priority=self.priority,
            discarded=self.discarded,
            **found,
        )
