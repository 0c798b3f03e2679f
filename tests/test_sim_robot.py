"""Tasks that name a robot: every command goes through the chain, in simulation too."""

from dataclasses import replace

import numpy as np
import pytest

from vlmrl.errors import ConfigError
from vlmrl.robot import load_robot
from vlmrl.safety import Reason
from vlmrl.sim import expert, load_task, make
from vlmrl.sim.task import task_names
from vlmrl.sim.tasks.robot import Arm

TASKS = [name for name in task_names() if load_task(name).physics.family == "robot"]


@pytest.mark.parametrize("name", ["so101/reach", "so101/pick"])
def test_random_actions_never_command_beyond_a_limit(name: str) -> None:
    arm, generator = Arm(load_task(name)), np.random.default_rng(0)
    arm.reset(generator)
    sent = [arm.data.ctrl.copy()] * 3
    for k in range(40):
        action = generator.uniform(-1, 1, 6) if k % 2 else generator.choice([-1.0, 1.0], 6)
        arm.step(action.astype(np.float32))
        sent.append(arm.data.ctrl.copy())
    for order, limit in enumerate(("velocity", "acceleration", "jerk"), 1):
        most = np.array([getattr(j, limit) for j in arm.spec.joints])
        assert (np.abs(np.diff(sent, order, axis=0)) / arm.spec.period**order <= most * (1 + 1e-5)).all(), limit
    assert (np.abs(arm.chain.motion.position - arm.data.qpos[:6]) < 0.2).all()


def test_what_the_chain_changes_is_told() -> None:
    env = make(load_task("so101/reach"))
    env.reset(seed=0)
    into_the_table = np.array([0, 1, -0.2, 0.5, 0, 0], np.float32)
    clipped = [env.step(into_the_table)[4]["signals"]["clipped"] for _ in range(10)]
    assert clipped[0] == 1.0
    env.close()


def test_a_stop_lasts_to_the_end_of_the_episode_and_no_longer() -> None:
    arm = Arm(load_task("so101/reach"))
    arm.reset(np.random.default_rng(0))
    for _ in range(10):
        arm.step(np.ones(6, np.float32))
    arm.chain.stop(Reason.OPERATOR, "test")
    for _ in range(60):
        arm.step(np.ones(6, np.float32))
    assert arm.signals()["stopped"] == 1.0
    assert arm.chain.resting
    memory = arm.memory()
    arm.remember(memory)
    np.testing.assert_array_equal(arm.memory(), memory)
    assert arm.chain.latched is not None
    arm.reset(np.random.default_rng(0))
    assert arm.signals()["stopped"] == 0.0


def test_a_robot_or_work_that_does_not_exist_is_refused() -> None:
    task = load_task("so101/reach")
    with pytest.raises(ConfigError, match=r"unknown robot 'r2d2'; have: .*so101"):
        Arm(replace(task, physics=replace(task.physics, name="r2d2")))
    with pytest.raises(ConfigError, match="unknown work 'dance'; have: pick, push, reach"):
        Arm(replace(task, physics=replace(task.physics, options={"work": "dance"})))


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_expert_solves_nine_of_ten_without_a_stop(name: str) -> None:
    task = load_task(name)
    env, policy, solved = make(task), expert(task), 0
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        policy.reset(seed)
        done = False
        for _ in range(task.horizon):
            observation, _, _, _, info = env.step(policy.action(observation))
            assert info["signals"]["stopped"] == 0.0
            done = done or info["success"]
        solved += done
    env.close()
    assert solved >= 18
    assert load_robot(task.physics.name).name == task.physics.name
