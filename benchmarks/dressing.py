"""Assisted dressing: success of the scripted expert, of its worse paths, of noise and of chance; forces; speed.

    python benchmarks/dressing.py [--episodes 50] [--task dress_arm]

Every policy meets the same starts. Success counts where it holds at the end of the episode, with Wilson's interval;
force is that on the person (N, not calibrated to real cloth): the mean of the control steps' largest, then quantiles of
the episodes' largest. Speed is in seconds of this process's own computing time, as other work on the machine counts
less there: control steps a second with all that a step computes (median and range of the episodes), the judge's
pictures, and point clouds.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vlmrl import gl
from vlmrl.interval import wilson
from vlmrl.sim import SimEnv, expert, load_task, make
from vlmrl.sim.task import Task

Act = Callable[[int, dict[str, np.ndarray]], np.ndarray]


@dataclass
class Episode:
    """How one went."""

    success: bool
    ratio: float
    reward: float
    mean_n: float
    peak_n: float
    stopped: bool
    diverged: bool
    steps_per_s: float


def main() -> None:
    arguments = _arguments()
    gl.choose()
    task = load_task(arguments.task)
    policies: dict[str, Callable[[int], Act]] = {
        "expert": _scripted(task, "along"),
        "random": _scripted(task, "along", noise=1.0),
        "expert, 30 % random": _scripted(task, "along", noise=0.3),
        "expert, then pulled off": _scripted(task, "along", pulled=True),
        "level": _scripted(task, "level"),
        "straight": _scripted(task, "straight"),
        "beside": _scripted(task, "beside"),
        "expert, 60 % random": _scripted(task, "along", noise=0.6),
    }
    print(f"{task.name}, n={arguments.episodes} episodes of {task.horizon} steps\n")
    head = f"{'':24} {'success':>16} {'ratio: median, lowest tenth':>28} {'return':>7}"
    print(
        f"{head} {'force: mean, peaks 50, 95, 100 %':>33} {'stopped':>8} {'diverged':>9} {'steps/s [range]':>16}",
        flush=True,
    )
    env = make(task)
    for name, policy in policies.items():
        print(f"{name:24} {_row([_episode(env, policy(s), s) for s in range(arguments.episodes)])}", flush=True)
    _speed(env, task)
    env.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--task", default="dress_arm")
    return parser.parse_args()


def _scripted(task: Task, path: str, *, noise: float = 0.0, pulled: bool = False) -> Callable[[int], Act]:
    """An expert by seed: a share of random actions, or from some step on a pull in one direction."""
    policy = expert(replace(task, physics=replace(task.physics, options={**task.physics.options, "path": path})))

    def start(seed: int) -> Act:
        policy.reset(seed)
        generator = np.random.default_rng([seed, 1])
        direction, begin = generator.normal(size=3), int(generator.integers(20, 70))

        def act(step: int, observation: dict[str, np.ndarray]) -> np.ndarray:
            if pulled and step >= begin:
                return (direction / np.linalg.norm(direction)).astype(np.float32)
            if generator.random() < noise:
                return generator.uniform(-1, 1, 3).astype(np.float32)
            return policy.action(observation)

        return act

    return start


def _episode(env: SimEnv, act: Act, seed: int) -> Episode:
    observation, info = env.reset(seed=seed)
    rewards: list[float] = []
    forces: list[float] = []
    seconds, truncated = 0.0, False
    while not truncated:
        action = act(len(rewards), observation)
        begin = time.process_time()
        observation, reward, _, truncated, info = env.step(action)
        seconds += time.process_time() - begin
        rewards.append(reward)
        forces.append(info["signals"]["force_n"])
    told = info["signals"]
    ends = bool(info["success"]), told["dressed_ratio"], sum(rewards), float(np.mean(forces)), told["force_peak_n"]
    return Episode(*ends, bool(told["stopped"]), bool(info["diverged"]), len(rewards) / seconds)


def _row(episodes: list[Episode]) -> str:
    n, won = len(episodes), sum(e.success for e in episodes)
    ratio = np.array([e.ratio for e in episodes])
    peak = np.percentile([e.peak_n for e in episodes], [50, 95, 100])
    success = wilson(won, n).percent()
    force = f"{np.mean([e.mean_n for e in episodes]):.2f}, {peak[0]:.1f}, {peak[1]:.1f}, {peak[2]:.1f}"
    counts = f"{sum(e.stopped for e in episodes):8} {sum(e.diverged for e in episodes):9}"
    spread = f"{np.median(ratio):.2f}, {np.percentile(ratio, 10):.2f}"
    reward, speeds = np.mean([e.reward for e in episodes]), [e.steps_per_s for e in episodes]
    speed = f"{np.median(speeds):.0f} [{min(speeds):.0f}, {max(speeds):.0f}]"
    return f"{success:>16} {spread:>28} {reward:7.1f} {force:>33} {counts} {speed:>16}"


def _speed(env: SimEnv, task: Task) -> None:
    size = (task.cameras[task.camera].height, task.cameras[task.camera].width)
    print(f"\njudge's picture {size[0]}x{size[1]}: {_spread(_seconds(env.frame))}")
    options = {**task.physics.options, "cloud_points": 512}
    cloud = make(replace(task, physics=replace(task.physics, options=options)))
    plain = _seconds(lambda: env.step(np.zeros(3, np.float32)), reset=env)
    seeing = _seconds(lambda: cloud.step(np.zeros(3, np.float32)), reset=cloud)
    print(f"a step at rest {_spread(plain)}, with a cloud of 512 points {_spread(seeing)}")
    cloud.close()


def _seconds(do: Callable[[], object], *, reset: SimEnv | None = None) -> list[float]:
    """Of one, on average over ten, five times."""
    times: list[float] = []
    for _ in range(5):
        if reset is not None:
            reset.reset(seed=0)
        do()
        begin = time.process_time()
        for _ in range(10):
            do()
        times.append((time.process_time() - begin) / 10)
    return times


def _spread(seconds: list[float]) -> str:
    """Median and range, ms."""
    middle, low, high = (1e3 * s for s in (float(np.median(seconds)), min(seconds), max(seconds)))
    return f"{middle:.1f} ms [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
