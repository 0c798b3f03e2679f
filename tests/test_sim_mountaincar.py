"""The mountain car: Gymnasium's classic equations, an absorbing flag, and a picture in which both are to be seen."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import gymnasium
import numpy as np
import pytest

from vlmrl.errors import ConfigError
from vlmrl.sim import expert, load_task, make

if TYPE_CHECKING:
    from vlmrl.sim.env import SimEnv


@pytest.fixture
def car() -> Iterator["SimEnv"]:
    env = make(load_task("mountaincar"), image_size=(200, 300))
    env.reset(seed=0)
    yield env
    env.close()


def _put(env: "SimEnv", position: float, velocity: float) -> None:
    env._dynamics._put(position, velocity)  # type: ignore[attr-defined]


def test_steps_are_gymnasium_s_from_anywhere_before_the_flag(car: "SimEnv") -> None:
    theirs = gymnasium.make("MountainCarContinuous-v0").unwrapped
    theirs.reset(seed=0)
    generator = np.random.default_rng(0)
    ended = 0
    for _ in range(400):
        position, velocity = generator.uniform(-1.2, 0.449), generator.uniform(-0.07, 0.07)
        action = generator.uniform(-1, 1, 1).astype(np.float32)
        theirs.state = np.array([position, velocity])
        _put(car, position, velocity)
        wanted, reward, terminated, *_ = theirs.step(action)
        found, ours, _, _, info = car.step(action)
        assert ours == pytest.approx(reward, abs=1e-6)
        assert info["success"] == terminated
        ended += terminated
        if not terminated:
            np.testing.assert_allclose(found["state"], wanted, atol=1e-7)
    assert ended >= 3


def test_a_whole_episode_follows_gymnasium_s(car: "SimEnv") -> None:
    theirs = gymnasium.make("MountainCarContinuous-v0").unwrapped
    observation, _ = car.reset(seed=4)
    theirs.reset(seed=4)
    np.testing.assert_array_equal(observation["state"], theirs.state.astype(np.float32))
    policy = expert(car.task)
    for step in range(car.task.horizon):
        action = policy.action(observation)
        observation, _, _, _, info = car.step(action)
        wanted, _, terminated, *_ = theirs.step(action)
        assert info["success"] == terminated
        if terminated:
            assert 50 < step < 150
            return
        np.testing.assert_allclose(observation["state"], wanted, atol=2e-5)
    pytest.fail("the flag was not reached")


def test_the_flag_keeps_the_car_and_pays_for_every_step(car: "SimEnv") -> None:
    _put(car, 0.44, 0.05)
    for action in (1.0, -1.0, -1.0, 0.0):
        observation, reward, terminated, _, info = car.step(np.array([action], np.float32))
        np.testing.assert_allclose(observation["state"], [0.45, 0], atol=1e-7)
        assert reward == pytest.approx(100 - 0.1 * action**2)
        assert (terminated, info["success"], info["progress"]) == (False, True, 1.0)


def test_the_car_stands_on_the_mountain_along_its_slope(car: "SimEnv") -> None:
    for position in (-1.1, -0.5, 0.0, 0.4):
        _put(car, position, 0.0)
        x, height, pitch = car.data.qpos
        assert (x, height) == pytest.approx((position, math.sin(3 * position) * 0.45 + 0.55))
        ahead = car.data.body("car").xmat.reshape(3, 3)[:, 0]
        assert ahead[2] / ahead[0] == pytest.approx(1.35 * math.cos(3 * position))
        assert pitch == pytest.approx(-math.atan(1.35 * math.cos(3 * position)))


def test_without_a_run_up_the_car_stays_in_the_valley(car: "SimEnv") -> None:
    car.reset(seed=0)
    told = [car.step(np.ones(1, np.float32))[4] for _ in range(car.task.horizon)]
    assert not any(t["success"] for t in told)
    assert max(t["progress"] for t in told) < 0.5


def _where(picture: np.ndarray, red: range, green: range, blue: range) -> np.ndarray:
    inside = [(picture[..., k] >= r.start) & (picture[..., k] < r.stop) for k, r in enumerate((red, green, blue))]
    return np.argwhere(np.logical_and.reduce(inside))


def test_car_and_flag_are_in_the_picture_and_meet_at_the_goal(car: "SimEnv") -> None:
    flag = (range(240, 256), range(190, 230), range(0, 40))
    paint = (range(180, 256), range(0, 60), range(0, 60))
    columns = []
    for position in (-1.1, -0.5, 0.0, 0.45):
        _put(car, position, 0.0)
        picture = car.frame()
        seen = _where(picture, *paint)
        assert len(seen) > 60
        # 1.8 of the track on the picture's width, from -1.2 on; heights from 0 at the lower edge.
        height = math.sin(3 * position) * 0.45 + 0.55
        assert seen[:, 1].mean() / 300 * 1.8 - 1.2 == pytest.approx(position, abs=0.06)
        assert (200 - seen[:, 0].mean()) / 200 * 1.2 == pytest.approx(height + 0.04, abs=0.04)
        columns.append((seen[:, 1].mean(), _where(picture, *flag)[:, 1].mean()))
    away = [abs(own - cloth) for own, cloth in columns]
    assert away == sorted(away, reverse=True)
    assert away[-1] < 15


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"speed": (0.0, 1.0)}, r"unknown quantity 'speed'; have: position"),
        ({"position": (-0.4, -0.6)}, r"ranges.position: \[low, high\] from -1.2 to below 0.45 wanted"),
        ({"position": (-0.5, 0.45)}, r"found \[-0.5, 0.45\]"),
    ],
)
def test_wrong_starts_are_told(ranges: dict[str, tuple[float, ...]], message: str) -> None:
    task = load_task("mountaincar")
    with pytest.raises(ConfigError, match=message):
        make(replace(task, resets=replace(task.resets, ranges=ranges)))
