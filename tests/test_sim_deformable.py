"""Rope, cloth and water: what success and reward mean, what the state says, and that failed physics is told."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import mujoco
import numpy as np
import pytest

from vlmrl.errors import ConfigError
from vlmrl.sim import expert, load_task, make
from vlmrl.sim.dynamics import Diverged
from vlmrl.sim.soft import check_speed, check_warnings
from vlmrl.sim.tasks import cloth as cloths
from vlmrl.sim.tasks import rope as ropes
from vlmrl.sim.tasks import water as waters

if TYPE_CHECKING:
    from vlmrl.sim.env import SimEnv


@pytest.fixture(scope="module")
def rope() -> Iterator["SimEnv"]:
    yield from _environment("straighten_rope")


@pytest.fixture(scope="module")
def cloth() -> Iterator["SimEnv"]:
    yield from _environment("fold_cloth")


@pytest.fixture(scope="module")
def water() -> Iterator["SimEnv"]:
    yield from _environment("pass_water")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes its warnings to a file where it runs."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["rope", "cloth", "water"])
def env(request: pytest.FixtureRequest) -> "SimEnv":
    return request.getfixturevalue(request.param)


def _environment(name: str) -> Iterator["SimEnv"]:
    env = make(load_task(name))
    yield env
    env.close()


def _named(env: "SimEnv", observation: dict[str, np.ndarray]) -> dict[str, float]:
    return dict(zip(env.state_names, observation["state"].tolist(), strict=True))


# All three


def test_states_and_actions_have_names_and_units(env: "SimEnv") -> None:
    observation, info = env.reset(seed=0)
    assert len(set(env.state_names)) == len(env.state_names) == len(env.state_units) == len(observation["state"])
    assert len(env.action_names) == len(env.action_units)
    assert info["success"] is False
    assert not info["diverged"]


def test_reset_ranges_are_the_task_s(env: "SimEnv") -> None:
    name, (low, high) = next(iter(env.task.resets.ranges.items()))
    for wrong in ({"colour": (0.0, 1.0)}, {name: (high, low)}, {name: (low,)}):
        resets = replace(env.task.resets, ranges=wrong)
        with pytest.raises(ConfigError, match=rf"resets.ranges.\w+: \[low, high\] of one of .*{name}"):
            make(replace(env.task, resets=resets))


def test_the_picker_is_in_the_video_only(rope: "SimEnv", cloth: "SimEnv") -> None:
    for env in (rope, cloth):
        env.reset(seed=0)
        seen = [np.count_nonzero(_orange_or_red(env.frame(camera))) for camera in ("judge", "video")]
        assert seen[0] == 0
        assert seen[1] > 0


def _orange_or_red(picture: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    return (red > 2 * blue) & (red > 1.5 * green) & (red > 90)


def test_explosions_are_told(elsewhere: None) -> None:
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='1'/></body></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    check_speed(data, 10.0)
    check_warnings(data)
    for speed in (10.1, math.nan):
        data.qvel[2] = speed
        with pytest.raises(Diverged, match="a velocity of"):
            check_speed(data, 10.0)
    # MuJoCo puts the state back by itself, which then looks well.
    mujoco.mj_step(model, data)
    assert np.isfinite(data.qvel).all()
    with pytest.raises(Diverged, match="exploded"):
        check_warnings(data)


def test_a_diverged_episode_ends_without_success(env: "SimEnv", elsewhere: None) -> None:
    env.reset(seed=0)
    env.data.qvel[:] = 1e4
    _, reward, terminated, truncated, info = env.step(np.zeros(env.action_space.shape, np.float32))
    assert (reward, terminated, truncated, info["success"], info["diverged"]) == (0.0, False, True, False, True)


# Rope


def _lay_straight(env: "SimEnv", length: float) -> None:
    """Put a straight rope on the table, its pickers `length` apart."""
    env.data.qpos[:] = env.model.qpos0
    env.data.qpos[:3] = (-ropes.LENGTH / 2, 0.05, 0.009)
    env.data.qvel[:] = 0
    env.data.mocap_pos[:] = [(-ropes.LENGTH / 2, 0.05, 0.01), (-ropes.LENGTH / 2 + length, 0.05, 0.01)]
    mujoco.mj_forward(env.model, env.data)


def test_straight_rope_is_success_and_pays_its_length(rope: "SimEnv") -> None:
    rope.reset(seed=0)
    _lay_straight(rope, ropes.LENGTH)
    _, reward, _, _, info = rope.step(np.zeros(6, np.float32))
    assert reward == pytest.approx(0.5, abs=0.001)
    assert info["success"] is True
    assert info["progress"] == pytest.approx(1, abs=0.002)
    assert info["signals"]["sag"] < 0.005


@pytest.mark.parametrize(("distance", "success"), [(0.48, True), (0.468, False)])
def test_success_begins_at_95_percent_of_the_length(rope: "SimEnv", distance: float, success: bool) -> None:
    rope.reset(seed=0)
    _lay_straight(rope, ropes.LENGTH)
    for gap in np.arange(0.5, distance, -0.004):
        middle = np.array([0, 0.05, 0.01])
        rope.data.mocap_pos[:] = middle + np.outer([-1, 1], [gap / 2, 0, 0])
        told = rope.step(np.zeros(6, np.float32))[4]
    rope.data.mocap_pos[:] = middle + np.outer([-1, 1], [distance / 2, 0, 0])
    for _ in range(3):
        told = rope.step(np.zeros(6, np.float32))[4]
    assert told["signals"]["end_distance"] == pytest.approx(distance, abs=0.003)
    assert told["success"] is success


def test_straightened_rope_survives_small_movements(rope: "SimEnv") -> None:
    observation, _ = rope.reset(seed=4)
    policy = expert(rope.task)
    for _ in range(rope.task.horizon):
        observation, *_ = rope.step(policy.action(observation))
    generator = np.random.default_rng(0)
    for _ in range(10):
        assert rope.step(generator.uniform(-0.05, 0.05, 6).astype(np.float32))[4]["success"]


def test_rope_starts_as_drawn_and_its_key_points_are_its_own(rope: "SimEnv") -> None:
    low, high = rope.task.resets.ranges["end_distance"]
    for seed in range(20):
        observation, info = rope.reset(seed=seed)
        assert low - 0.01 < info["signals"]["end_distance"] < high + 0.01
        state = _named(rope, observation)
        points = observation["state"][:30].reshape(10, 3)
        assert np.linalg.norm(points[0] - points[9]) == pytest.approx(info["signals"]["end_distance"], abs=1e-5)
        assert (np.linalg.norm(np.diff(points, axis=0), axis=1) < ropes.LENGTH / 9 + 0.01).all()
        np.testing.assert_allclose([state["picker_tail_x"], state["picker_tail_y"]], points[9, :2], atol=0.005)
        assert np.abs(rope.data.qvel).max() < 1


def test_pickers_cannot_tear_the_rope_nor_leave_the_table(rope: "SimEnv") -> None:
    rope.reset(seed=1)
    apart = np.array([-1, -0.3, 1, 1, 0.3, 1], np.float32)
    for _ in range(60):
        info = rope.step(apart)[4]
        assert not info["diverged"]
    a, b = rope.data.mocap_pos
    assert np.linalg.norm(a - b) <= ropes.LENGTH + 1e-9
    assert info["signals"]["end_distance"] == pytest.approx(0.5, abs=0.01)
    for _ in range(60):
        rope.step(np.ones(6, np.float32))
    assert (rope.data.mocap_pos <= [0.325, 0.325, 0.12]).all()


def test_a_rope_that_slips_from_its_picker_has_diverged(rope: "SimEnv") -> None:
    rope.reset(seed=0)
    rope.data.eq_active[:] = 0
    rope.data.mocap_pos[0] += (0, 0, 0.1)
    with pytest.raises(Diverged, match="away from the picker"):
        rope._dynamics.step(np.zeros(6, np.float32))


# Cloth


def _put(env: "SimEnv", vertices: np.ndarray) -> None:
    env.data.qpos[:] += (vertices - env.data.flexvert_xpos.reshape(-1, 3)).ravel()
    env.data.qvel[:] = 0
    mujoco.mj_forward(env.model, env.data)


def _stay(env: "SimEnv") -> np.ndarray:
    """The action that puts the corner where it is."""
    corner = env.data.flexvert_xpos.reshape(-1, 3)[14, :2]
    return (corner / 0.22).astype(np.float32)


def test_folding_mirrors_the_upper_left_half_upon_the_other() -> None:
    x, y = np.meshgrid(np.linspace(-1, 1, 15), np.linspace(-1, 1, 15), indexing="ij")
    flat = np.stack([x, y, 0 * x], axis=2).reshape(-1, 3)
    # The mirror's line goes from the lower left to the upper right: (x, y) becomes (y, x) where y > x.
    wanted = np.where(flat[:, [1]] > flat[:, [0]], flat[:, [1, 0, 2]], flat)
    np.testing.assert_allclose(cloths.folded(flat), wanted)


def test_cloth_folded_by_hand_is_success_and_costs_nothing(cloth: "SimEnv") -> None:
    _, start = cloth.reset(seed=3)
    assert start["signals"]["folded"] == pytest.approx(0, abs=0.01)
    assert start["signals"]["corner"] == pytest.approx(0.3 * math.sqrt(2), abs=0.002)
    _put(cloth, cloths.folded(cloth.data.flexvert_xpos.reshape(-1, 3)))
    _, reward, terminated, truncated, info = cloth.step(_stay(cloth))
    assert reward == pytest.approx(0, abs=0.02)
    assert (info["success"], terminated, truncated) == (True, True, False)
    assert info["progress"] > 0.97


def test_cloth_reward_is_minus_ten_times_the_mean_distance(cloth: "SimEnv") -> None:
    cloth.reset(seed=3)
    reward = cloth.step(_stay(cloth))[1]
    # Of a flat cloth: vertex (i, j) above the diagonal is (j - i) cells of sqrt(2) * 0.3 / 14 m away; sum over 15 x 15.
    cells = sum(d * (15 - d) for d in range(1, 15))
    assert reward == pytest.approx(-10 * cells * math.sqrt(2) * 0.3 / 14 / 225, rel=0.01)


@pytest.mark.parametrize(("short_m", "success"), [(0.0, True), (0.01, True), (0.06, False)])
def test_cloth_success_is_stable_near_the_corner_and_false_far_from_it(
    cloth: "SimEnv", short_m: float, success: bool
) -> None:
    observation, _ = cloth.reset(seed=5)
    action = expert(cloth.task).action(observation)
    angle = -math.pi / 4 + cloth._dynamics.memory()[2]
    aside = short_m / 0.22 * np.array([math.cos(angle), math.sin(angle)], np.float32)
    assert cloth.step(action - aside)[4]["success"] is success


def test_picked_corner_is_the_picture_s_top_left(cloth: "SimEnv") -> None:
    for seed in range(5):
        observation, _ = cloth.reset(seed=seed)
        points = observation["state"][:108].reshape(6, 6, 3)
        state = _named(cloth, observation)
        np.testing.assert_allclose([state["picker_x"], state["picker_y"]], points[0, 5, :2], atol=1e-3)
        assert points[0, 5, 0] < -0.05
        assert points[0, 5, 1] > 0.05
        assert np.abs(points[:, :, :2]).max() < 0.62 * math.tan(math.radians(22.5))


def test_torn_cloth_has_diverged(cloth: "SimEnv") -> None:
    cloth.reset(seed=0)
    vertices = cloth.data.flexvert_xpos.reshape(-1, 3).copy()
    vertices[112, 2] += 0.1
    _put(cloth, vertices)
    with pytest.raises(Diverged, match="an edge of the cloth is at"):
        cloth._dynamics._check()


def test_a_fold_shows_the_other_side(cloth: "SimEnv") -> None:
    observation, _ = cloth.reset(seed=0)
    before = cloth.frame()
    cloth.step(expert(cloth.task).action(observation))
    sides = [[_share(picture, side) for side in ("blue", "yellow")] for picture in (before, cloth.frame())]
    assert sides[0][0] == pytest.approx((0.3 / 0.5136) ** 2, rel=0.05)
    assert sides[0][1] == 0
    assert sides[1][1] == pytest.approx(sides[0][0] / 2, rel=0.1)
    assert sides[1][0] < 0.02


def _share(picture: np.ndarray, side: str) -> float:
    red, _, blue = np.moveaxis(picture.astype(int), -1, 0)
    return float(np.mean(blue > 2 * red if side == "blue" else red > 2 * blue))


# Water


def _spill(env: "SimEnv", balls: int) -> None:
    """Put balls on the table far from the container."""
    places = env.data.qpos[1:].reshape(-1, 3)
    places[:balls] = np.column_stack([np.linspace(-0.5, 1, balls), np.full(balls, 0.4), np.full(balls, 0.012)])
    env.data.qvel[:] = 0
    mujoco.mj_forward(env.model, env.data)


def _bring(env: "SimEnv", x: float) -> None:
    """Put the container and its water at x."""
    move = x - env.data.qpos[0]
    env.data.qpos[0] = env.data.ctrl[0] = x
    env.data.qpos[1::3] += move
    mujoco.mj_forward(env.model, env.data)


@pytest.mark.parametrize(
    ("away", "spilled", "success"), [(0, 0, True), (0.17, 0, True), (0.19, 0, False), (0, 4, True), (0, 5, False)]
)
def test_water_reward_weighs_distance_and_spilling(water: "SimEnv", away: float, spilled: int, success: bool) -> None:
    water.reset(seed=2)
    _bring(water, water.data.mocap_pos[0, 0] - away)
    _spill(water, spilled)
    _, reward, _, _, info = water.step(np.zeros(1, np.float32))
    assert reward == pytest.approx(-10 * spilled / 120 - 2 * away, abs=0.004)
    assert info["success"] is success
    assert info["signals"]["spilled"] == pytest.approx(spilled / 120)


def test_water_starts_inside_and_still(water: "SimEnv") -> None:
    for seed in range(3):
        observation, info = water.reset(seed=seed)
        state = _named(water, observation)
        assert (state["inside"], state["spilled"], info["signals"]["spilled"]) == (1, 0, 0)
        assert 0.5 <= state["goal_x"] <= 0.7
        assert 0.04 < state["water_height"] < 0.12
        assert np.abs(water.data.qvel).max() < 0.2


def test_the_faster_the_container_the_more_is_spilled(water: "SimEnv") -> None:
    spilled = []
    for speed in (0.5, 1.0):
        observation, _ = water.reset(seed=0)
        for _ in range(30):
            x, _, goal = observation["state"][:3]
            way = np.clip((goal - x) / 0.05, -speed, speed)
            observation, _, _, _, info = water.step(np.array([way], np.float32))
        spilled.append(info["signals"]["spilled"])
    assert 0 < spilled[0] < 0.1 < spilled[1]


def test_container_goes_where_it_is_sent_and_no_farther_than_its_rail(water: "SimEnv") -> None:
    water.reset(seed=0)
    start = water.data.qpos[0]
    observation, *_ = water.step(np.array([0.5], np.float32))
    assert start < observation["state"][0] < start + 0.025
    for _ in range(3):
        observation, *_ = water.step(np.zeros(1, np.float32))
    assert observation["state"][0] == pytest.approx(start + 0.025, abs=0.001)
    for _ in range(30):
        observation, *_ = water.step(np.array([1], np.float32))
    assert observation["state"][0] == pytest.approx(waters._HIGH, abs=0.005)


# Slow


@pytest.mark.slow
@pytest.mark.parametrize("name", ["straighten_rope", "fold_cloth", "pass_water"])
def test_expert_succeeds_and_random_actions_do_not(name: str) -> None:
    for env in _environment(name):
        policy, generator = expert(env.task), np.random.default_rng(0)
        successes = np.zeros(2, int)
        for seed in range(20):
            for who in (0, 1):
                observation, info = env.reset(seed=seed)
                for _ in range(env.task.horizon):
                    draw = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
                    observation, _, _, _, info = env.step(draw if who else policy.action(observation))
                    assert not info["diverged"]
                successes[who] += info["success"]
        assert successes[0] == 20
        assert successes[1] <= 3


def test_resets_out_of_reach_are_told_instead_of_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    far = {"end_distance": (0.1, 0.3), "centre_x": (5.0, 5.0), "centre_y": (0.0, 0.0)}
    monkeypatch.setattr(ropes, "_TRIES", 50)
    with pytest.raises(ConfigError, match=r"within these resets in 50 tries: .*centre_x \[5.0, 5.0\]"):
        ropes._curve(generator, far)
    monkeypatch.setattr(waters, "_TRIES", 1)
    task = load_task("pass_water")
    moved = replace(task, resets=replace(task.resets, ranges={"start": (9.0, 9.0)}))
    with pytest.raises(ConfigError, match=r"from resets start \[9.0, 9.0\]"):
        waters.build(moved).reset(generator)
