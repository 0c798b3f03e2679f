"""The control node: states, stops and their reasons, seams counted in ticks, and the same motion as in evaluation."""

import dataclasses
import os
import signal
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deploy_fakes import SPEC, Bench, FakeFeed, FakeInference, FakeRecorder, FakeRobot, World, bench
from report_run import episode
from safety_attack import violations

from vlmrl.cli import deploy, jobs
from vlmrl.cli.deploy import signals
from vlmrl.config import compose
from vlmrl.deploy import recorder
from vlmrl.deploy.homing import Homing
from vlmrl.deploy.inference import About, Answer, Inline
from vlmrl.deploy.node import Node
from vlmrl.deploy.pilot import KeyboardPilot, LeaderPilot, PolicyPilot, mismatch
from vlmrl.deploy.recorder import PERSON
from vlmrl.deploy.report import Limits
from vlmrl.deploy.seams import ActionQueue
from vlmrl.deploy.state import WORDS, State
from vlmrl.errors import ConfigError, RobotError
from vlmrl.robot import Observed
from vlmrl.safety import Reason, SafetyChain
from vlmrl.safety.brake import Motion


def ticks(made: Bench, count: int, *says: str) -> State:
    """Say something, and let ticks pass; the run's own end is left out."""
    for word in says:
        made.node.say(word)
    if not made.robot.calls:
        made.node._connect()
    made.node._due = made.world.time
    for _ in range(count):
        if not made.world.unheard:
            made.node.alive()
        made.node._wait()
        made.node._tick()
    return made.node.state


def running(**settings: Any) -> Bench:
    """A node in the middle of an episode."""
    made = bench(**settings)
    ticks(made, 1)
    assert ticks(made, 30, "home") is State.ARMED
    assert ticks(made, 25, "start") is State.RUNNING
    return made


def smooth(made: Bench) -> bool:
    """Whether everything that was sent kept the limits of speed, acceleration and jerk."""
    sent = np.array(made.robot.sent)
    return violations(SPEC, np.concatenate([sent[:1], sent[:1], sent])) == {}


def test_a_run_goes_through_its_states_and_records_every_episode() -> None:
    made = bench(auto=True, episodes=2, seed=7, horizon=60)
    report = made.node.run()
    states = [text.split(":")[0] for text in made.told if text.split(":")[0] in set(State)]
    assert states == ["idle", "homing", "armed", "running", "homing", "armed", "running", "homing", "disconnected"]
    assert report.ended == "all episodes done"
    assert made.robot.calls == ["connect", "enable", "close"]
    assert [episode.seed for episode in made.recorder.episodes] == [7, 8]
    assert smooth(made)
    episode = made.recorder.episodes[0]
    assert len(episode) == 61
    assert episode.success == 0
    assert episode.has_action.sum() == 60
    # asked is what the policy said, action what was sent: it starts from rest, so it lags behind
    assert np.abs(episode.requested[:60, 0] - (SPEC.home / SPEC.half)[0]).max() == pytest.approx(0.3, abs=0.01)
    assert np.abs(episode.action[:60] - episode.requested[:60]).max() > 0.01
    assert Reason.SPEED in set(episode.intervention[:60].tolist())
    assert episode.images["eye"].index[:11].tolist() == [0, -1, -1, -1, -1, 1, -1, -1, -1, -1, 2]


def test_an_episode_ends_with_success_or_when_the_operator_says_so() -> None:
    made = bench(auto=True, episodes=1)
    made.scene.at = 11
    report = made.node.run()
    assert report.outcomes == (1,)
    assert made.recorder.episodes[0].success == 1
    assert len(made.recorder.episodes[0]) == 12
    for word, outcome in (("success", [1]), ("failure", [0])):
        made = running(episodes=5)
        assert ticks(made, 1, word) is State.HOMING
        assert made.node.episodes.outcomes == outcome
        assert smooth(made)
    made = running(episodes=5)
    ticks(made, 60, "discard")
    assert made.node.episodes.outcomes == []
    assert made.recorder.episodes == []
    assert made.scene.begun[-1] == 0, "the same start is taken again"


FAULTS: list[tuple[str, Callable[[World], None], State, Reason, str]] = [
    ("readings fail now and then", lambda w: setattr(w, "lost", 5), State.RUNNING, Reason.NONE, ""),
    ("the robot is silent", lambda w: setattr(w, "silent", True), State.FAULT, Reason.DRIVER, "no answer"),
    ("the bus is unplugged", lambda w: setattr(w, "deaf", True), State.FAULT, Reason.DRIVER, "cannot be sent to"),
    ("the camera freezes", lambda w: setattr(w, "still", True), State.STOPPED, Reason.FROZEN_CAMERA, "eye unchanged"),
    (
        "the camera is lost",
        lambda w: setattr(w, "unplugged", True),
        State.STOPPED,
        Reason.FROZEN_CAMERA,
        "is unplugged",
    ),
    ("the policy is late", lambda w: setattr(w, "mute", True), State.STOPPED, Reason.LATE_POLICY, "next action is"),
    ("NaN", lambda w: setattr(w, "says", np.full((4, 6), np.nan)), State.STOPPED, Reason.MALFORMED, "finite numbers"),
    ("five joints", lambda w: setattr(w, "says", np.zeros((4, 5))), State.STOPPED, Reason.MALFORMED, "6 finite"),
    ("a servo is overloaded", lambda w: setattr(w, "current", 3.0), State.STOPPED, Reason.CURRENT, "takes 3.00 A"),
    ("the arm is stuck", lambda w: setattr(w, "stuck", True), State.STOPPED, Reason.TRACKING, "from its command"),
    ("the operator is gone", lambda w: setattr(w, "unheard", True), State.STOPPED, Reason.HEARTBEAT, "heartbeat is"),
    ("the loop is late", lambda w: setattr(w, "lag_s", 0.03), State.STOPPED, Reason.OVERRUN, "control steps in a row"),
    ("the disk is full", lambda w: setattr(w, "full", True), State.STOPPED, Reason.RECORDER, "no space left"),
]


@pytest.mark.parametrize(("name", "fault", "state", "reason", "words"), FAULTS, ids=[f[0] for f in FAULTS])
def test_every_fault_has_its_state_its_motion_and_its_reason(
    name: str, fault: Callable[[World], None], state: State, reason: Reason, words: str
) -> None:
    made = running(heartbeat=True)
    fault(made.world)
    assert ticks(made, 330) is state
    assert smooth(made), "even then nothing is sent beyond the limits"
    latched = made.node.chain.latched
    if reason is Reason.NONE:
        assert latched is None
        assert made.node.tally.missed > 50
        return
    assert latched is not None
    assert latched[0] is reason
    assert words in latched[1]
    assert any(text.startswith(f"{state}: {reason.name.lower()}") for text in made.told)
    assert made.recorder.episodes[-1].success == 0
    # a driver's own stop where positions cannot be trusted
    assert ("stop" in made.robot.calls) == (reason in (Reason.DRIVER, Reason.CURRENT, Reason.TRACKING))
    rest = len(made.robot.sent)
    if state is State.STOPPED:
        ticks(made, 5)
        assert np.ptp(np.array(made.robot.sent[rest - 1 :]), axis=0).max() < 1e-9, "it rests"


def test_what_only_waits_goes_on_when_it_is_over() -> None:
    for fault in ("mute", "silent"):
        made = running()
        setattr(made.world, fault, True)
        ticks(made, 60)
        assert made.node.state is State.RUNNING
        assert made.node.status.response == "hold"
        assert made.node.chain.resting
        setattr(made.world, fault, False)
        ticks(made, 10)
        assert made.node.state is State.RUNNING
        assert not made.node.chain.resting
        assert smooth(made)


def test_a_stop_is_latched_until_the_operator_resets_at_rest() -> None:
    made = running()
    assert ticks(made, 1, "stop") is State.STOPPED
    assert ticks(made, 1, "reset") is State.STOPPED, "it still brakes"
    for word in sorted(set(WORDS) - {"quit", "reset", "stop"}):
        assert ticks(made, 40, word) is State.STOPPED, word
    assert smooth(made)
    assert ticks(made, 1, "reset") is State.IDLE
    count = len(made.robot.sent)
    ticks(made, 3)
    assert len(made.robot.sent) == count, "nothing is sent while idle"
    assert ticks(made, 60, "home") is State.ARMED
    assert ticks(made, 5, "start") is State.RUNNING


def test_stop_comes_before_everything_that_was_said_before_it() -> None:
    made = running()
    made.node.say("success")
    made.node.say("stop")
    ticks(made, 1)
    assert made.node.state is State.STOPPED
    assert made.node.chain.latched == (Reason.OPERATOR, "the operator's stop")
    with pytest.raises(ConfigError, match="unknown word 'halt'; have: discard, failure"):
        made.node.say("halt")


def test_pause_rests_and_resume_goes_on_in_the_same_episode() -> None:
    made = running()
    step = made.node.episodes.step
    assert ticks(made, 40, "pause") is State.PAUSED
    assert made.node.chain.resting
    assert ticks(made, 10, "resume") is State.RUNNING
    assert made.node.episodes.step >= step + 10
    assert smooth(made)


def test_a_lost_robot_is_connected_anew_by_a_reset() -> None:
    made = running()
    made.world.silent = True
    assert ticks(made, 150) is State.FAULT
    made.world.silent = False
    count = len(made.robot.sent)
    assert ticks(made, 3) is State.FAULT
    assert len(made.robot.sent) == count
    assert ticks(made, 2, "reset") is State.IDLE
    assert ticks(made, 60, "home") is State.ARMED


def trained(**changed: Any) -> About:
    """A policy of this robot's data, or not quite."""
    units = ["rad"] * 6 + ["rad/s"] * 6
    names = [*SPEC.names, *(f"{n}_velocity" for n in SPEC.names)]
    columns = {
        "obs/state": {"names": names, "units": units},
        "action": {"names": list(SPEC.names), "units": list(SPEC.action_units)},
    }
    normal = {"shift": np.zeros(12), "scale": np.ones(12)}
    return About("bc", 1, True, columns | changed.pop("columns", {}), ("state",), **(normal | changed))


@pytest.mark.parametrize(
    ("about", "words"),
    [
        (trained(columns={"obs/state": {}}), "does not say names and units of obs/state in its training data"),
        (
            trained(columns={"action": {"names": list(SPEC.names)[::-1], "units": list(SPEC.action_units)}}),
            "action: the policy's names are in another order: gripper, wrist_roll",
        ),
        (
            trained(columns={"action": {"names": ["x", "y", "z"], "units": ["m"] * 3}}),
            "action: names of number 1 are 'x' for the policy and 'shoulder_pan' for the robot",
        ),
        (
            trained(columns={"action": {"names": list(SPEC.names), "units": ["180 degrees"] * 6}}),
            "units of number 1 are '180 degrees' for the policy and '1.92 rad about 0 rad' for the robot",
        ),
        (trained(shift=np.full(12, 57.0)), "is -1.2, 58 deviations from the training data"),
    ],
)
def test_a_policy_of_another_robot_does_not_start(about: About, words: str) -> None:
    made = bench()
    assert isinstance(made.node.pilot, PolicyPilot)
    made.node.pilot.inference.about = about
    ticks(made, 30, "home")
    assert ticks(made, 1, "start") is State.ARMED
    assert words in made.told[-1], made.told[-1]
    made.node.pilot.inference.about = trained()
    assert ticks(made, 1, "start") is State.RUNNING


def test_a_policy_that_says_nothing_of_its_data_is_followed_where_that_is_asked_for() -> None:
    made = bench()
    assert isinstance(made.node.pilot, PolicyPilot)
    made.node.pilot.inference.about = About("another project's", trained=True)
    ticks(made, 30, "home")
    assert ticks(made, 1, "start") is State.ARMED
    assert "does not say names and units of action" in made.told[-1]
    assert "unchecked=true" in made.told[-1]
    made.node.pilot.unchecked = True
    assert ticks(made, 1, "start") is State.RUNNING


def test_a_policy_of_part_of_the_state_is_held_against_that_part() -> None:
    made = bench()
    assert isinstance(made.node.pilot, PolicyPilot)
    part = dataclasses.replace(trained(), keys=("state:2:4",), shift=np.zeros(2), scale=np.array([1.0, 0.001]))
    made.node.pilot.inference.about = part
    ticks(made, 30, "home")
    assert ticks(made, 1, "start") is State.ARMED
    assert f"{SPEC.names[3]} is" in made.told[-1], made.told[-1]
    made.node.pilot.inference.about = dataclasses.replace(part, scale=np.ones(2))
    assert ticks(made, 1, "start") is State.RUNNING


def test_a_policy_that_sees_is_shown_the_latest_picture_and_needs_its_camera() -> None:
    made = bench()
    assert isinstance(made.node.pilot, PolicyPilot)
    inference, asked = made.node.pilot.inference, list[Any]()
    ask = inference.ask
    inference.ask = lambda observation, tick: (asked.append(dict(observation)), ask(observation, tick))[1]  # type: ignore[method-assign]
    inference.about = dataclasses.replace(trained(), cameras=("wrist",))
    ticks(made, 30, "home")
    assert ticks(made, 1, "start") is State.ARMED
    assert "looks through camera 'wrist', and here are: eye" in made.told[-1]
    inference.about = dataclasses.replace(trained(), cameras=("eye",))
    assert ticks(made, 10, "start") is State.RUNNING
    assert [one["image/eye"].shape for one in asked] == [(4, 4, 3)] * len(asked)
    assert asked
    ticks(made, 30, "success")
    assert set(made.recorder.episodes[0].obs) == {"state"}


def test_the_checklist_names_what_is_wrong() -> None:
    made = bench(heartbeat=True, instruction="")
    made.world.still = made.world.unheard = made.world.full = True
    made.robot.position = SPEC.home + np.array([3.0, 0, 0, 0, 0, 0])
    ticks(made, 80, "home")
    found = "; ".join(made.node.problems())
    for words in ("no sentence", "camera 'eye' has given no picture", "no operator is heard", "no space left"):
        assert words in found
    assert "shoulder_pan at" in found
    assert mismatch("action", {"names": ["a"], "units": ["m"]}, {"names": ["a"], "units": ["m"]}) == ""


def test_an_automatic_run_that_cannot_start_says_why_and_ends() -> None:
    made = bench(auto=True)
    made.world.still = True
    report = made.node.run()
    assert "the episode cannot start: camera 'eye' has given no picture" in report.ended
    assert made.world.time > 30, "cameras were given time"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_brakes_closes_and_keeps_no_half_episode(kind: signal.Signals) -> None:
    made = bench(auto=True, episodes=3)
    before = signal.getsignal(kind)

    def interrupt(node: Node) -> bool:
        if node.state is State.RUNNING and node.status.step == 25:
            os.kill(os.getpid(), kind)
        return False

    with signals(made.node):
        report = made.node.run(until=interrupt)
    assert signal.getsignal(kind) == before
    assert report.ended == "ended by the operator"
    assert report.outcomes == ()
    assert made.recorder.episodes == []
    assert made.robot.calls[-1] == "close"
    assert smooth(made)
    assert made.node.chain.resting


def test_home_is_reached_round_what_bars_the_straight_way() -> None:
    made = bench()
    made.robot.position = np.array([-0.0215, -0.4140, 1.0771, 0.6489, -0.0061, 0.2608])
    assert ticks(made, 400, "home") is State.ARMED
    np.testing.assert_allclose(made.robot.position, SPEC.home, atol=2e-3)


class OneByOne(SafetyChain):
    """A chain that lets one joint move at a time, and the first only when the last is home."""

    resting = True

    def __init__(self) -> None:
        self.position = SPEC.home + 0.2

    @property
    def motion(self) -> Motion:
        return Motion.at_rest(self.position)

    def allows(self, position: np.ndarray) -> bool:
        del position
        return True

    def go(self, target: np.ndarray) -> None:
        moved = np.flatnonzero(np.abs(target - self.position) > 1e-9)
        if len(moved) == 1 and (moved[0] != 0 or abs(self.position[-1] - SPEC.home[-1]) < 1e-9):
            self.position = target.copy()


def test_homing_tries_joint_after_joint_where_the_chain_does_not_move() -> None:
    chain, homing = OneByOne(), Homing(SPEC)
    homing.begin(chain.position, 0.0)
    for _ in range(1500):
        chain.go(homing.step(chain))  # type: ignore[arg-type]
    np.testing.assert_allclose(chain.position, SPEC.home, atol=1e-3)


# ---- stops, of a robot that has stopped by its own means


def test_what_stopped_by_its_own_means_is_sent_nothing_until_it_is_brought_home() -> None:
    made = bench(auto=True)

    def stick(node: Node) -> bool:
        made.world.stuck = node.tally.ticks > 20
        return node.tally.ticks > 400

    assert "tracking" in made.node.run(until=stick).ended
    assert "command" not in made.robot.log[made.robot.log.index("stop") :]
    assert made.recorder.episodes[0].success == 0


def test_a_robot_that_rests_after_a_stop_is_still_stopped_when_it_presses() -> None:
    made = running()
    assert ticks(made, 30, "stop") is State.STOPPED
    assert "stop" not in made.robot.calls
    made.world.current = 9.0
    ticks(made, 30)
    assert made.robot.calls.count("stop") == 1
    sent = len(made.robot.sent)
    ticks(made, 30)
    assert len(made.robot.sent) == sent
    made.world.current = 0.1
    assert ticks(made, 1, "reset") is State.IDLE
    assert ticks(made, 200, "home") is State.ARMED
    assert len(made.robot.sent) > sent


def test_stop_before_the_first_homing_only_stops() -> None:
    made = bench()
    assert ticks(made, 3, "stop") is State.STOPPED
    assert not made.robot.sent
    assert ticks(made, 1, "reset") is State.IDLE
    assert ticks(made, 200, "home") is State.ARMED


def test_stop_in_idle_sends_the_arm_nowhere() -> None:
    made = running()
    made.world.stuck = True
    assert ticks(made, 60) is State.STOPPED
    assert ticks(made, 1, "reset") is State.IDLE
    sent = len(made.robot.sent)
    assert ticks(made, 20, "stop") is State.STOPPED
    assert len(made.robot.sent) == sent


def test_a_stop_in_the_tick_of_a_start_wins() -> None:
    made = bench()
    ticks(made, 200, "home")
    assert ticks(made, 3, "start", "stop") is State.STOPPED
    assert made.node.episodes.outcomes == []


def test_a_reset_or_a_homing_of_a_robot_that_is_gone_is_a_fault_and_not_the_end() -> None:
    made = running()
    made.world.silent = True
    assert ticks(made, 150) is State.FAULT
    made.robot.absent = True
    assert ticks(made, 2, "reset") is State.FAULT
    made.robot.absent = made.world.silent = False
    assert ticks(made, 2, "reset") is State.IDLE
    made.robot.absent = True
    assert ticks(made, 2, "home") is State.FAULT


def test_every_deadline_that_is_over_counts_and_its_lateness_whole() -> None:
    made = running(horizon=10_000)
    for lag, missed, state in ((0.045, 2, State.RUNNING), (0.205, 10, State.STOPPED)):
        made.world.lag_s, before = lag, made.node.tally.overruns
        made.node._tick()
        made.world.lag_s = 0.0
        made.node._wait()
        made.node._tick()
        assert made.node.tally.overruns - before == missed
        assert made.node.state is state
        ticks(made, 1)
    assert max(made.node.tally.seconds["late"]) == pytest.approx(0.025, abs=1e-6)
    assert "overrun" in made.told[-1], made.told


def test_what_was_asked_before_a_take_over_or_a_pause_is_not_done_after_it() -> None:
    made = running(length=50)
    made.node.human = KeyboardPilot(SPEC)
    assert isinstance(made.node.pilot, PolicyPilot)
    for word, back in (("take", "take"), ("pause", "resume")):
        ticks(made, 10)
        assert made.node.pilot.queue.left(made.node.episodes.step)
        ticks(made, 5, word)
        made.node.say(back)
        made.node._obey()
        assert not made.node.pilot.queue.left(0)
        ticks(made, 1)
    assert smooth(made)


def test_keys_move_nothing_while_nobody_has_the_robot_by_hand() -> None:
    made = running()
    made.node.human = KeyboardPilot(SPEC)
    assert not made.node.by_hand
    ticks(made, 2, "take")
    assert made.node.by_hand
    ticks(made, 2, "pause")
    assert not made.node.by_hand


def test_nobody_there_is_a_stop_on_the_way_to_the_next_start_too() -> None:
    made = running(heartbeat=True)
    assert ticks(made, 1, "success") is State.HOMING
    made.world.unheard = True
    assert ticks(made, 45) is State.HOMING, "as long as the threshold"
    assert ticks(made, 30) is State.STOPPED
    assert made.node.chain.latched is not None
    assert made.node.chain.latched[0] is Reason.HEARTBEAT
    assert smooth(made)


def test_an_episode_waits_for_pictures_of_its_own_start() -> None:
    made = running(episodes=5)
    (feed,) = made.node.episodes.feeds
    before = feed.latest
    made.world.still = True
    assert ticks(made, 60, "success") is State.ARMED
    assert before is not None
    assert feed.latest is None, "what the camera showed before is of the episode before"
    assert ticks(made, 10, "start") is State.ARMED
    made.world.still = False
    ticks(made, 1)
    assert ticks(made, 1, "start") is State.RUNNING


def test_a_real_camera_gives_a_policy_as_many_pictures_as_a_rehearsal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = dict[str, float]()

    def feed(name: str, device: object, *, hz: float = 10.0) -> Any:
        asked[name] = hz
        return FakeFeed(World())

    monkeypatch.setattr("vlmrl.deploy.v4l2.find_spec", lambda name: object())
    monkeypatch.setattr(deploy, "V4l2Feed", feed)
    monkeypatch.setattr(deploy, "SimulatedFeed", feed)
    monkeypatch.setattr(deploy, "Recorder", lambda path, waits: FakeRecorder(World()))
    pilot = PolicyPilot(FakeInference(World(), about=About("sees", cameras=("front", "judge"))), SPEC, ActionQueue())
    config = deploy.DeployConfig(
        driver="mujoco",
        cameras=("judge",),
        devices={"front": "/dev/video0", "side": "/dev/video1"},
        store=str(tmp_path / "s"),
    )
    with deploy.node(config, pilot, tmp_path, whole=False):
        pass
    assert asked == {"judge": 30.0, "front": 30.0, "side": 10.0}


def test_a_leader_is_asked_once_a_tick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = dict[str, Any]()

    def made(spec: object, *, name: str, **options: Any) -> FakeRobot:
        given.update(options)
        return FakeRobot(World())

    monkeypatch.setattr(deploy, "robot", made)
    monkeypatch.setattr(deploy, "run", lambda config, pilot, folder, whole: None)
    jobs.register()
    deploy.record(
        compose("record", ["by=leader", "leader_port=/dev/ttyACM1", "leader_options={baud: 500000}"]), tmp_path
    )
    assert given == {"once": True, "port": "/dev/ttyACM1", "baud": 500000}


def test_an_automatic_run_goes_on_after_a_stop_where_an_operator_is_there() -> None:
    made = bench(auto=True, attended=True, episodes=2, horizon=20)
    words = {State.RUNNING: "stop", State.STOPPED: "reset", State.IDLE: "home"}

    def attend(node: Node) -> None:
        if node.tally.ticks > 5 and (node.state is not State.STOPPED or node.chain.resting) and node.state in words:
            node.say(words.pop(node.state))

    made.node.operators = [type("Someone", (), {"attend": staticmethod(attend)})()]
    report = made.node.run(until=lambda node: made.world.time > 120)
    assert report.ended == "all episodes done", made.told
    assert len(report.outcomes) == 2


def test_a_recorder_that_is_behind_but_writes_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    time, said, pending = [0.0], deque[str](), list[object]()

    class Slow:
        """A process that takes one episode in 20 s; what it has not taken waits since the first."""

        dead = False
        behind_s = property(lambda self: time[0] if len(pending) > 1 else 0.0)

        def __init__(self, function: object, path: object) -> None: ...

        def send(self, episode: object) -> None:
            pending.append(episode)

        def hear(self) -> str | None:
            return said.popleft() if said else None

        def close(self) -> None: ...

    monkeypatch.setattr(recorder, "Child", Slow)
    monkeypatch.setattr(recorder, "now", lambda: time[0])
    made = recorder.Recorder(tmp_path)
    for k in range(5):
        made.put(episode(k))
    for _ in range(3):
        time[0] += 20.0
        pending.pop(0)
        said.append("")
        assert made.failed == ""
    time[0] += 31.0
    assert made.failed == "the recorder has not taken an episode for 30 s"


# ---- people


def test_a_person_takes_over_and_gives_back_without_a_jump() -> None:
    made = running()
    made.node.human = KeyboardPilot(SPEC)
    ticks(made, 5, "take")
    assert made.node.status.person
    for _ in range(10):
        assert made.node.human.press("q")
    assert not made.node.human.press("0")
    before = made.robot.position[0]
    ticks(made, 40)
    assert made.robot.position[0] - before > 0.3
    ticks(made, 20, "take")
    ticks(made, 30, "success")
    assert smooth(made)
    taken = made.recorder.episodes[0].intervention >= PERSON
    assert taken.sum() == 45
    assert made.node.tally.person == 45


def test_a_leader_is_followed_and_its_silence_is_a_hold() -> None:
    made, world = bench(auto=True, horizon=80), World()
    leader = FakeRobot(world)
    made.node.pilot = LeaderPilot(leader)
    leader.position = SPEC.home + np.array([0.4, 0, 0, 0, 0, 0.2])
    report = made.node.run()
    assert report.pilot == "leader"
    assert smooth(made)
    np.testing.assert_allclose(np.array(made.robot.sent).max(0), leader.position, atol=1e-6)
    assert (made.recorder.episodes[0].intervention[:80] >= PERSON).all()
    world.silent = True
    asked = made.node.pilot.ask({}, leader_seen(0.0), 0), made.node.pilot.ask({}, leader_seen(0.3), 1)
    assert [round(one.late_s, 2) for one in asked] == [0.0, 0.3]


def leader_seen(time: float) -> Observed:
    """A reading of the follower."""
    return Observed(time, SPEC.home, np.zeros(6))


# ---- seams


def chunk(start: float, length: int = 8) -> np.ndarray:
    return np.arange(start, start + length)[:, None].astype(float)


def test_a_chunk_begins_at_the_tick_it_was_asked_for() -> None:
    queue = ActionQueue("anchor", fade=1)
    queue.put(chunk(0), asked=0, tick=0)
    taken = [float(queue.take(k)[0]) for k in range(4)]  # type: ignore[index]
    queue.put(chunk(2), asked=2, tick=4)  # asked two ticks ago: two of its actions are over
    taken += [float(queue.take(k)[0]) for k in range(4, 10)]  # type: ignore[index]
    assert taken == list(range(10))
    assert queue.take(10) is None
    assert queue.jumps == [1.0]


def test_fade_goes_from_old_to_new_and_anchor_has_no_jump() -> None:
    for seam, first in (("fade", 4 + 10 / 3), ("anchor", 4.0)):
        queue = ActionQueue(seam, fade=2)
        queue.put(chunk(0), asked=0, tick=0)
        for k in range(4):
            queue.take(k)
        queue.put(chunk(14), asked=4, tick=4)
        assert queue.take(4) == pytest.approx([first])
        assert queue.take(6) == pytest.approx([16.0])


def test_hold_executes_whole_chunks_and_begins_anew_after_waiting() -> None:
    queue = ActionQueue("hold")
    queue.put(chunk(0, 2), asked=0, tick=0)
    assert [queue.take(0), queue.take(1), queue.take(2)] == [0.0, 1.0, None]
    queue.put(chunk(5, 2), asked=2, tick=6)  # it waited where it was
    assert queue.take(6) == 5.0


def test_an_ensemble_weighs_old_and_new_as_its_paper_does() -> None:
    queue = ActionQueue("ensemble")
    queue.put(chunk(0), asked=0, tick=0)
    queue.take(0)
    queue.put(chunk(11), asked=1, tick=1)
    weights = np.exp([0, -0.01])
    assert queue.take(1) == pytest.approx([(weights @ [1, 11]) / weights.sum()])


def test_a_chunk_that_comes_when_it_is_over_gives_its_last_action_and_is_counted() -> None:
    queue = ActionQueue("fade")
    queue.put(chunk(0, 2), asked=0, tick=5)
    assert queue.take(5) == 1.0
    assert (queue.stale, queue.behind) == (1, 4)
    queue.put(chunk(7, 1), asked=5, tick=6)  # too late as well, and then one that is not: only what is done is a jump
    queue.put(chunk(3, 2), asked=6, tick=6)
    assert queue.take(6) == 3.0
    assert (queue.stale, queue.behind, queue.jumps) == (1, 0, [2.0])
    queue.put(chunk(9, 1), asked=2, tick=7)  # what was meant for this tick is there
    assert queue.take(7) == 4.0
    with pytest.raises(ConfigError, match="unknown seam 'jump'; have: anchor, ensemble, fade, hold"):
        ActionQueue("jump")


# ---- report


@pytest.mark.parametrize("seam", ["fade", "anchor", "ensemble"])
def test_after_a_late_answer_the_next_is_of_its_own_tick_again(seam: str) -> None:
    class Slow(FakeInference):
        """Answers with the tick at which it was asked, while it is waited for; what is asked at 3 or 4 a tick later."""

        now = 0

        def answer(self, wait_s: float) -> Answer | None:
            in_time = wait_s and self._asked not in (3, 4)
            if not self.busy or not (in_time or self.now > self._asked):
                return None
            self.busy = False
            return Answer(self._asked, np.full((1, 6), self._asked / 100), 0.001)

    inference = Slow(World())
    pilot = PolicyPilot(inference, SPEC, ActionQueue(seam), wait_s=0.005)
    pilot.begin("", 0, leader_seen(0.0))
    done = list[float]()
    for inference.now in range(8):
        asked = pilot.ask({}, leader_seen(inference.now / 50), inference.now).position
        done.append(round(100 * float(((np.asarray(asked) - SPEC.centre) / SPEC.half)[0]), 6))
    assert done == [0, 1, 2, 2, 3, 5, 6, 7]


@pytest.mark.parametrize(("late", "state"), [(1, State.RUNNING), (60, State.STOPPED)])
@pytest.mark.parametrize("seam", ["fade", "ensemble", "anchor"])
def test_a_policy_whose_answers_are_always_over_is_late_by_their_age(seam: str, late: int, state: State) -> None:
    class Late(FakeInference):
        """Each answer comes so many ticks after it was asked for."""

        now = 0

        def reset(self, instruction: str, seed: int) -> None:
            self.busy = False

        def answer(self, wait_s: float) -> Answer | None:
            return super().answer(wait_s) if self.now >= self._asked + late else None

    made = bench(seam=seam, horizon=2000)
    assert isinstance(made.node.pilot, PolicyPilot)
    made.node.pilot.inference = inference = Late(made.world, length=1)
    ticks(made, 1)
    ticks(made, 30, "home")
    ticks(made, 1, "start")
    for _ in range(500):
        inference.now = made.node.episodes.step
        ticks(made, 1)
    assert made.node.state is state, made.told
    if state is State.STOPPED:
        assert made.node.chain.latched is not None
        assert made.node.chain.latched[0] is Reason.LATE_POLICY
    assert smooth(made)


def test_who_quits_before_the_way_home_does_not_set_out() -> None:
    made = bench()
    made.node.say("home")
    made.node.say("quit")
    made.node.run()
    assert "enable" not in made.robot.calls


def test_the_report_counts_and_fails_what_crosses_a_threshold() -> None:
    made = bench(auto=True, episodes=3, horizon=40)
    report = made.node.run()
    content = report.as_json()
    assert content["success"] == {"estimate": 0.0, "low": 0.0, "high": pytest.approx(0.56, abs=0.01), "n": 3}
    assert content["ticks"] == 120
    assert set(content["seconds"]) == {"observe", "infer", "send", "tick", "late"}
    assert list(content["seconds"]["tick"]) == ["p50", "p95", "p99", "p99.9", "max"]
    assert "success 0 % [0, 56], 0 of 3" in report.text()
    report.check(Limits(overruns=0.5))
    with pytest.raises(RobotError, match=r"thresholds crossed: success 0\.00 below 0\.5"):
        report.check(Limits(success=0.5))
    with pytest.raises(RobotError, match=r"jump .* above 1e-09"):
        report.check(Limits(jump=1e-9))


# ---- the same as in evaluation


def lockstep(folder: Path, policy: str = "expert", **given: Any) -> Any:
    """Run the node on the twin in lock step; its store."""
    from vlmrl.cli.deploy import DeployConfig, node
    from vlmrl.evaluate.candidates import Candidate
    from vlmrl.sim import load_task
    from vlmrl.store import Store

    settings = {"cameras": (), "whole": True, "store": str(folder / "s"), **given}
    config = DeployConfig(policy=policy, driver="mujoco", lockstep=True, **settings)
    task = load_task(config.task)
    pilot = PolicyPilot(Inline(Candidate(policy).make(task)), SPEC, ActionQueue("hold"), 0)
    folder.mkdir(exist_ok=True)
    with node(config, pilot, folder, whole=True) as made:
        report = made.run()
    assert report.ended == "all episodes done"
    return Store.open(folder / "s")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["so101/reach", "so101/push"])
def test_lock_step_and_evaluation_give_the_same_trajectory(task: str, tmp_path: Path) -> None:
    from vlmrl.evaluate.candidates import Candidate
    from vlmrl.evaluate.collect import record
    from vlmrl.sim import load_task

    store = lockstep(tmp_path / "run", task=task, episodes=2, seed=0)
    loaded = load_task(task)
    seeds = [0, 1]
    for name, other in zip(store.episodes.id, record(loaded, Candidate("expert").make(loaded), seeds), strict=True):
        one = store.episode(name)
        np.testing.assert_array_equal(one.obs["state"], other.obs["state"])
        np.testing.assert_allclose(one.requested[:-1], other.action[:-1], atol=1e-6)
        assert one.success == other.success
        assert one.seed == other.seed


def test_a_policy_that_sees_acts_in_lock_step_as_in_evaluation(tmp_path: Path) -> None:
    from vlmrl import config as configuration
    from vlmrl.cli import jobs
    from vlmrl.cli.train import Training, train_all
    from vlmrl.evaluate.candidates import Candidate
    from vlmrl.evaluate.collect import record
    from vlmrl.sim import load_task

    shown = lockstep(tmp_path / "demo", seed=0, episodes=6, seconds=0.4, cameras=("judge",), picture_every=1)
    assert len(shown.episode(shown.episodes.id[0]).obs["state"]) == 21
    jobs.register()
    settings = ["learner=diffusion", *(f"learner.{one}" for one in ("updates=2", "batch=4", "hidden=[8,8]", "steps=2"))]
    learner = configuration.compose("train", settings)["learner"]
    place = str(tmp_path / "policy")
    sees = Training("sees", 0, str(shown.path), None, learner, ("state:0:6",), place, cameras=("judge",))
    train_all([sees], workers=1)
    store = lockstep(tmp_path / "run", place, seed=5, episodes=1, seconds=0.4)
    loaded = load_task("so101/reach")
    (other,) = record(loaded, Candidate(place).make(loaded), [5])
    one = store.episode(store.episodes.id[0])
    assert len(one.obs["state"]) == 21
    np.testing.assert_array_equal(one.obs["state"], other.obs["state"][:21])
