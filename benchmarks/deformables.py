"""Speed, stability and success rates of the tasks with rope, cloth and water.

    python benchmarks/deformables.py [--tasks ...] [--seconds 100] [--episodes 50] [--frames 60]

Random actions run for `--seconds` of simulated time a task: counted are episodes that diverged, and the speed is that
of the physics alone, in processor time of this process, at the median episode and at the best (whatever else runs on
the machine slows both). Then come the judge's pictures a second, and `--episodes` episodes of the scripted expert and
of random actions: how many ended in success, with Wilson's 95 % interval, and the mean return. A control step of
`fold_cloth` is a whole fold.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np

from vlmrl import gl
from vlmrl.interval import wilson
from vlmrl.sim import SimEnv, expert, load_task, make

NAMES = ("straighten_rope", "fold_cloth", "pass_water")


@dataclass(frozen=True)
class Episodes:
    """What a policy's episodes came to."""

    returns: np.ndarray
    successes: int
    diverged: int
    rates: np.ndarray
    """Control steps a second of processor time, one number an episode."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=NAMES)
    parser.add_argument("--seconds", type=float, default=100, help="simulated, of random actions")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--frames", type=int, default=60)
    arguments = parser.parse_args()
    print(f"MUJOCO_GL={gl.choose()}")
    for name in arguments.tasks:
        env = make(load_task(name))
        measure(env, arguments.seconds, arguments.episodes, arguments.frames)
        env.close()


def measure(env: SimEnv, seconds: float, count: int, frames: int) -> None:
    """Print a task's figures."""
    length = env.task.horizon / env.task.control_hz
    wild = run(env, max(round(seconds / length), 1), seed=10_000, scripted=False)
    print(f"\n{env.task.name}: {len(wild.returns)} random episodes, {len(wild.returns) * length:.0f} s simulated")
    print(f"  control steps/s   median {np.median(wild.rates):7.1f}   best {wild.rates.max():7.1f}")
    print(f"  judge's frames/s  {pictures(env, frames):7.1f}")
    print(f"  diverged          {wild.diverged} of {len(wild.returns)}")
    for who in ("expert", "random"):
        told = run(env, count, seed=0, scripted=who == "expert")
        rate = wilson(told.successes, count).percent()
        print(f"  {who:6} success at the end {rate}, mean return {told.returns.mean():.3g}, diverged {told.diverged}")


def run(env: SimEnv, count: int, *, seed: int, scripted: bool) -> Episodes:
    """Run whole episodes of the expert or of uniformly random actions."""
    policy, generator = expert(env.task), np.random.default_rng(seed)
    returns, rates, successes, diverged = np.zeros(count), np.zeros(count), 0, 0
    for k in range(count):
        observation, info = env.reset(seed=seed + k)
        policy.reset(seed + k)
        steps, spent, ended = 0, 0.0, False
        while not ended:
            draw = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            action = policy.action(observation) if scripted else draw
            start = time.process_time()
            observation, reward, terminated, truncated, info = env.step(action)
            spent += time.process_time() - start
            ended = terminated or truncated
            returns[k] += reward
            steps += 1
        rates[k] = steps / spent
        successes += bool(info["success"])
        diverged += bool(info["diverged"])
    return Episodes(returns, successes, diverged, rates)


def pictures(env: SimEnv, frames: int) -> float:
    """Judge's pictures a second of wall time, at the best of five rounds."""
    env.reset(seed=0)
    env.frame()
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(frames):
            env.frame()
        rates.append(frames / (time.perf_counter() - start))
    return max(rates)


if __name__ == "__main__":
    main()
