"""The node's processes and the wire: what dies is noticed, and started again or a stop; what was recorded stays."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from deploy_fakes import SPEC
from test_bus import say, simulated
from typer.testing import CliRunner

from vlmrl.cli.robot import app
from vlmrl.deploy.drivers import robot
from vlmrl.errors import ConfigError, RobotError
from vlmrl.store import Store

pytestmark = pytest.mark.slow


def test_a_policy_that_is_killed_is_started_again() -> None:
    from vlmrl.deploy.inference import Worker
    from vlmrl.evaluate.candidates import Candidate
    from vlmrl.sim import load_task, make

    task = load_task("so101/reach")
    env = make(task)
    observation, _ = env.reset(seed=0)
    worker = Worker(Candidate("expert"), task)
    worker.reset(task.instruction, 0)
    worker.ask(observation, 3)
    answer = worker.answer(60.0)
    assert answer is not None
    assert (answer.tick, answer.chunk.shape) == (3, (1, 6))
    os.kill(worker.pid, signal.SIGKILL)
    found = None
    for _ in range(600):
        if not worker.busy:
            worker.ask(observation, 4)
        time.sleep(0.02)
        if (found := worker.answer(0.1)) is not None:
            break
    assert found is not None
    np.testing.assert_array_equal(found.chunk, answer.chunk)
    assert worker.restarts == 1
    worker.close()
    env.close()


def test_a_policy_server_that_is_gone_in_an_episode_is_waited_for() -> None:
    pytest.importorskip("websockets", reason="pip install 'vlmrl[remote]'")
    from test_policy_server import serving

    from vlmrl.deploy.inference import Worker
    from vlmrl.evaluate.candidates import Candidate
    from vlmrl.policy import UniformPolicy
    from vlmrl.sim import load_task

    task = load_task("so101/reach")
    observation = {"state": np.zeros(15, np.float32)}

    def answered(seconds: float) -> bool:
        """Ask again and again, as the node does, which never waits long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not worker.busy:
                worker.ask(observation, 5)
            begin = time.monotonic()
            found = worker.answer(0.005)
            assert time.monotonic() - begin < 2.0, "but for the moment in which another process is started"
            if found is not None:
                return True
            time.sleep(0.015)
        return False

    with serving(UniformPolicy(6)) as port:
        worker = Worker(Candidate(f"ws://127.0.0.1:{port}"), task)
        worker.reset(task.instruction, 0)
        assert answered(60.0)
    assert not answered(0.5), "nobody is there"
    with serving(UniformPolicy(6), port=port):
        assert answered(120.0)
        assert 1 <= worker.restarts <= 3
    with pytest.raises(RobotError, match=r"the policy's process ended 4 times; .*127\.0\.0\.1"):
        answered(120.0)
    worker.close()


def test_a_policy_that_cannot_be_loaded_is_told() -> None:
    from vlmrl.deploy.inference import Worker
    from vlmrl.errors import VlmrlError
    from vlmrl.evaluate.candidates import Candidate
    from vlmrl.sim import load_task

    with pytest.raises(VlmrlError, match="nowhere"):
        Worker(Candidate("/nowhere/at/all"), load_task("so101/reach"))


def test_a_recorder_that_is_killed_or_has_no_room_is_told_and_keeps_what_it_wrote(tmp_path: Path) -> None:
    from report_run import episode

    from vlmrl.deploy.recorder import Recorder
    from vlmrl.errors import DataError

    store = Store.create(tmp_path / "s")
    recorder = Recorder(tmp_path / "s")
    recorder.put(episode(0))
    for _ in range(600):
        store.refresh()
        if len(store.episodes):
            break
        time.sleep(0.1)
    assert recorder.failed == ""
    os.kill(recorder.pid, signal.SIGKILL)
    time.sleep(0.5)
    assert recorder.failed == "the recorder's process has ended"
    recorder.put(episode(1))
    with pytest.raises(DataError, match=r"1 of 2 episodes were not recorded in .*: the recorder's process has ended"):
        recorder.close(1.0)
    assert Store.open(tmp_path / "s").validate() == []
    assert len(Store.open(tmp_path / "s").episodes) == 1
    other = Recorder(tmp_path / "s")
    other.put(replace(episode(1), obs={}))  # an episode that does not fit stands for a disk that does not take it
    with pytest.raises(DataError, match=r"1 of 1 episodes were not recorded .* cannot be written"):
        other.close()


def test_robots_are_calibrated_moved_and_kept_for_one_node(tmp_path: Path) -> None:
    runner = CliRunner()
    with simulated("feetech") as (port, process):
        file = tmp_path / "unit.yaml"
        done = runner.invoke(app, ["calibrate", "so101", f"port={port}", "--out", str(file)], input="\n")
        assert done.exit_code == 0, done.output
        zeros = yaml.safe_load(file.read_text())["zeros"]
        assert np.abs(np.array(zeros) - 2048).max() < 25, "it holds its home pose, but for what gravity bends"
        done = runner.invoke(app, ["jog", "so101", "wrist_roll", "0.3", f"port={port}", f"calibration={file}"])
        assert done.exit_code == 0, done.output
        assert "wrist_roll 0.3" in say(process, "state")
        done = runner.invoke(app, ["home", "so101", f"port={port}"])
        assert done.exit_code == 0, done.output
        first = robot(SPEC, port=port)
        first.connect()
        with pytest.raises(RobotError, match="another process moves the robot on"):
            robot(SPEC, port=port).connect()
        first.close()
    with pytest.raises(ConfigError, match="is the calibration of a robot 'so101', not of 'ur5e'"):
        robot(replace(SPEC, name="ur5e"), port=port, calibration=str(file))


@pytest.mark.timeout(1200)
def test_a_node_that_is_killed_leaves_the_arm_holding_and_its_episodes_whole(tmp_path: Path) -> None:
    code = "from vlmrl.cli import main; main()"
    with simulated("feetech") as (port, process):
        arguments = ["deploy", "policy=expert", "task=so101/reach", f"port={port}", "cameras=[]", "safety.overruns=100"]
        command = [sys.executable, "-c", code, *arguments, "episodes=50", f"out={tmp_path / 'run'}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
            assert node.stdout is not None
            for line in node.stdout:
                if line.startswith("episode 3"):
                    break
            node.kill()
        before = say(process, "state")
        time.sleep(1.0)
        after = say(process, "state")
        at = [[float(part.split()[1]) for part in text.split(";")[0].split(",")] for text in (before, after)]
        assert np.abs(np.array(at[0]) - at[1]).max() < 0.05
        assert " off" not in after
    time.sleep(1.0)
    store = Store.open(tmp_path / "run" / "store")
    assert store.validate() == []
    assert len(store.episodes) >= 2
