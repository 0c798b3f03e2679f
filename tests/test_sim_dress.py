"""Assisted dressing: what counts as dressed, how strong it may be, what a seed draws, and what the camera sees."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from vlmrl.errors import ConfigError
from vlmrl.sim import expert, load_task, make
from vlmrl.sim.dynamics import Diverged
from vlmrl.sim.task import Task

if TYPE_CHECKING:
    from vlmrl.sim.env import SimEnv

ARM = np.array([[0.0, 0, 0], [0.4, 0, 0], [0.7, 0, 0.1]])
STILL = np.zeros(3, np.float32)


def _task(**options: Any) -> Task:
    task = load_task("dress_arm")
    return replace(task, physics=replace(task.physics, options={**task.physics.options, **options}))


def _dressed(env: "SimEnv", steps: int, *, seed: int = 2) -> dict[str, Any]:
    """Let the scripted expert pull; return the last info, with all rewards and forces."""
    policy = expert(env.task)
    observation, info = env.reset(seed=seed)
    rewards, forces = [], []
    for _ in range(steps):
        observation, reward, _, _, info = env.step(policy.action(observation))
        rewards.append(reward)
        forces.append(info["signals"]["force_n"])
    return info | {"observation": observation, "rewards": rewards, "forces": forces}


@pytest.fixture
def env() -> Iterator["SimEnv"]:
    env = make(load_task("dress_arm"))
    yield env
    env.close()


@pytest.fixture(scope="module")
def seen() -> Iterator[tuple["SimEnv", dict[str, Any], dict[str, Any]]]:
    """An environment with a cloud; its first observation, and the info of a sleeve that is on the arm."""
    env = make(_task(cloud_points=256))
    first = env.reset(seed=2)[0]
    yield env, first, _dressed(env, 75)
    env.close()


# Geometry


def _ring(centre: tuple[float, ...], *, radius_m: float = 0.08, turned: bool = False) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = np.stack([0.3 * radius_m * np.sin(2 * turn), np.cos(turn) * radius_m, np.sin(turn) * radius_m], axis=1)
    return (ring[::-1] if turned else ring) + centre


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("centre", "length_m"),
    [
        ((0.1, 0.02, -0.03), 0.1),
        ((0.3, 0, 0), 0.3),
        ((0.55, 0, 0.05), 0.4 + 0.5 * np.hypot(0.3, 0.1)),
        ((-0.1, 0, 0), -1),
        ((0.3, 0.1, 0), -1),
        ((0.3, 0, -0.09), -1),
    ],
)
def test_a_bent_rim_is_around_the_arm_where_the_arm_s_axis_passes_through_it(
    centre: tuple[float, ...], length_m: float, turned: bool
) -> None:
    from vlmrl.sim.tasks.dress_geometry import passes_at

    assert passes_at(_ring(centre, turned=turned), ARM) == pytest.approx(length_m, abs=0.03)


def test_a_rim_behind_the_shoulder_is_past_the_whole_arm() -> None:
    from vlmrl.sim.tasks.dress_geometry import passes_at

    whole = 0.4 + np.hypot(0.3, 0.1)
    assert passes_at(_ring((0.8, 0, 0.13)), ARM) == pytest.approx(whole + 0.1, abs=0.03)


# Dressing


def test_the_expert_dresses_the_arm_without_force_and_the_state_restores(env: "SimEnv") -> None:
    info = _dressed(env, 80)
    assert info["success"]
    assert info["progress"] == 1
    signals = info["signals"]
    assert signals["enclosed"] == 1
    assert 0 < max(info["forces"]) == signals["force_peak_n"] < 5
    state = env.sim_state()
    onward = [env.step(a)[0]["state"] for a in np.eye(3, dtype=np.float32)]
    env.reset(seed=3)
    env.set_sim_state(state)
    assert env._info()["signals"] == signals
    np.testing.assert_array_equal([env.step(a)[0]["state"] for a in np.eye(3, dtype=np.float32)], onward)


def test_the_reward_is_the_dressed_ratio_minus_force_in_units_of_its_limit(env: "SimEnv") -> None:
    _dressed(env, 40)
    _, reward, _, _, info = env.step(STILL)
    signals = info["signals"]
    assert reward == pytest.approx(signals["dressed_ratio"] - signals["force_n"] / 15)
    assert 0.3 < reward < 0.8


def test_a_sleeve_pulled_along_beside_the_arm_is_worth_nothing() -> None:
    env = make(_task(path="beside"))
    info = _dressed(env, 80)
    shoulder, rim = info["observation"]["state"].reshape(5, 3)[3:]
    assert np.linalg.norm(rim - shoulder) < 0.3
    assert (info["progress"], info["success"], info["signals"]["dressed_ratio"]) == (0, False, 0)
    env.close()


def test_force_is_what_mujoco_says(env: "SimEnv") -> None:
    import mujoco

    from vlmrl.sim.tasks.dress import contact_force

    assert contact_force(env.data) == 0
    _dressed(env, 30)
    force = np.zeros(6)
    total = 0.0
    mujoco.mj_step(env.model, env.data)
    assert env.data.ncon > 5
    for i in range(env.data.ncon):
        mujoco.mj_contactForce(env.model, env.data, i, force)
        total += float(np.linalg.norm(force[:3]))
    assert total > 0.1
    assert contact_force(env.data) == pytest.approx(total)


def test_at_the_force_limit_the_gripper_stops_for_good_and_success_is_lost() -> None:
    env = make(_task(force_limit_n=0.6))
    info = _dressed(env, 80)
    signals = info["signals"]
    assert (signals["stopped"], signals["dressed_safely"], info["success"]) == (1, 0, False)
    assert signals["force_peak_n"] > 0.6
    gripper = info["observation"]["state"][:3]
    state = env.sim_state()
    observation, reward, *_ = env.step(np.ones(3, np.float32))
    np.testing.assert_array_equal(observation["state"][:3], gripper)
    assert reward <= 0
    env.reset(seed=0)
    assert env.step(np.ones(3, np.float32))[4]["signals"]["stopped"] == 0
    env.set_sim_state(state)
    assert env.step(np.ones(3, np.float32))[4]["signals"]["stopped"] == 1
    env.close()


def test_the_gripper_goes_no_farther_than_its_reach_and_not_behind_the_shoulder(env: "SimEnv") -> None:
    before = env.reset(seed=0)[0]["state"][:3]
    after = env.step(np.array([-1, -1, -1], np.float32))[0]["state"][:3]
    np.testing.assert_allclose(after - before, -0.0125 / np.sqrt(3), rtol=1e-4)
    env.data.mocap_pos[env.model.body("gripper").mocapid[0], 0] = 0.015
    assert env.step(np.array([1, 0, 0], np.float32))[0]["state"][0] == pytest.approx(0.02)


# Guards


def test_cloth_that_passes_through_the_arm_is_diverged(env: "SimEnv") -> None:
    assert _dressed(env, 40)["signals"]["dressed_ratio"] > 0.3
    env.data.mocap_pos[env.model.body("gripper").mocapid[0], 1] -= 0.3
    env.data.qpos.reshape(-1, 3)[:, 1] -= 0.3
    with pytest.raises(Diverged, match=r"passed through the arm 0\.\d+ m from the fingertips"):
        env._dynamics.step(STILL)


def test_cloth_faster_or_longer_than_cloth_is_diverged(env: "SimEnv") -> None:
    env.reset(seed=0)
    state = env.sim_state()
    env.data.qvel[:] = 100
    *_, truncated, info = env.step(STILL)
    assert (truncated, info["diverged"], info["success"]) == (True, True, False)
    env.set_sim_state(state)
    env.data.qpos.reshape(-1, 3)[100] += 1
    with pytest.raises(Diverged, match=r"stretched|at .* m/s"):
        env._dynamics.step(STILL)


# Who, what and how


def test_one_model_takes_another_member_s_numbers_exactly() -> None:
    import copy

    import mujoco

    from vlmrl.sim.tasks.dress_bank import GARMENTS, PEOPLE, load
    from vlmrl.sim.tasks.dress_scene import scene

    members = [scene(who, what) for who in PEOPLE.values() for what in GARMENTS.values()]
    models = [mujoco.MjModel.from_xml_string(member) for member in members]
    sizes = {m.geom_size.tobytes() + m.flexedge_length0.tobytes() + m.flex_rgba.tobytes() for m in models}
    assert len(sizes) == len(PEOPLE) * len(GARMENTS)
    one = copy.copy(models[0])
    for other in (models[-1], models[5]):
        load(one, other)
        ours, theirs = mujoco.MjData(one), mujoco.MjData(other)
        for data, model in ((ours, one), (theirs, other)):
            mujoco.mj_step(model, data, 20)
        np.testing.assert_array_equal(ours.qpos, theirs.qpos)
        assert np.abs(ours.qvel).max() > 0.1


def test_seeds_draw_everybody_within_the_ranges_and_touch_nobody(env: "SimEnv") -> None:
    import mujoco

    members, ranges = set(), env.task.resets.ranges
    for seed in range(50):
        state = env.reset(seed=seed)[0]["state"].astype(float)
        members.add(tuple(env._dynamics.memory()[:2]))
        _, fingertips, elbow, shoulder, _ = state.reshape(5, 3)
        slope, bend, yaw = _angles(fingertips, elbow, shoulder)
        drawn = {"shoulder_height": shoulder[2], "upper_arm_slope": slope, "elbow": bend, "upper_arm_yaw": yaw}
        for name, value in drawn.items():
            assert ranges[name][0] - 1e-4 <= value <= ranges[name][1] + 1e-4, name
        mujoco.mj_forward(env.model, env.data)
        assert env.data.ncon == 0
        assert env._info()["signals"]["enclosed"] == 0
    assert len(members) == 12


def _angles(fingertips: np.ndarray, elbow: np.ndarray, shoulder: np.ndarray) -> tuple[float, float, float]:
    upper, lower = elbow - shoulder, fingertips - elbow
    slope, slope_below = (np.arcsin(-limb[2] / np.linalg.norm(limb)) for limb in (upper, lower))
    return slope, slope - slope_below, float(np.arctan2(-upper[1], -upper[0]))


def test_held_out_people_garments_and_poses_are_never_drawn_in_training() -> None:
    train, held_out = load_task("dress_arm"), load_task("dress_arm_held_out")
    for what in ("people", "garments"):
        assert not set(train.physics.options[what]) & set(held_out.physics.options[what])
    for name in ("shoulder_height", "upper_arm_slope", "upper_arm_yaw", "elbow", "elbow_yaw"):
        (low, high), (other_low, other_high) = train.resets.ranges[name], held_out.resets.ranges[name]
        assert high <= other_low or other_high <= low
    assert (train.success, train.hold, train.cameras) == (held_out.success, held_out.hold, held_out.cameras)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"people": ["giant"]}, "unknown person 'giant'; have: broad, medium"),
        ({"garments": ["toga"]}, "unknown garment 'toga'; have: green_jacket"),
        ({"path": "zigzag"}, "unknown path 'zigzag'; have: along, beside, level, straight"),
        ({"people": []}, "people and garments wanted"),
        ({"force_limit_n": 0}, "force_limit_n above 0"),
        ({"cloud_points": 1.5}, "int wanted, found 1.5"),
        ({"cloud_points": 9, "cloud_camera": "lidar"}, "unknown camera 'lidar'; have: depth, judge, video"),
        ({"limit": 3}, "unknown key 'limit'"),
    ],
)
def test_wrong_options_are_refused(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(_task(**options))


def test_ranges_are_exactly_those_that_the_family_draws() -> None:
    task = load_task("dress_arm")
    for ranges, message in (
        ({"knee": (0.0, 1.0)}, "unknown range 'knee'"),
        ({"elbow": (1.0, 0.0)}, r"elbow: \[low, high\] wanted, found \[1.0, 0.0\]"),
    ):
        given = replace(task.resets, ranges={**task.resets.ranges, **ranges})
        with pytest.raises(ConfigError, match=message):
            make(replace(task, resets=given))
    with pytest.raises(ConfigError, match="missing shoulder_height"):
        make(replace(task, resets=replace(task.resets, ranges={})))


# What the camera sees

Seen = tuple["SimEnv", dict[str, Any], dict[str, Any]]


def test_the_cloud_is_off_unless_the_task_asks_for_it(env: "SimEnv", seen: Seen) -> None:
    assert set(env.observation_space) == {"state"}
    assert seen[0].observation_space["cloud"].shape == (256, 6)
    assert seen[0].observation_space.contains(seen[1])


def test_points_lie_on_what_their_segment_says(seen: Seen) -> None:
    env, _, worn = seen
    for observation in (worn["observation"],):
        cloud, joints = observation["cloud"].astype(float), observation["state"].astype(float).reshape(5, 3)
        np.testing.assert_array_equal(cloud[:, 3:].sum(axis=1), 1)
        np.testing.assert_array_equal(cloud[0], [*joints[0], 0, 0, 1])
        arm, garment = cloud[cloud[:, 3] == 1, :3], cloud[cloud[:, 4] == 1, :3]
        assert min(len(arm), len(garment)) > 30
        assert max(_from_line(p, joints[1:4]) for p in arm) < 0.058
        assert max(_from_line(p, joints[1:4]) for p in arm) > 0.03
        nearest = np.linalg.norm(garment[:, None] - env.data.flexvert_xpos, axis=2).min(axis=1)
        assert nearest.max() < 0.035


def _from_line(point: np.ndarray, line: np.ndarray) -> float:
    begin, step = line[:-1], np.diff(line, axis=0)
    along = np.clip(((point - begin) * step).sum(axis=1) / (step**2).sum(axis=1), 0, 1)
    return float(np.linalg.norm(point - begin - along[:, None] * step, axis=1).min())


def test_what_the_sleeve_hides_has_no_points(seen: Seen) -> None:
    shares = []
    for observation in (seen[1], seen[2]["observation"]):
        cloud, (elbow, shoulder) = observation["cloud"], observation["state"].reshape(5, 3)[2:4]
        along = (cloud[:, :3] - elbow) @ (shoulder - elbow) / ((shoulder - elbow) ** 2).sum()
        middle = (along > 0.3) & (along < 0.7)
        shares.append([int((middle & (cloud[:, k] == 1)).sum()) for k in (3, 4)])
    (bare, nothing), (hidden, cloth) = shares
    assert bare > 20
    assert nothing == 0
    assert hidden == 0
    assert cloth > 20


def test_a_point_is_where_its_pixel_shows_it(seen: Seen) -> None:
    import mujoco

    env = seen[0]
    camera = replace(env.task.cameras["depth"], robot=False, height=40, width=60)
    cropped = replace(camera, crop=(0.25, 0.25, 0.75, 0.75), height=20, width=30)
    views = {"judge": camera, "video": camera, "flipped": replace(camera, flip=True), "cropped": cropped}
    other = make(replace(load_task("dress_arm"), cameras=views))
    other.set_sim_state(env.sim_state())
    points, objects = other._renderer.surface(other.data, "judge")
    floor = (objects == [int(mujoco.mjtObj.mjOBJ_GEOM), other.model.geom("floor").id]).all(axis=2)
    assert floor.sum() > 200
    np.testing.assert_allclose(points[floor][:, 2], 0, atol=0.01)
    for name, part in (("flipped", points[::-1]), ("cropped", points[10:30, 15:45])):
        np.testing.assert_allclose(other._renderer.surface(other.data, name)[0], part, atol=0.02)
    other.close()


def test_the_whole_sleeve_is_in_the_picture_wherever_a_reset_puts_it(env: "SimEnv") -> None:
    import mujoco

    for seed in range(12):
        env.reset(seed=seed)
        for camera in ("judge", "depth"):
            cloth = env._renderer.surface(env.data, camera)[1][..., 0] == int(mujoco.mjtObj.mjOBJ_FLEX)
            assert cloth.mean() > 0.01
            assert not np.concatenate([cloth[0], cloth[-1], cloth[:, 0], cloth[:, -1]]).any()


def test_the_judge_sees_no_gripper_and_people_do(env: "SimEnv") -> None:
    env.reset(seed=0)
    before = {c: env.frame(c).astype(int) for c in ("judge", "video")}
    env.data.mocap_pos[env.model.body("gripper").mocapid[0], 0] -= 0.2
    import mujoco

    mujoco.mj_forward(env.model, env.data)
    np.testing.assert_array_equal(env.frame("judge"), before["judge"])
    assert (env.frame("video") != before["video"]).any()


@pytest.mark.slow
def test_worse_paths_need_more_force_or_reach_less_far() -> None:
    scores = {}
    for path in ("along", "straight", "level"):
        env = make(_task(path=path))
        told = [_dressed(env, 90, seed=seed) for seed in range(4)]
        scores[path] = np.mean([sum(t["rewards"]) for t in told])
        env.close()
    assert scores["along"] > scores["straight"] > scores["level"]


@pytest.mark.slow
def test_hard_pulls_stop_at_the_limit_and_never_diverge(env: "SimEnv") -> None:
    stopped = 0
    for seed in range(12):
        generator = np.random.default_rng([seed, 1])
        pull = generator.normal(size=3)
        info = _dressed(env, 35, seed=seed)
        for _ in range(50):
            *_, info = env.step((pull / np.linalg.norm(pull)).astype(np.float32))
            assert not info["diverged"]
        stopped += int(info["signals"]["stopped"])
    assert stopped > 0
