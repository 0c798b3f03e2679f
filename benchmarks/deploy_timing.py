"""How punctual the control node is: 50 Hz over the simulated servo bus, a diffusion policy in its own process.

    python benchmarks/deploy_timing.py seconds=600 [cases=bare,raised,ordinary,hog,hog_stops,stall] [policy=FOLDER]
        [out=runs/timing]

Each case runs `seconds` of episodes; what is between episodes is not counted. raised: real-time priority, as vlmrl
deploy asks for. ordinary: none. hog: raised, and a process on every core that does nothing but count. hog_ordinary: the
same without priority. hog_stops: that with the safety chain's own threshold, three late ticks in a row, at which the
run ends; the others are told to go on and count. stall: every ten seconds the policy's process is stopped for 500 ms.
bare: a loop of the same rate and priority that does nothing but sleep, with nobody beside it: what the machine itself
allows. Every case is on disk as soon as it is over.

Printed: ticks that missed their deadline, how late ticks started, what a tick took, how long the policy took, how often
the arm was told to hold, and the largest speed, acceleration and jerk that were sent, as shares of their limits, less
what the servos' rounding can make of them: above 1 would be a discontinuity. Without policy=FOLDER a small diffusion
policy is trained on 20 episodes of the expert.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from vlmrl import config as configuration
from vlmrl.cli import jobs
from vlmrl.cli.deploy import DeployConfig, node
from vlmrl.cli.train import Training, train_all
from vlmrl.deploy.clock import now, raise_priority, wait_until
from vlmrl.deploy.inference import Inline, Worker
from vlmrl.deploy.node import Node
from vlmrl.deploy.pilot import PolicyPilot
from vlmrl.deploy.seams import ActionQueue
from vlmrl.deploy.state import State
from vlmrl.evaluate.candidates import Candidate
from vlmrl.robot import RobotSpec, load_robot
from vlmrl.safety import Reason, Thresholds
from vlmrl.sim import load_task
from vlmrl.store import Store

TASK = "so101/reach"
STEP = 2 * np.pi / 4096
"""What the servos can tell apart, rad."""
CASES: dict[str, dict[str, Any]] = {
    "bare": {"priority": 50},
    "raised": {"priority": 50},
    "ordinary": {"priority": 0},
    "hog": {"priority": 50, "hogs": True},
    "hog_ordinary": {"priority": 0, "hogs": True},
    "hog_stops": {"priority": 0, "hogs": True, "stops": True},
    "stall": {"priority": 50, "stalls": True},
}
STALL_S, STALL_EVERY_S = 0.5, 10.0
POLICY = [f"learner.{one}" for one in ("updates=300", "hidden=[32,64]", "steps=8", "horizon=32", "execute=24")]
"""A chunk lasts 480 ms, so that the next one has time to come."""
COUNTS = Thresholds(overruns=10**9, action_s=0.1, patience_s=1e6)


def policy(folder: Path) -> str:
    """A diffusion policy, trained where it is not there yet."""
    task, place = load_task(TASK), folder / "policy"
    spec = load_robot(task.physics.name)
    if not (place / "config.json").is_file():
        config = DeployConfig(
            task=TASK, driver="mujoco", lockstep=True, cameras=(), episodes=20, seed=0, store=str(folder / "demos")
        )
        pilot = PolicyPilot(Inline(Candidate("expert").make(task)), spec, ActionQueue("hold"), 0)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "demos" / "manifest.json").is_file():
            with node(config, pilot, folder, whole=False) as made:
                made.run()
        jobs.register()
        learner = configuration.compose("train", ["learner=diffusion", *POLICY])["learner"]
        training = Training("diffusion", 0, str(folder / "demos"), None, learner, ("state",), str(place))
        train_all([training], workers=1)
    return str(place)


@contextmanager
def bus(name: str) -> Iterator[str]:
    """The port of a simulated servo bus in a process of its own."""
    code = "from vlmrl.cli import main; main()"
    command = [sys.executable, "-c", code, "robot", "simulate", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = process.stdout.readline().split()[1]
            # It stands for hardware, which nothing on this machine keeps waiting.
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                with suppress(OSError):
                    os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, os.sched_param(60))
            yield port
        finally:
            process.kill()


@contextmanager
def hogs(wanted: bool) -> Iterator[None]:
    """A process on every core that counts."""
    command = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)] if wanted else []
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


class Stalls:
    """Stops the policy's process now and then."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self.next, self.until, self.count = worker, time.monotonic() + 2.0, 0.0, 0

    def tick(self, made: Node) -> None:
        """Stop it, or let it go on."""
        now = time.monotonic()
        if self.until and now >= self.until:
            os.kill(self.worker.pid, signal.SIGCONT)
            self.until, self.next = 0.0, now + STALL_EVERY_S
        elif not self.until and now >= self.next and made.state is State.RUNNING:
            os.kill(self.worker.pid, signal.SIGSTOP)
            self.until, self.count = now + STALL_S, self.count + 1


def bare(seconds: float, priority: int) -> dict[str, Any]:
    """Sleep from deadline to deadline, and say how late one was woken."""
    period = load_robot(load_task(TASK).physics.name).period
    before, own = os.sched_getscheduler(0), os.sched_getparam(0)
    got = raise_priority(priority)
    late, start = list[float](), now()
    try:
        for tick in range(1, int(seconds / period) + 1):
            wait_until(start + tick * period)
            late.append(now() - start - tick * period)
    finally:
        os.sched_setscheduler(0, before, own)
    levels = dict(zip(("p50", "p99", "p99.9", "max"), np.quantile(late, [0.5, 0.99, 0.999, 1]).tolist(), strict=True))
    missed = int((np.array(late) > period).sum())
    return {"case": "bare", "ticks": len(late), "missed": missed, "late": levels, "priority": got}


def measure(name: str, source: str, seconds: float, folder: Path) -> dict[str, Any]:
    """Run one case."""
    case: dict[str, Any] = {"hogs": False, "stops": False, "stalls": False} | CASES[name]
    task = load_task(TASK)
    spec = load_robot(task.physics.name)
    place = folder / name
    place.mkdir(parents=True)
    with bus(spec.name) as port:
        config = DeployConfig(
            task=TASK,
            port=port,
            cameras=(),
            episodes=10**6,
            seed=0,
            store=str(place / "store"),
            priority=case["priority"],
            safety=Thresholds() if case["stops"] else COUNTS,
        )
        begin, ready = time.monotonic(), list[float]()
        worker = Worker(Candidate(source), task)
        pilot = PolicyPilot(worker, spec, ActionQueue("fade"), wait_s=0.25 * spec.period)
        stalls = Stalls(worker) if case["stalls"] else None

        def over(made: Node) -> bool:
            if not ready and made.state is not State.DISCONNECTED:
                ready.append(time.monotonic() - begin)
            if stalls:
                stalls.tick(made)
            return made.tally.ticks >= seconds * spec.control_hz

        # The hogs end before what was recorded must be on disk.
        with node(config, pilot, place, whole=True) as made, hogs(case["hogs"]):
            report = made.run(until=over)
    worst = fastest(Store.open(place / "store"), spec)
    tally, times = report.tally, report.percentiles()
    return {
        "case": name,
        "ticks": tally.ticks,
        "missed": tally.overruns,
        "late": times["late"],
        "tick": times["tick"],
        "infer": times["infer"],
        "holds": tally.reasons[Reason.LATE_POLICY],
        "stalls": stalls.count if stalls else 0,
        "of limits": worst,
        "ready_s": ready[0],
        "priority": report.priority,
        "ended": "in time" if report.ended == "still running" else report.ended,
    }


def fastest(store: Store, spec: RobotSpec) -> dict[str, float]:
    """The largest speed, acceleration and jerk of what was sent in whole episodes, as shares of the joints' limits.

    What a servo takes is rounded to STEP: what that can add to a difference is taken off, 1, 2 and 4 steps.
    """
    found = {"velocity": 0.0, "acceleration": 0.0, "jerk": 0.0}
    for id in store.episodes.id:
        one = store.episode(id, images=False)
        motion = one.action[one.has_action].astype(np.float64) * spec.half
        for order, name in enumerate(found, 1):
            motion = np.diff(motion, axis=0) / spec.period
            most = np.array([getattr(joint, name) for joint in spec.joints])
            rounding = 2 ** (order - 1) * STEP / spec.period**order
            found[name] = max(found[name], float(((np.abs(motion) - rounding) / most).max(initial=0.0)))
    return found


def line(row: dict[str, Any]) -> str:
    """One case."""
    if row["case"] == "bare":
        late = " / ".join(f"{1e3 * value:.2f}" for value in row["late"].values())
        return f"| bare | {row['missed']} of {row['ticks']} | {late} | | | | | | {row['priority']} | in time |"

    def ms(times: dict[str, float], *levels: str) -> str:
        return " / ".join(f"{1e3 * times[level]:.2f}" for level in levels)

    most = " / ".join(f"{share:.2f}" for share in row["of limits"].values())
    return (
        f"| {row['case']} | {row['missed']} of {row['ticks']} | {ms(row['late'], 'p50', 'p99', 'p99.9', 'max')} | "
        f"{ms(row['tick'], 'p50', 'p99', 'p99.9', 'max')} | {ms(row['infer'], 'p50', 'p99')} | {row['holds']} "
        f"({row['stalls']} stalls) | {most} | {row['ready_s']:.1f} | {row['priority']} | {row['ended']} |"
    )


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    seconds, names = float(given.get("seconds", "60")), given.get("cases", ",".join(CASES)).split(",")
    if wrong := [name for name in names if name not in CASES]:
        raise SystemExit(f"unknown case {wrong[0]!r}; have: {', '.join(CASES)}")
    folder = Path(given.get("out", f"runs/timing-{time.strftime('%Y-%m-%d-%H-%M-%S')}"))
    folder.mkdir(parents=True, exist_ok=True)
    source = given.get("policy") or policy(folder)
    rows: list[dict[str, Any]] = []
    for name in names:
        found = bare(seconds, CASES[name]["priority"]) if name == "bare" else measure(name, source, seconds, folder)
        rows.append(found)
        (folder / "timing.json").write_text(json.dumps(rows, indent=1))
    print(f"\n{os.cpu_count()} cores, load {', '.join(f'{one:.1f}' for one in os.getloadavg())}\n")
    print(
        "| case | missed | start late, p50 / p99 / p99.9 / max, ms | work, p50 / p99 / p99.9 / max, ms | policy, p50 / "
        "p99, ms | ticks held | v / a / jerk of limits | ready, s | priority | ended |\n"
        f"|{'---|' * 10}"
    )
    for row in rows:
        print(line(row))


if __name__ == "__main__":
    main()
