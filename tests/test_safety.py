"""The safety chain: whatever is asked, what is sent keeps every limit, can be braked, and says why it was changed."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruckig import RuckigError
from safe_robot import robot
from safety_attack import START, attack, bare, drive, outside, violations

from vlmrl.errors import ConfigError, DataError
from vlmrl.robot import Joint, RobotSpec, check, load_robot
from vlmrl.safety import Config, Reading, Reason, Response, SafetyChain, Thresholds
from vlmrl.safety.body import MARGIN, Body
from vlmrl.safety.brake import Braking, Motion, Mover
from vlmrl.safety.watch import responses


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> RobotSpec:
    """A robot with a box."""
    return robot(tmp_path_factory.mktemp("robot"))


@pytest.fixture
def chain(spec: RobotSpec) -> SafetyChain:
    """A chain that knows where its robot is."""
    made = SafetyChain(spec)
    assert made.begin(START) == {}
    return made


def test_no_limit_is_broken_by_any_adversary(spec: RobotSpec) -> None:
    attack(spec, 16, 40, seed=0)


def test_no_limit_of_joints_is_broken_from_any_start(tmp_path: Path) -> None:
    attack(bare(tmp_path), 48, 20, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_sequences_break_nothing() -> None:
    script = Path(__file__).parent / "safety_attack.py"
    subprocess.run([sys.executable, str(script), "96000", "4000"], check=True, timeout=3600)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.lists(st.lists(st.floats(width=64), min_size=0, max_size=4), min_size=1, max_size=25),
)
def test_no_list_of_floats_breaks_a_limit(spec: RobotSpec, asked: list[object]) -> None:
    assert violations(spec, drive(SafetyChain(spec), asked)) == {}


def test_the_checker_of_limits_finds_each_broken_one(spec: RobotSpec) -> None:
    fast = np.array([START, START, START, START + np.array([0, 0.1, 0])])
    assert set(violations(spec, fast)) == {"velocity", "acceleration", "jerk"}
    assert set(violations(spec, START + np.array([[0, 0, 0]] * 3 + [[0.0, 0, 5.0]]))) >= {"position"}


def test_a_target_within_reach_is_sent_as_it_is_in_the_end(chain: SafetyChain) -> None:
    target = START + np.array([0.02, -0.1, 0.2])
    sent = drive(chain, [target] * 60)
    np.testing.assert_allclose(sent[-1], target, atol=1e-9)
    assert chain.step(target, Reading(2.0)).response is Response.PASS


def way_to_rest(mover: Mover, motion: Motion) -> Braking:
    """One that was computed."""
    found = mover.brake(motion)
    assert found is not None
    return found


def test_the_way_to_rest_is_the_fastest_by_hand() -> None:
    """v = 1, a limit 2, jerk limit 8: 0.25 s of rising deceleration, 0.25 s constant, 0.25 s falling; 0.375 rad."""
    mover = Mover((Joint("j", -9.0, 9.0, velocity=2.0, acceleration=2.0, jerk=8.0),), 0.02)
    braking = way_to_rest(mover, Motion(np.zeros(1), np.ones(1), np.zeros(1)))
    assert braking.seconds == pytest.approx(0.75)
    assert braking.high[0] == pytest.approx(0.375)
    accelerating = way_to_rest(mover, Motion(np.zeros(1), np.ones(1), np.full(1, 2.0)))
    assert accelerating.peak[0] == pytest.approx(1 + 2**2 / (2 * 8))


def test_from_any_point_of_the_way_to_rest_the_way_is_its_remainder() -> None:
    mover = Mover((Joint("j", -9.0, 9.0, velocity=2.0, acceleration=2.0, jerk=8.0),), 0.02)
    braking = way_to_rest(mover, Motion(np.zeros(1), np.array([1.3]), np.array([0.7])))
    for share in (0.1, 0.5, 0.9):
        later = way_to_rest(mover, braking.at(share * braking.seconds))
        assert later.seconds == pytest.approx((1 - share) * braking.seconds, abs=1e-6)
        assert later.at(later.seconds).position == pytest.approx(braking.at(braking.seconds).position, abs=1e-9)


def test_where_no_motion_can_be_computed_it_goes_on_to_rest(
    chain: SafetyChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(8):
        chain.step(START + 0.4, Reading(0.0))
    assert not chain.motion.resting
    known = chain._checked_braking  # pyright: ignore[reportPrivateUsage]
    expected = [known.at(k * chain.spec.period) for k in range(1, 60)]

    def refused(*_: object) -> None:
        raise RuckigError("no profile")

    mover = chain._mover  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(mover, "_ruckig", SimpleNamespace(update=refused, calculate=refused))
    for motion in expected:
        step = chain.step(START + 0.4, Reading(0.0))
        assert Reason.BRAKING in step.reasons
        np.testing.assert_allclose(chain.motion.position, motion.position, atol=1e-7)
    assert chain.motion.resting


def test_each_limit_is_named_where_it_was_asked_to_be_broken(chain: SafetyChain, spec: RobotSpec) -> None:
    command = chain.step([9.0, 0.0, 1.0], Reading(0.0))
    assert command.response is Response.CLIP
    assert command.reasons[Reason.POSITION].startswith("lift asked to 9.000 rad")
    chain.begin(START)
    assert Reason.WORKSPACE in chain.step([0.3, 0.0, 0.0], Reading(0.0)).reasons
    unboxed = SafetyChain(replace(spec, workspace=None))
    unboxed.begin(START)
    assert Reason.COLLISION in unboxed.step([-0.05, 1.2, 2.6], Reading(0.0)).reasons
    chain.begin(START)
    assert Reason.SPEED in chain.step(START + 0.05, Reading(0.0)).reasons


def test_malformed_actions_stop_until_an_operator_resets(chain: SafetyChain) -> None:
    drive(chain, [[0.1, 1.0, 1.0]] * 10)
    command = chain.step([0.0, np.nan, 0.0], Reading(0.2))
    assert command.response is Response.CONTROLLED_STOP
    assert command.reason is Reason.MALFORMED
    with pytest.raises(ConfigError, match="still brakes"):
        chain.reset()
    for k in range(100):
        assert chain.step(START, Reading(0.22 + 0.02 * k)).response is Response.CONTROLLED_STOP
    assert chain.resting
    assert chain.latched is not None
    chain.reset()
    assert chain.step(START, Reading(3.0)).reasons.keys() <= {Reason.SPEED}


@pytest.mark.parametrize(
    ("reading", "reason", "response"),
    [
        ({"observation_age": 0.6}, Reason.STALE_OBSERVATION, Response.HOLD),
        ({"observation_age": math.nan}, Reason.STALE_OBSERVATION, Response.HOLD),
        ({"action_age": 0.2}, Reason.LATE_POLICY, Response.HOLD),
        ({"heartbeat_age": 1.1}, Reason.HEARTBEAT, Response.CONTROLLED_STOP),
        ({"camera_unchanged": {"front": 1.1, "wrist": 0.1}}, Reason.FROZEN_CAMERA, Response.CONTROLLED_STOP),
        ({"overruns": 3}, Reason.OVERRUN, Response.CONTROLLED_STOP),
    ],
)
def test_the_watch_speaks_and_the_chain_does_what_the_table_says(
    chain: SafetyChain, reading: dict[str, Any], reason: Reason, response: Response
) -> None:
    command = chain.step(START, Reading(0.0, **reading))
    assert (command.reason, command.response) == (reason, response)
    assert (chain.latched is not None) == (response >= Response.CONTROLLED_STOP)


def test_readings_within_their_thresholds_say_nothing(chain: SafetyChain) -> None:
    fine = Reading(0.0, START, np.array([0.0, 9.9, 1.4]), 0.4, 0.05, {"front": 0.9}, 0.9, 2)
    assert chain.step(START, fine).response is Response.PASS


@pytest.mark.parametrize(
    ("reading", "reason"),
    [
        ({"position": START + np.array([0, 0.2, 0])}, Reason.TRACKING),
        ({"position": np.array([np.nan, 0, 1.0])}, Reason.TRACKING),
        ({"current": np.array([0.0, 9.0, 1.6])}, Reason.CURRENT),
    ],
)
def test_a_robot_that_lags_or_strains_is_stopped_once_it_lasts(
    chain: SafetyChain, reading: dict[str, Any], reason: Reason
) -> None:
    assert chain.step(START, Reading(0.0, **reading)).response is Response.PASS
    assert chain.step(START, Reading(0.05)).response is Response.PASS
    assert chain.step(START, Reading(0.1, **reading)).response is Response.PASS
    command = chain.step(START, Reading(0.45, **reading))
    assert (command.reason, command.response) == (reason, Response.STOP)


def test_a_hold_ends_with_its_reason_and_becomes_a_stop_when_it_lasts(chain: SafetyChain) -> None:
    target = [0.12, -0.2, 1.2]
    for k in range(10):
        chain.step(target, Reading(0.02 * k))
    for k in range(100):
        assert chain.step(None, Reading(0.2 + 0.02 * k, action_age=0.3)).response is Response.HOLD
    assert chain.resting
    for k in range(100):
        chain.step(target, Reading(2.2 + 0.02 * k))
    np.testing.assert_allclose(chain.motion.position, target, atol=1e-9)
    found = {chain.step(None, Reading(4.2 + 0.02 * k, action_age=0.3)).response for k in range(255)}
    assert found == {Response.HOLD, Response.CONTROLLED_STOP}
    assert chain.latched is not None
    assert "for 5.0 s" in chain.latched[1]


def test_a_start_outside_the_limits_is_told_and_only_inward_motion_is_sent(chain: SafetyChain) -> None:
    beyond = np.array([0.1, 0.0, 2.9])
    assert "elbow at 2.900 rad, allowed -2.800 to 2.800" in chain.begin(beyond)[Reason.START]
    for k in range(20):
        chain.step([0.1, 0.0, 9.0], Reading(0.02 * k))
    assert chain.motion.position[2] == pytest.approx(2.9)
    for k in range(100):
        chain.step([0.1, 0.0, 2.0], Reading(1 + 0.02 * k))
    for k in range(100):
        chain.step([0.1, 0.0, 9.0], Reading(3 + 0.02 * k))
    assert chain.motion.position[2] == pytest.approx(2.8, abs=1e-5)


def test_a_start_outside_the_box_may_come_back_but_not_go_farther(chain: SafetyChain) -> None:
    beyond = np.zeros(3)
    assert "outside the workspace" in chain.begin(beyond)[Reason.START]
    farthest = [outside(chain, chain.step([0.0, 0.0, 0.0], Reading(0.0)).position[None])]
    for k in range(200):
        command = chain.step(START, Reading(0.02 * k))
        farthest.append(outside(chain, command.position[None]))
    assert max(np.diff(farthest)) < 1e-5
    assert farthest[-1] == 0.0
    np.testing.assert_allclose(chain.motion.position, START, atol=1e-9)


def test_at_the_edge_of_the_box_it_rests_and_does_not_tremble(chain: SafetyChain) -> None:
    sent = drive(chain, [[0.1, 0.0, -0.5]] * 150)
    assert np.abs(np.diff(sent[-40:], axis=0)).max() < 1e-6
    assert chain._body.points(sent[-1])[0, 0] == pytest.approx(0.5, abs=2e-3)  # pyright: ignore[reportPrivateUsage]


def test_nothing_is_sent_before_the_pose_is_known(spec: RobotSpec) -> None:
    with pytest.raises(DataError, match="call begin"):
        SafetyChain(spec).step(START, Reading(0.0))
    with pytest.raises(DataError, match="3 finite numbers wanted"):
        SafetyChain(spec).begin(np.array([0.0, np.nan, 0.0]))


def test_responses_can_only_be_made_stronger() -> None:
    assert responses({"workspace": "stop"})[Reason.WORKSPACE] is Response.STOP
    with pytest.raises(ConfigError, match="may only be made stronger"):
        responses({"tracking": "hold"})
    with pytest.raises(ConfigError, match=r"unknown reason 'wind'; have: .*workspace"):
        responses({"wind": "stop"})
    with pytest.raises(ConfigError, match="overruns is 0"):
        Thresholds(overruns=0)


def test_a_stronger_response_is_obeyed(spec: RobotSpec) -> None:
    chain = SafetyChain(spec, Config(responses={"workspace": "stop"}))
    chain.begin(START)
    assert chain.step([0.3, 0.0, 0.0], Reading(0.0)).response is Response.STOP
    assert chain.step(START, Reading(0.02)).response is Response.STOP


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joints": ()}, "joints with different names"),
        ({"control_hz": 0.0}, "control_hz"),
        ({"gripper": "hand"}, "unknown gripper joint 'hand'; have: elbow, lift, shoulder"),
        ({"joints": (Joint("j", 1.0, -1.0, 1.0, 1.0, 1.0),)}, "lower below upper"),
        ({"joints": (Joint("j", -1.0, 1.0, 1.0, 0.0, 1.0),)}, "must be above 0"),
    ],
)
def test_limits_within_which_nothing_could_move_are_refused(
    spec: RobotSpec, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(replace(spec, **change), "robot.yaml")


def test_a_model_without_a_joint_or_site_is_refused(spec: RobotSpec) -> None:
    with pytest.raises(ConfigError, match="unknown joint 'wrist'; have: elbow, lift, shoulder"):
        SafetyChain(replace(spec, joints=(Joint("wrist", -1.0, 1.0, 1.0, 1.0, 1.0),)))


def test_two_boxes_that_are_apart_are_not_too_near() -> None:
    # MuJoCo 3.3 reports a contact of -56 mm between shoulder and wrist here, which are 3 mm apart more than they must.
    body = Body(load_robot("so101"))
    assert body.excess(np.array([0.71199005, -1.36679628, 1.67982413, 0.06422674, -0.52128937, 0.17916564]))[1] < 0.01


@pytest.mark.parametrize("name", ["so101", "ur5e"])
def test_clearance_is_kept_between_all_parts_that_may_meet(name: str) -> None:
    spec = load_robot(name)
    body, generator = Body(spec), np.random.default_rng(0)
    low, high = (np.array([getattr(j, side) for j in spec.joints]) for side in ("lower", "upper"))
    model, data = body._model, body._data
    apart, near = 0, 0
    for _ in range(300):
        _, excess = body.excess(generator.uniform(low, high))
        distances = [mujoco.mj_geomDistance(model, data, *pair, 1.0, None) for pair in body._pairs]
        assert excess == pytest.approx(max(0.0, spec.clearance + MARGIN - min(distances)), abs=1e-4)
        apart, near = apart + (excess == 0), near + (excess > 0)
    assert apart > 20
    assert near > 20
