"""The humanoid: Humanoid-v5's physics to the bit, goal poses that mean what they say, poses that show them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium
import mujoco
import numpy as np
import pytest

from vlmrl.errors import ConfigError
from vlmrl.evaluate.poses import Config, goal_poses, write
from vlmrl.reward import clip
from vlmrl.reward.quality import measure
from vlmrl.reward.relabel import relabel
from vlmrl.sim import expert, load_task, make, task_names
from vlmrl.sim.poses import Measure, Ranges, holds, nearness
from vlmrl.sim.reference import FILE, ReferencePose, reference_poses
from vlmrl.store import Store

if TYPE_CHECKING:
    from vlmrl.sim.env import SimEnv

GOALS = ("arms_crossed", "arms_raised", "hands_on_hips", "kneeling", "lotus", "one_leg", "splits", "standing")
STANDING_TOO = {"arms_raised", "hands_on_hips", "arms_crossed"}
"""Goals that are ways of standing: where they hold, so does standing."""


@pytest.fixture(scope="module")
def body() -> Iterator["SimEnv"]:
    env = make(load_task("humanoid/kneeling"), image_size=(64, 64))
    env.reset(seed=0)
    yield env
    env.close()


@pytest.fixture(scope="module")
def poses(body: "SimEnv") -> list[ReferencePose]:
    return reference_poses("humanoid", body.model)


@pytest.fixture(scope="module")
def goals() -> Mapping[str, Ranges]:
    return goal_poses("humanoid")


def _quantities(env: "SimEnv") -> dict[str, float]:
    return Measure(env.model)(env.data)


def _shown(env: "SimEnv", goals: Mapping[str, Ranges]) -> set[str]:
    quantities = _quantities(env)
    return {goal for goal, pose in goals.items() if holds(quantities, pose)}


def _random_actions(steps: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (steps, 17)).astype(np.float32)


# Physics


def test_starts_and_trajectories_are_humanoid_v5_s_to_the_bit(body: "SimEnv") -> None:
    theirs = gymnasium.make("Humanoid-v5", terminate_when_unhealthy=False).unwrapped
    start, _ = theirs.reset(seed=3)
    observation, _ = body.reset(seed=3)
    np.testing.assert_array_equal(observation["state"], start.astype(np.float32))
    for action in _random_actions(40):
        seen = theirs.step(0.4 * action.astype(np.float64))[0]
        observation = body.step(action)[0]["state"]
        np.testing.assert_array_equal(body.data.qpos, theirs.data.qpos)
        np.testing.assert_array_equal(body.data.qvel, theirs.data.qvel)
        # Positions, velocities, then motor torques and contact forces, which are not 3 ms younger than theirs.
        np.testing.assert_array_equal(observation[:45], seen[:45].astype(np.float32))
        np.testing.assert_array_equal(observation[253:], seen[253:].astype(np.float32))


def test_what_differs_from_humanoid_v5_is_that_bodies_are_where_they_are_now(body: "SimEnv") -> None:
    theirs = gymnasium.make("Humanoid-v5").unwrapped
    theirs.reset(seed=3)
    body.reset(seed=3)
    for action in _random_actions(10):
        theirs.step(0.4 * action.astype(np.float64))
        observation = body.step(action)[0]["state"]
    late = theirs._get_obs()[45:253].astype(np.float32)
    mujoco.mj_forward(theirs.model, theirs.data)
    now = theirs._get_obs()[45:253].astype(np.float32)
    np.testing.assert_array_equal(observation[45:253], now)
    assert not np.array_equal(now, late)


def test_clothes_weigh_nothing_and_touch_nothing(body: "SimEnv") -> None:
    theirs = gymnasium.make("Humanoid-v5").unwrapped.model
    for name in ("body_mass", "body_inertia", "body_ipos", "body_iquat", "dof_invweight0", "jnt_range"):
        np.testing.assert_array_equal(getattr(body.model, name), getattr(theirs, name))
    assert body.model.ngeom > theirs.ngeom
    assert (body.model.geom_contype > 0).sum() == (theirs.geom_contype > 0).sum()


def test_every_number_of_the_observation_has_its_name_and_unit(body: "SimEnv") -> None:
    observation, _ = body.reset(seed=1)
    assert len(set(body.state_names)) == len(body.state_units) == len(observation["state"]) == 348
    told = dict(zip(body.state_names, observation["state"], strict=True))
    assert told["trunk_z"] == np.float32(body.data.qpos[2])
    assert told["left_elbow"] == np.float32(body.data.joint("left_elbow").qpos[0])
    assert told["left_elbow_velocity"] == np.float32(body.data.joint("left_elbow").qvel[0])
    assert told["right_foot_mass"] == np.float32(body.model.body("right_foot").mass[0])
    body.step(np.ones(17, np.float32))
    told = dict(zip(body.state_names, body.observe()["state"], strict=True))
    units = dict(zip(body.state_names, body.state_units, strict=True))
    for name, unit in zip(body.action_names, body.action_units, strict=True):
        assert f"{told[f'{name}_torque']:g} {units[f'{name}_torque']}" == unit


def test_the_camera_is_vlm_rm_s() -> None:
    camera = load_task("humanoid/lotus").cameras["judge"]
    right, up = np.array(camera.xyaxes[:3]), np.array(camera.xyaxes[3:])
    forward = np.cross(up, right)
    np.testing.assert_allclose(np.array(camera.position) + 3.5 * forward, [0, 0, 1], atol=1e-5)
    assert np.degrees(np.arcsin(forward[2])) == pytest.approx(-10, abs=1e-4)
    assert np.degrees(np.arctan2(forward[1], forward[0])) == pytest.approx(180)
    assert (camera.height, camera.width) == (480, 480)


# Goal poses


def test_there_are_vlm_rm_s_eight_goals_with_its_words(goals: Mapping[str, Ranges]) -> None:
    assert tuple(goals) == GOALS
    for goal in GOALS:
        task = load_task(f"humanoid_{goal}")
        assert task.name == f"humanoid/{goal}"
        assert task.caption.startswith("a humanoid robot ")
        assert task.baseline == "a humanoid robot"
        assert (task.horizon, task.resets.fixed) == (100, False)


def test_no_goal_holds_at_reset(body: "SimEnv", goals: Mapping[str, Ranges]) -> None:
    for seed in range(20):
        body.reset(seed=seed)
        assert _shown(body, goals) == set()


def test_each_reference_pose_shows_its_goals_and_no_other(
    body: "SimEnv", poses: list[ReferencePose], goals: Mapping[str, Ranges]
) -> None:
    for pose in poses:
        pose.strike(body.model, body.data)
        assert _shown(body, goals) == set(pose.goals), pose.name
        assert ("standing" in pose.goals) >= bool(STANDING_TOO & set(pose.goals))


def test_every_goal_is_shown_in_several_ways_and_many_poses_show_none(poses: list[ReferencePose]) -> None:
    shown = [goal for pose in poses for goal in pose.goals]
    assert {goal for goal in GOALS if shown.count(goal) >= 4} == set(GOALS)
    assert sum(not pose.goals for pose in poses) >= 10
    assert len({pose.name for pose in poses}) == len(poses)


def test_goals_are_stable_under_small_noise(
    body: "SimEnv", poses: list[ReferencePose], goals: Mapping[str, Ranges]
) -> None:
    generator = np.random.default_rng(0)
    for pose in poses:
        for _ in range(5):
            joints = {j: body.model.joint(j).qposadr[0] for j in body.action_names}
            near = {j: pose.joints.get(j, 0.0) + generator.uniform(-0.02, 0.02) for j in joints}
            trunk = tuple(angle + generator.uniform(-0.02, 0.02) for angle in pose.trunk)
            replace(pose, joints=near, trunk=trunk).strike(body.model, body.data)
            assert _shown(body, goals) == set(pose.goals), pose.name


def test_reference_poses_lie_on_the_floor_and_not_within_themselves(body: "SimEnv", poses: list[ReferencePose]) -> None:
    for pose in poses:
        pose.strike(body.model, body.data)
        depth = [-float(contact.dist) for contact in body.data.contact]
        on_floor = [d for c, d in zip(body.data.contact, depth, strict=True) if 0 in c.geom]
        assert on_floor, f"{pose.name} hovers"
        assert max(on_floor) < 1e-6, f"{pose.name} is in the floor"
        assert max(depth) < 0.0065, f"{pose.name} is {max(depth):.3f} m within itself"


def test_quantities_of_the_straight_pose_are_those_of_the_model_s_lengths(body: "SimEnv") -> None:
    ReferencePose("straight", (), {}, (0.0, 0.0, 0.0)).strike(body.model, body.data)
    found = _quantities(body)
    # Sole to hip joint: foot radius 0.075, shin 0.35, thigh 0.403; the seat's centre is 0.04 above, its radius 0.09.
    assert found["seat_clearance"] == pytest.approx(0.075 + 0.35 + 0.403 + 0.04 - 0.09, abs=2e-3)
    assert found["knee_clearance_low"] == pytest.approx(0.075 + 0.35 - 0.049, abs=1e-3)
    assert found["feet_apart"] == pytest.approx(found["knees_apart"])
    assert found["feet_apart"] == pytest.approx(2 * (0.1 - 0.01), abs=1e-3)
    assert found["elbows_out"] == pytest.approx(0.17 + 0.18)
    assert found["hands_over_head"] == pytest.approx(0.06 - 0.18 + 0.18 - 0.19)
    assert (found["trunk_tilt"], found["knee_bend_high"], found["foot_clearance_high"]) == pytest.approx((0, 0, 0))


def test_quantities_do_not_change_with_place_and_heading(body: "SimEnv", poses: list[ReferencePose]) -> None:
    for pose in poses[::6]:
        pose.strike(body.model, body.data)
        before = _quantities(body)
        replace(pose, trunk=(*pose.trunk[:2], pose.trunk[2] + 2.0)).strike(body.model, body.data)
        body.data.qpos[:2] += 3
        mujoco.mj_kinematics(body.model, body.data)
        assert _quantities(body) == pytest.approx(before, abs=1e-9)


def test_a_mirrored_pose_shows_the_same(body: "SimEnv", poses: list[ReferencePose]) -> None:
    for pose in poses[::3]:
        pose.strike(body.model, body.data)
        before = _quantities(body)
        _mirrored(pose).strike(body.model, body.data)
        after = _quantities(body)
        assert after == pytest.approx(before, abs=2e-3), pose.name


def _mirrored(pose: ReferencePose) -> ReferencePose:
    turned: dict[str, float] = {}
    for joint, angle in pose.joints.items():
        side, _, kind = joint.partition("_")
        if side in ("left", "right"):
            other = "left" if side == "right" else "right"
            turned[f"{other}_{kind}"] = -angle if kind.startswith("shoulder") else angle
        else:
            turned[joint] = -angle if joint in ("abdomen_x", "abdomen_z") else angle
    roll, pitch, yaw = pose.trunk
    return replace(pose, joints=turned, trunk=(-roll, pitch, -yaw))


# Reward, success and progress


def test_the_reward_is_the_goal_s_indicator_and_success_needs_half_an_episode() -> None:
    task = load_task("humanoid/standing")
    always = replace(task, physics=replace(task.physics, options={"pose": {"trunk_tilt": [0, 3.2]}}))
    env = make(always)
    env.reset(seed=0)
    steps = [env.step(action) for action in _random_actions(60)]
    assert {reward for _, reward, *_ in steps} == {1.0}
    assert [step[4]["success"] for step in steps] == [False] * 49 + [True] * 11
    env.close()


def test_progress_is_the_share_of_the_pose_that_is_there(body: "SimEnv", poses: list[ReferencePose]) -> None:
    found: dict[str, float] = {}
    for pose in poses:
        body.reset(seed=0)
        pose.strike(body.model, body.data)
        _, reward, _, _, info = body.step(np.zeros(17, np.float32))
        assert reward == info["signals"]["pose"] == float("kneeling" in pose.goals)
        found[pose.name] = info["progress"]
    assert {name for name, progress in found.items() if progress == 1} == {
        pose.name for pose in poses if "kneeling" in pose.goals
    }
    assert found["half_way_down"] > found["standing_at_ease"]


def test_nearness_falls_with_every_quantity_that_is_off() -> None:
    pose = {"trunk_tilt": (0.0, 0.5), "knees_apart": (0.4, 0.8)}
    assert nearness({"trunk_tilt": 0.5, "knees_apart": 0.4}, pose) == 1
    assert nearness({"trunk_tilt": 0.75, "knees_apart": 0.4}, pose) == pytest.approx((0.5 + 1) / 2)
    assert nearness({"trunk_tilt": 2.0, "knees_apart": 0.3}, pose) == pytest.approx((0 + 0.8) / 2)


def test_the_documentation_s_further_pose_is_a_task(
    body: "SimEnv", poses: list[ReferencePose], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = (root / "docs" / "humanoid.md").read_text(encoding="utf-8")
    path = tmp_path / "tasks" / "humanoid" / "bow.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(pages.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_task("humanoid_bow").baseline == "a humanoid robot"
    own = goal_poses("humanoid")["bow"]
    shown = set()
    for pose in poses:
        pose.strike(body.model, body.data)
        if holds(_quantities(body), own):
            shown.add(pose.name)
    assert shown == {"bowing"}


def test_there_is_no_expert_and_that_is_said() -> None:
    with pytest.raises(ConfigError, match=r"'humanoid/lotus' has no scripted expert.*vlmrl task poses"):
        expert(load_task("humanoid_lotus"))


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"physics.options.pose: \[low, high\] of quantities wanted, found None; have: trunk_tilt, "),
        ({"pose": {"tilt": [0, 1]}}, r"unknown quantity 'tilt'; have: .*trunk_tilt"),
        ({"pose": {"trunk_tilt": [1, 0]}}, r"trunk_tilt: \[low, high\] wanted, found \[1, 0\]"),
        ({"pose": {"trunk_tilt": 1}}, r"trunk_tilt: \[low, high\] wanted, found 1"),
        ({"pose": {"trunk_tilt": [0, 1]}, "gravity": 0}, r"unknown physics option 'gravity'; have: pose"),
    ],
)
def test_a_wrong_goal_pose_is_told(options: Mapping[str, object], message: str) -> None:
    task = load_task("humanoid/lotus")
    with pytest.raises(ConfigError, match=message):
        make(replace(task, physics=replace(task.physics, options=options)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"names of poses wanted, found \[\]"),
        ("bow: {joints: {}}", r"bow: a mapping with 'goals' \(a list\) wanted"),
        ("bow: {goals: [], jonts: {}}", r"bow: unknown key 'jonts'; have: goals, joints, pitch"),
        ("bow: {goals: [], joints: {ankle: 1}}", r"bow: unknown joint 'ankle'; have: .*knee"),
        ("bow: {goals: [], joints: {knee: bent}}", r"bow: knee: an angle in radians wanted, found 'bent'"),
        ("bow: {goals: [], joints: {knee: 1}}", r"bow: right_knee is 1 rad; the model's range is -2.793 to -0.035"),
    ],
)
def test_a_wrong_reference_pose_is_told(
    body: "SimEnv", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    path = tmp_path / "tasks" / "humanoid" / FILE
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        reference_poses("humanoid", body.model)


def test_a_group_without_poses_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no group of tasks 'cartpole'; have: .*humanoid"):
        write("cartpole", Config(out=str(tmp_path / "poses")))


# A store of poses


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write("humanoid", Config(out=str(tmp_path_factory.mktemp("poses") / "store"), side=48))


def test_the_store_knows_what_each_pose_shows(store: Store, poses: list[ReferencePose]) -> None:
    assert list(store.episodes.id) == [pose.name for pose in poses]
    for goal in GOALS:
        shown = store.column(f"truth/{goal}").reshape(-1, 2)
        np.testing.assert_array_equal(shown[:, 0], [goal in pose.goals for pose in poses])
        np.testing.assert_array_equal(shown[:, 1], shown[:, 0])
    lotus = store.episode("lotus").images["judge"].pixels
    assert lotus.shape == (2, 48, 48, 3)
    assert (lotus[0] != store.episode("standing_at_ease").images["judge"].pixels[0]).mean() > 0.05
    assert store.validate() == []


def test_poses_are_scored_and_held_against_every_goal(store: Store, tmp_path: Path) -> None:
    tiny_clip = pytest.importorskip("tiny_clip")
    checkpoint = tiny_clip.build("clip", tmp_path / "clip")
    rewarder = clip.build(clip.Config(str(checkpoint), camera="judge", goals=("a robot",), device="cpu"))
    relabel(store, rewarder, "tiny")
    for goal in ("kneeling", "standing"):
        quality = measure(store, "tiny", truth=goal, logits=False)
        assert quality.rows == quality.episodes == len(store.episodes)
        distance = quality.figure("epic")
        assert distance is not None
        assert 0 < distance.value.low < distance.value.estimate < distance.value.high < 1
    # The goal's own indicator is at distance 0, and its opposite at 1.
    for sign, wanted in ((1, 0.0), (-1, 1.0)):
        shown = store.column("truth/lotus")
        mean = np.where(store.column("has_next"), sign * np.roll(shown, -1), np.nan).astype(np.float32)
        store.add_reward(f"own{sign}", mean, np.where(np.isnan(mean), np.nan, 0).astype(np.float32), {"rewarder": "x"})
        distance = measure(store, f"own{sign}", truth="lotus", logits=False).figure("epic")
        assert distance is not None
        assert distance.value.estimate == pytest.approx(wanted, abs=1e-3)


def test_task_names_do_not_list_poses() -> None:
    assert not [name for name in task_names() if "reference" in name or name == "humanoid"]
