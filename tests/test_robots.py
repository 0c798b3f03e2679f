"""Robot entries: readable without hardware, their models as published, their home poses inside their limits."""

from pathlib import Path

import mujoco
import numpy as np
import pytest
from jaxtyping import Float64

from vlmrl.errors import ConfigError
from vlmrl.robot import load_robot, robot_names
from vlmrl.safety import SafetyChain
from vlmrl.safety.body import Body

UR5E = [(0.0, 0.1625, 1), (-0.425, 0.0, 0), (-0.3922, 0.0, 0), (0.0, 0.1333, 1), (0.0, 0.0997, -1), (0.0, 0.0996, 0)]
"""Universal Robots' a (m), d (m) and alpha (quarter turns) of each joint."""


def flange(angles: Float64[np.ndarray, " 6"]) -> Float64[np.ndarray, " 3"]:
    """Where the flange is, by the product of Denavit-Hartenberg matrices."""
    place = np.eye(4)
    for angle, (a, d, quarter) in zip(angles, UR5E, strict=True):
        c, s, ca, sa = np.cos(angle), np.sin(angle), float(quarter == 0), float(quarter)
        link = [[c, -s * ca, s * sa, a * c], [s, c * ca, -c * sa, a * s], [0, sa, ca, d], [0, 0, 0, 1]]
        place = place @ np.array(link)
    return place[:3, 3]


def test_the_six_axis_arm_has_the_published_kinematics() -> None:
    body, generator = Body(load_robot("ur5e")), np.random.default_rng(0)
    for _ in range(20):
        angles = generator.uniform(-3, 3, 6)
        np.testing.assert_allclose(body.points(angles)[0], flange(angles), atol=1e-12)


@pytest.mark.parametrize("name", robot_names())
def test_a_robot_stands_at_home_inside_its_limits_and_has_an_actuator_a_joint(name: str) -> None:
    spec = load_robot(name)
    assert SafetyChain(spec).begin(spec.home) == {}
    model = mujoco.MjModel.from_xml_path(str(spec.path))
    assert tuple(model.actuator(k).name for k in range(model.nu)) == spec.names
    for k, joint in enumerate(spec.joints):
        assert model.joint(k).range == pytest.approx([joint.lower, joint.upper])


@pytest.mark.parametrize("name", robot_names())
def test_a_robot_holds_its_home_pose_against_gravity(name: str) -> None:
    spec = load_robot(name)
    model = mujoco.MjModel.from_xml_path(str(spec.path))
    data = mujoco.MjData(model)
    data.qpos[:] = data.ctrl[:] = spec.home
    for _ in range(1000):
        mujoco.mj_step(model, data)
    assert np.abs(data.qpos - spec.home).max() < spec.tracking / 3
    assert np.abs(data.qvel).max() < 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("control_hz: 50", "control_hz: fast"), "control_hz: float wanted, found 'fast'"),
        (("control_hz: 50", "rate: 50"), "unknown key 'rate'; have: .*control_hz"),
        (("current: 1.0}", "current: big}"), r"joints\[5\]: current: float wanted, found 'big'"),
        (("sites: [tip]", "sites: []"), "at least one site"),
    ],
)
def test_a_mistake_in_a_robot_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], message: str
) -> None:
    path = tmp_path / "robots" / "mine" / "robot.yaml"
    path.parent.mkdir(parents=True)
    path.write_text((load_robot("so101").folder / "robot.yaml").read_text().replace(*change))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        load_robot("mine")


def test_an_unknown_robot_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"unknown robot 'r2d2'; have: .*so101, ur5e"):
        load_robot("r2d2")
