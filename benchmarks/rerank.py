"""V-GPS: what a critic adds to policies that never saw it, over the number of samples and the temperature.

    python benchmarks/rerank.py TASK=FOLDER [TASK=FOLDER ...] [--out runs/rerank]

FOLDER holds the logs in `data`, and what was trained on them from several seeds (docs/results/rerank.md has the
commands): `critic`, which values chunks of so many actions as the policies execute at once, `critic-first`, which
values single actions, and policies that know nothing of a reward: `bc` (Gaussian chunks), `diffusion`, and `robomimic`
(its Gaussian mixture). Those that are missing are left out. The critic of a seed steers the policy of that seed. All
start from the same initial states; differences are paired by seed and initial state: from the policy alone, which of a
Gaussian acts by its mean and of a mixture by a part's, and from one sample of it, which is what choosing among several
begins with. Milliseconds are of one decision for one robot on one thread. Resumable. The policies of --curve are
evaluated at every number of samples and temperature; the figure goes to --figure.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmrl import gl

gl.choose()

import matplotlib.pyplot as plt  # noqa: E402

from vlmrl.evaluate import job, results  # noqa: E402
from vlmrl.evaluate.candidates import Arm, Candidate, Steering  # noqa: E402
from vlmrl.evaluate.statistics import Interval, difference, rate  # noqa: E402
from vlmrl.sim import Task, load_task, make  # noqa: E402
from vlmrl.types import history  # noqa: E402

SAMPLES = (1, 5, 10, 30, 50, 100)
TEMPERATURES = (0.1, 1.0)
"""Of the softmax over values, at USUAL samples; 0 is the highest value."""
USUAL = 10
SPREAD = 0.5
"""Of the narrower samples."""
POLICIES = ("bc", "diffusion", "robomimic")


def main() -> None:
    """Evaluate what is missing, then print tables and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="TASK=FOLDER")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--curve", default="", help="policies whose whole curve is wanted, as bc,diffusion")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/rerank"))
    parser.add_argument("--figure", type=Path, default=Path("docs/results/rerank.png"))
    given = parser.parse_args()
    runs = {task: Path(folder) for task, _, folder in (text.partition("=") for text in given.runs)}
    found = {task: measure(task, folder, given) for task, folder in runs.items()}
    for task, rows in found.items():
        print(f"\n## {task}\n\n{table(rows)}")
    curves = {task: [row for row in rows if row.policy in given.curve.split(",")] for task, rows in found.items()}
    if any(curves.values()):
        draw(curves, given.figure)


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


def measure(name: str, folder: Path, given: argparse.Namespace) -> list[Row]:
    """Every policy and way of choosing."""
    task, rows = load_task(name), list[Row]()
    for policy in given.policies.split(","):
        seeds = [k for k in range(given.seeds) if place(folder, policy, k).is_dir()]
        ways: dict[str, list[Steering | None]] = {"alone": [None] * len(seeds)}
        ways |= {how: [way(k) for k in seeds] for how, way in steered(folder, policy, given).items()}
        arms = {
            how: Arm(
                how,
                tuple(
                    Candidate(str(place(folder, policy, k)), 0.0, steer) for k, steer in zip(seeds, steers, strict=True)
                ),
            )
            for how, steers in ways.items()
            if seeds
        }
        if not arms:
            continue
        done = job.evaluate(task, arms, job.Plan(given.episodes), given.out / name / policy, quiet=False).rollouts
        success = {how: results.stacked(several) for how, several in done.items()}
        rows += [Row(policy, how, success, latency(task, arm.candidates[0])) for how, arm in arms.items()]
    return rows


def place(folder: Path, policy: str, seed: int) -> Path:
    """The folder of a policy."""
    return folder / policy / (f"seed{seed}/policy" if policy == "robomimic" else f"policies/seed{seed}")


def steered(folder: Path, policy: str, given: argparse.Namespace) -> dict[str, Callable[[int], Steering]]:
    """The ways of choosing, for each seed's critic."""

    def way(samples: int, temperature: float = 0.0, *, by: str = "critic", **more: Any) -> Callable[[int], Steering]:
        return lambda k: Steering(str(folder / by / f"policies/seed{k}/critic"), samples, temperature, **more)

    whole = policy in given.curve.split(",")
    ways = {f"K={samples}": way(samples) for samples in (SAMPLES if whole else (1, USUAL))}
    if whole:
        ways |= {f"K={USUAL}, temperature {t:g}": way(USUAL, t) for t in TEMPERATURES}
    ways[f"K={USUAL}, first action scored"] = way(USUAL, by="critic-first")
    ways[f"K={USUAL}, mean at temperature 0.1"] = way(USUAL, 0.1, average=True)
    if policy != "robomimic":
        ways[f"K={USUAL}, half the spread"] = way(USUAL, spread=SPREAD)
    return ways


def latency(task: Task, candidate: Candidate, calls: int = 20) -> float:
    """Median seconds of a decision for one robot."""
    policy, env = candidate.make(task), make(task)
    try:
        observation, _ = env.reset(seed=0)
        looks = history(policy)
        seen = {key: np.asarray(value)[None] for key, value in observation.items()}
        seen = {key: np.stack([value] * looks, 1) if looks > 1 else value for key, value in seen.items()}
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
            own = [row for row in rows if row.policy == name and row.how.startswith("K=") and "," not in row.how]
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
