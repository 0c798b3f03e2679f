r"""Are few evaluations of a diffusion policy's network as good as all hundred? The same weights, sampled otherwise.

    vlmrl data collect task=drawer_open noise=[0.0] episodes=50 out=runs/few/data
    vlmrl train store=runs/few/data learner=diffusion learner.hidden=[32,64] learner.batch=128 learner.updates=5000 \
        out=runs/few/run
    python benchmarks/few_steps.py runs/few/run/policies/seed0 [--task drawer_open] [--episodes 100] [--margin 0.1]

POLICY was trained by `learner=diffusion`. Every sampler meets the same initial states; it is not inferior to DDPM with
as many steps as in training where the low end of the paired 95 % interval lies above minus the margin, which is stated
before. One training seed: it says something of the samplers, nothing of the learner. Milliseconds are of one chunk for
one robot on one thread. Resumable.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np

from vlmrl import gl

gl.choose()

from vlmrl.evaluate import job, results  # noqa: E402
from vlmrl.evaluate.candidates import Arm, Candidate  # noqa: E402
from vlmrl.evaluate.statistics import difference, rate  # noqa: E402
from vlmrl.policy import LearnedPolicy  # noqa: E402
from vlmrl.runfolder import read_json  # noqa: E402
from vlmrl.sim import load_task  # noqa: E402

ALL = "ddpm"
FEW = {"ddpm": (10, 5), "ddim": (16, 10, 5), "dpm_solver": (5,)}
"""Evaluations of the network for a chunk."""


def main() -> None:
    """Save the policy once for each sampler, evaluate them, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path)
    parser.add_argument("--task", default="drawer_open")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--margin", type=float, default=0.1)
    parser.add_argument("--out", type=Path, default=Path("runs/few/samplers"))
    given = parser.parse_args()
    task = load_task(given.task)
    training_steps = int(read_json(given.policy / "config.json")["training_steps"])
    ways = {f"{ALL}, {training_steps}": (ALL, training_steps)}
    ways |= {f"{sampler}, {steps}": (sampler, steps) for sampler, several in FEW.items() for steps in several}
    places = {name: saved(given.policy, given.out / name.replace(", ", "-"), *way) for name, way in ways.items()}
    arms = {name: Arm(name, (Candidate(str(place)),)) for name, place in places.items()}
    done = job.evaluate(task, arms, job.Plan(given.episodes, workers=1), given.out / "episodes", quiet=False).rollouts
    success = {name: results.stacked(several) for name, several in done.items()}
    whole = success[next(iter(ways))]
    print(f"\n{given.task}, one policy, {given.episodes} initial states, margin {given.margin:g}\n")
    print("| sampler, evaluations | success | minus ddpm | not inferior | ms a chunk |\n|---|---|---|---|---|")
    for name, found in success.items():
        gain = difference(found, whole) if found is not whole else None
        verdict = "" if gain is None else "yes" if gain.low > -given.margin else "not shown"
        print(f"| {name} | {rate(found).percent()} | {gain or ''} | {verdict} | {milliseconds(places[name]):.0f} |")


def saved(policy: Path, place: Path, sampler: str, steps: int) -> Path:
    """The same weights with another sampler."""
    if not place.is_dir():
        shutil.copytree(policy, place, ignore=shutil.ignore_patterns("best"))
        content = read_json(place / "config.json") | {"sampler": sampler, "steps": steps}
        (place / "config.json").write_text(json.dumps(content, indent=1))
    return place


def milliseconds(place: Path, calls: int = 10) -> float:
    """Median of a chunk for one robot."""
    policy = LearnedPolicy.from_pretrained(str(place))
    policy.block = 0
    policy.reset(np.ones(1, np.bool_), [""], np.random.default_rng(0))
    numbers = len(policy.actor.observation.shift)
    shown, took = {"state": np.zeros((1, policy.actor.history, numbers), np.float32)}, list[float]()
    for _ in range(calls):
        start = time.process_time()
        policy.act(shown)
        took.append(time.process_time() - start)
    return 1e3 * float(np.median(took[1:]))


if __name__ == "__main__":
    main()
