"""V-GPS: what a critic adds to policies that never saw it, over the number of samples and the temperature.

    python benchmarks/rerank.py runs/learners/drawer_open [RUN ...] [--robomimic runs/robomimic] [--out runs/rerank]

A RUN is what `benchmarks/learners.py` leaves. Of each training seed, one critic (IQL's, trained on the `--reward` of
the main job: learned or ground_truth) chooses among the actions of several policies that were cloned from the same
logs: Gaussian cloning, diffusion and, with --robomimic, those of FOLDER/<task>/seed<k>/policy, made by `vlmrl robomimic
train`. All from the same initial states; differences are paired by seed and initial state: from the policy alone, which
of a Gaussian acts by its mean, and from one sample of it, which is what choosing among several begins with.
Milliseconds are of one decision for one robot on one thread. Resumable. The figure goes to --figure.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vlmrl import gl

gl.choose()

import matplotlib.pyplot as plt  # noqa: E402

from vlmrl.evaluate import job, results  # noqa: E402
from vlmrl.evaluate.candidates import Arm, Candidate, Steering  # noqa: E402
from vlmrl.evaluate.statistics import Interval, difference, rate  # noqa: E402
from vlmrl.runfolder import read_json  # noqa: E402
from vlmrl.sim import Task, load_task, make  # noqa: E402

SAMPLES = (1, 5, 10, 30, 50, 100)
TEMPERATURES = (0.1, 1.0)
"""Of the softmax over values, at TEMPERED samples; 0 is the highest value."""
TEMPERED = 10
POLICIES = {"bc": "policies/bc", "diffusion": "further/diffusion"}
"""Of a run: what the table calls it, and its folder of seeds."""


def main() -> None:
    """Evaluate what is missing, then print tables and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--reward", default="learned", choices=("learned", "ground_truth"))
    parser.add_argument("--robomimic", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/rerank"))
    parser.add_argument("--figure", type=Path, default=Path("docs/results/rerank.png"))
    given = parser.parse_args()
    found = {run: measure(run, given) for run in given.runs}
    for run, rows in found.items():
        print(f"\n## {run.name}\n\n{table(rows)}")
    draw({run.name: rows for run, rows in found.items()}, given.figure)


class Row:
    """A policy, alone or steered."""

    def __init__(self, policy: str, how: str, success: Mapping[str, np.ndarray], latency_s: float) -> None:
        self.policy, self.how, self.latency_s = policy, how, latency_s
        own = success[how]
        self.shape = own.shape
        self.rate: Interval = rate(own)
        self.gains = [difference(own, success[other]) if other != how else None for other in ("alone", "K=1")]

    @property
    def samples(self) -> int:
        """K, of a row that has one."""
        return int(self.how.split(",")[0].removeprefix("K="))


def measure(run: Path, given: argparse.Namespace) -> list[Row]:
    """Every policy and way of choosing."""
    task = load_task(read_json(run / "config.json")["task"])
    critics = [str(run / "policies" / given.reward / f"seed{k}" / "critic") for k in range(given.seeds)]
    rows: list[Row] = []
    for name, folders in policies(run, given).items():
        ways = {"alone": [None] * len(folders), **steered(critics[: len(folders)])}
        arms = {
            how: Arm(how, tuple(Candidate(f, 0.0, s) for f, s in zip(folders, steers, strict=True)))
            for how, steers in ways.items()
        }
        place = given.out / run.name / given.reward / name
        done = job.evaluate(task, arms, job.Plan(given.episodes), place, quiet=False).rollouts
        success = {how: results.stacked(several) for how, several in done.items()}
        rows += [Row(name, how, success, latency(task, arm.candidates[0])) for how, arm in arms.items()]
    return rows


def policies(run: Path, given: argparse.Namespace) -> Mapping[str, list[str]]:
    """Folders of the seeds of each policy that is there."""
    found = {name: [run / place / f"seed{k}" for k in range(given.seeds)] for name, place in POLICIES.items()}
    if given.robomimic is not None:
        found["robomimic"] = [given.robomimic / run.name / f"seed{k}" / "policy" for k in range(given.seeds)]
    there = {name: [str(folder) for folder in folders if folder.is_dir()] for name, folders in found.items()}
    return {name: folders for name, folders in there.items() if folders}


def steered(critics: Sequence[str]) -> dict[str, list[Steering]]:
    """The ways of choosing, for each seed's critic."""
    ways = {f"K={samples}": [Steering(critic, samples) for critic in critics] for samples in SAMPLES}
    for temperature in TEMPERATURES:
        steers = [Steering(critic, TEMPERED, temperature) for critic in critics]
        ways[f"K={TEMPERED}, temperature {temperature:g}"] = steers
    return ways


def latency(task: Task, candidate: Candidate, calls: int = 20) -> float:
    """Median seconds of a decision for one robot."""
    policy, env = candidate.make(task), make(task)
    try:
        observation, _ = env.reset(seed=0)
        seen = {key: np.asarray(value)[None] for key, value in observation.items()}
        policy.reset(np.ones(1, np.bool_), [task.instruction], np.random.default_rng(0))
        took = []
        for _ in range(calls):
            start = time.perf_counter()
            policy.act(seen)
            took.append(time.perf_counter() - start)
    finally:
        env.close()
    return float(np.median(took[1:]))


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| policy | chosen | seeds x starts | success | minus alone | minus K=1 | ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        size, gains = " x ".join(map(str, row.shape)), " | ".join(str(gain or "") for gain in row.gains)
        lines.append(
            f"| {row.policy} | {row.how} | {size} | {row.rate.percent()} | {gains} | {1e3 * row.latency_s:.1f} |"
        )
    return "\n".join(lines)


def draw(found: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Success and latency over K, one column a task."""
    figure, axes = plt.subplots(2, len(found), figsize=(4.5 * len(found), 6), sharex=True, squeeze=False)
    for column, (task, rows) in enumerate(found.items()):
        for name in dict.fromkeys(row.policy for row in rows):
            own = [row for row in rows if row.policy == name and row.how.startswith("K=") and "temp" not in row.how]
            count = [row.samples for row in own]
            (line,) = axes[0, column].plot(count, [row.rate.estimate for row in own], "o-", label=name)
            (alone,) = (row.rate.estimate for row in rows if row.policy == name and row.how == "alone")
            axes[0, column].axhline(alone, color=line.get_color(), linestyle=":", linewidth=1)
            low, high = [row.rate.low for row in own], [row.rate.high for row in own]
            axes[0, column].fill_between(count, low, high, color=line.get_color(), alpha=0.12)
            axes[1, column].plot(count, [1e3 * row.latency_s for row in own], "o-")
        axes[0, column].set(title=task, xscale="log", ylim=(-0.03, 1.03))
        axes[1, column].set(xlabel="samples K", yscale="log")
        axes[1, column].set_xticks(SAMPLES, [str(k) for k in SAMPLES])
        axes[1, column].minorticks_off()
    axes[0, 0].set_ylabel("success (dotted: alone)")
    axes[1, 0].set_ylabel("ms a decision")
    axes[0, 0].legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
