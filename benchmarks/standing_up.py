"""Which remedies keep a policy up when the labels are often wrong? Success of the last policy of a fixed budget.

On `drawer_open`: the main job's logs, 5,000 questions for each seed, answered by the scripted teacher (which reads the
simulator's true progress) with a share of wrong answers, or by the built-in judge from pictures. Every seed has its own
questions, its own wrong answers, its own reward and its own policy. Nothing is chosen by success: the policy is the
last one, and no remedy is told the share of wrong answers.

    python benchmarks/standing_up.py STORE [--out runs/standing-up] [--labels 40] [--arms plain,default] [--seeds 2]

STORE is that of a run of the main job (`vlmrl run out=runs/demo` leaves runs/demo/store). Labels: 0, 10, 25, 40 (per
cent wrong), seen, zeroshot (checkpoints of the judge), and like-seen, like-zeroshot (the same answers with their errors
moved to other pairs at random). Resumable: what is in the output folder is not run again. About 3 minutes a seed and
arm on one core.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vlmrl import gl

gl.choose()

from vlmrl.annotate import Limits, judge, scripted, true_progress  # noqa: E402
from vlmrl.cli.label import annotate  # noqa: E402
from vlmrl.cli.pool import side_by_side  # noqa: E402
from vlmrl.evaluate import results  # noqa: E402
from vlmrl.evaluate.rollout import FIRST_CURVE_SEED, evaluation_seeds, rollout  # noqa: E402
from vlmrl.learn import fit, iql  # noqa: E402
from vlmrl.nn import Actor  # noqa: E402
from vlmrl.policy import LearnedPolicy  # noqa: E402
from vlmrl.reward import preference, shaping  # noqa: E402
from vlmrl.reward.distill import distill  # noqa: E402
from vlmrl.runfolder import Metrics  # noqa: E402
from vlmrl.sim import load_task, make  # noqa: E402
from vlmrl.store import Store  # noqa: E402
from vlmrl.types import Preferences  # noqa: E402

TASK, CAMERA = "drawer_open", "judge"
PAIRS, UPDATES, EPISODES = 5_000, 15_000, 50
CURVE_EVERY, CURVE_EPISODES = 2_500, 10
STANDS = 0.9
"""Success from which a seed counts as standing."""
JUDGES = ("seen", "zeroshot")


@dataclass(frozen=True)
class Arm:
    """One way from labels to a policy: what it changes in the plain one."""

    reward: Mapping[str, Any] = field(default_factory=dict[str, Any])
    shaping: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    learner: Mapping[str, Any] = field(default_factory=dict[str, Any])


PLAIN = {"loss": "bradley_terry", "updates": 1_500}
START: tuple[tuple[str, Mapping[str, Any]], ...] = (("since_start", {}),)
ARMS = {
    "plain": Arm(PLAIN),
    "one member": Arm(PLAIN | {"members": 1}),
    "seven members": Arm(PLAIN | {"members": 7}),
    "smoothed": Arm(PLAIN | {"loss": "smoothed"}),
    "robust": Arm(PLAIN | {"loss": "robust"}),
    "channel": Arm(PLAIN | {"loss": "channel"}),
    "votes": Arm(PLAIN | {"loss": "votes"}),
    "absolute": Arm(PLAIN | {"loss": "absolute"}),
    "fewer updates": Arm(PLAIN | {"updates": 500}),
    "pessimism 1": Arm(PLAIN, (("pessimism", {"amount": 1.0}),)),
    "bounded": Arm(PLAIN, (("bounded", {}),)),
    "since_start": Arm(PLAIN, START),
    "discount .97": Arm(PLAIN, learner={"discount": 0.97}),
    "slow target": Arm(PLAIN, learner={"polyak": 0.005}),
    "default, slow target": Arm({}, START, {"polyak": 0.005}),
    "default": Arm({}, START),
}


@dataclass(frozen=True)
class Job:
    """One seed of one arm on one kind of labels."""

    store: str
    out: str
    labels: str
    arm: str
    seed: int

    @property
    def path(self) -> Path:
        """Where what its policy did is kept."""
        return Path(self.out) / self.labels / self.arm / f"seed{self.seed}.json"


def main() -> None:
    """Run what is missing, then print one table for each kind of labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--out", default="runs/standing-up")
    parser.add_argument("--labels", default="40")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    kinds, arms = options.labels.split(","), options.arms.split(",")
    jobs = [
        Job(options.store, options.out, labels, arm, seed)
        for seed in range(options.seeds)
        for labels in kinds
        for arm in arms
    ]
    missing = [job for job in jobs if not job.path.is_file()]
    for _ in tqdm(side_by_side(run, missing, workers=options.workers), total=len(missing), desc="runs", unit="run"):
        pass
    for labels in kinds:
        print(f"\nlabels: {labels} ({describe(labels)})\n{table(options.out, labels)}")
    for judge_name in (name for name in kinds if f"like-{name}" in kinds):
        for line in pattern(options.out, judge_name):
            print(line)


def describe(labels: str) -> str:
    """What the answers come from, in words."""
    if labels.isdigit():
        return f"scripted teacher, {labels} % wrong"
    return "that judge's answers, errors moved at random" if labels.startswith("like-") else "built-in judge"


def run(job: Job) -> None:
    """Labels, reward, policy, rollouts: the result is written last."""
    arm, store, task = ARMS[job.arm], Store.open(job.store), load_task(TASK)
    preferences = labelled(job, store)
    mean, std = rewarded(job, arm, store, preferences)
    for operation, settings in arm.shaping:
        column = shaping.column_of(store, mean.astype(np.float64), std.astype(np.float64))
        mean, std, _ = shaping.SHAPINGS[operation](column, shaping.Config(**settings), None)
    rows = store.column("has_next") & store.column("has_action")
    transitions = replace(store.transitions(), reward=mean[rows].astype(np.float32))
    config = replace(iql.Config(updates=UPDATES, compile="always"), **arm.learner)
    envs, seeds = [make(task) for _ in range(10)], range(FIRST_CURVE_SEED, FIRST_CURVE_SEED + CURVE_EPISODES)

    def measure(_: int, actor: Actor) -> Mapping[str, float]:
        return {"success": float(rollout(task, LearnedPolicy(actor, job.arm), seeds, envs=envs).success.mean())}

    job.path.parent.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(job.path.with_suffix(".jsonl"))
    metrics.path.unlink(missing_ok=True)
    actor = fit(
        "iql", transitions, config, seed=job.seed, metrics=metrics, every=CURVE_EVERY, at=measure, quiet=True
    ).policy
    results.save(rollout(task, LearnedPolicy(actor, job.arm), evaluation_seeds(EPISODES), envs=envs), job.path)


def labelled(job: Job, store: Store) -> Preferences:
    """The seed's own questions with their answers."""
    source = job.labels.removeprefix("like-")
    if source in JUDGES:
        labeler = asdict(judge.Config(checkpoint=source)) | {"name": "judge"}
    else:
        teacher = scripted.Config(error_rate=int(source) / 100, equal=0.05, seed=job.seed)
        labeler = asdict(teacher) | {"name": "scripted"}
    folder = Path(job.out) / "ledgers"
    folder.mkdir(parents=True, exist_ok=True)
    preferences = annotate(
        store,
        labeler,
        camera=CAMERA,
        sentence=load_task(TASK).instruction,
        pairs=PAIRS,
        seed=job.seed,
        ledger=str(folder / f"{source}-{job.seed}.db"),
        limits=Limits(),
        check_order=0,
    ).preferences
    return scattered(store, preferences, job.seed) if source != job.labels else preferences


def scattered(store: Store, preferences: Preferences, seed: int) -> Preferences:
    """The same answers, with what is wrong about them dealt anew at random.

    Among the pairs that truly differ, how right each answer is (its probability of the better side) is permuted, so
    that errors, ties and doubts keep their numbers and lose their pattern. Where nothing differs, the side is drawn.
    Pairs of which the judge was unsure stay unasked.
    """
    truth, generator = true_progress(store), np.random.default_rng([seed, 2])
    gap = np.array([truth(a) - truth(b) for a, b in zip(preferences.a, preferences.b, strict=True)])
    better, differ = gap > 0, gap != 0
    right = np.where(better, preferences.p_a, 1 - preferences.p_a)
    right[differ] = generator.permutation(right[differ])
    right[~differ] = np.where(generator.random((~differ).sum()) < 0.5, right[~differ], 1 - right[~differ])
    p_a = np.where(better, right, 1 - right).astype(np.float32)
    return replace(preferences, p_a=p_a, snapshot=f"{preferences.snapshot} scattered", by=())


def rewarded(job: Job, arm: Arm, store: Store, preferences: Preferences) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the learned reward, kept for the other arms that share it."""
    config = preference.Config(**arm.reward)
    key = hashlib.sha256(f"{preferences.snapshot} {job.seed} {config}".encode()).hexdigest()[:16]
    path = Path(job.out) / "rewards" / f"{key}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        metrics = Metrics(path.with_suffix(".jsonl"))
        learned = distill(store, preferences, config, camera=CAMERA, seed=job.seed, metrics=metrics, quiet=True)
        mean, std = learned.column(store)
        partial = path.with_name(f"{key}-{os.getpid()}.npz")
        np.savez(partial, mean=mean, std=std)
        partial.replace(path)
    with np.load(path) as kept:
        return kept["mean"], kept["std"]


def table(out: str, labels: str) -> str:
    """Success of each arm over the seeds that it has, and minus plain over those that both have."""
    found = {arm: done(out, labels, arm) for arm in ARMS}
    lines = [f"{'arm':22}{'seeds':>6}  {'success':22}{'seeds >= 90 %':>14}  {'minus plain':24}each seed"]
    for arm, seeds in found.items():
        if not seeds:
            continue
        shared = sorted(set(seeds) & set(found["plain"]))
        pair = {name: [found[name][s] for s in shared] for name in ("plain", arm)} if shared else {}
        versus = results.table(pair, baselines=["plain"], trained=dict.fromkeys(pair, True))[-1].versus if pair else {}
        row = results.table({arm: list(seeds.values())}, baselines=[], trained={arm: True})[0]
        rates = [float(r.success.mean()) for r in seeds.values()]
        stand = sum(r >= STANDS for r in rates)
        lines.append(
            f"{arm:22}{len(seeds):6}  {row.success.percent():22}{f'{stand} of {len(seeds)}':>14}  "
            f"{versus.get('plain', '')!s:24}{' '.join(f'{100 * r:.0f}' for r in rates)}"
        )
    return "\n".join(lines)


def pattern(out: str, labels: str) -> list[str]:
    """What a judge's errors cost beyond those of as many dealt at random: difference over the seeds that have both."""
    lines: list[str] = []
    for arm in ARMS:
        own, random = done(out, labels, arm), done(out, f"like-{labels}", arm)
        if shared := sorted(set(own) & set(random)):
            pair = {labels: [own[s] for s in shared], "random": [random[s] for s in shared]}
            rows = results.table(pair, baselines=["random"], trained=dict.fromkeys(pair, True))
            versus = next(row.versus["random"] for row in rows if "random" in row.versus)
            lines.append(f"\n{labels} minus like-{labels}, {arm}, {len(shared)} seeds: {versus}")
    return lines


def done(out: str, labels: str, arm: str) -> dict[int, results.Rollouts]:
    """What there is of an arm, by seed."""
    paths: Sequence[Path] = sorted((Path(out) / labels / arm).glob("seed*.json"), key=lambda p: int(p.stem[4:]))
    return {int(path.stem[4:]): results.load(path) for path in paths}


if __name__ == "__main__":
    main()
