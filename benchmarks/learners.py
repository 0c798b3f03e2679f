"""Every offline learner on the same logs: on the simulator's own reward, and on the reward that a judge taught.

    vlmrl run task=drawer_open seeds=[0,1,2,3,4] learner.updates=5000 bc.updates=5000 out=runs/learners/drawer_open
    python benchmarks/learners.py runs/learners/drawer_open [RUN ...] [--seeds 2] [--learners td3bc,diffusion]

A RUN is the folder of a main job, whose logs, answers, reward columns and policies (behaviour, bc, iql on a constant,
the learned and the true reward) are taken as they are; the other learners are trained on the same columns, for the
same number of updates, and all are evaluated from the same initial states. Nothing is chosen by success: the last
weights count. Chunks are drawn by smaller networks than the default ones (see SMALL). `bc_chunks` and `iql_chunks`
take so many actions in a row for one as diffusion executes at once; `idql` is put together from its halves, the
diffusion policy and that critic, which `learner=idql` trains side by side without a link between them. `cpl` reads the
judge's answers, which are about single pictures, and those in RUN/clips, if there are any: `vlmrl label
store=RUN/store ask.show=strip out=RUN/clips`, with the scripted teacher where none who looks at clips is at hand.
Resumable; one thread.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlmrl import gl

gl.choose()

from vlmrl.cli.train import Training, train_all  # noqa: E402
from vlmrl.evaluate import job, results  # noqa: E402
from vlmrl.evaluate.candidates import Arm, Candidate, Mixture, Steering  # noqa: E402
from vlmrl.evaluate.statistics import difference, rate  # noqa: E402
from vlmrl.learn import learner  # noqa: E402
from vlmrl.runfolder import read_json  # noqa: E402
from vlmrl.sim import load_task  # noqa: E402
from vlmrl.store import Store  # noqa: E402

REWARDS = {"learned": "learned", "ground_truth": "true"}
"""Arms of the main job whose column is read, and what the table calls it."""
SMALL: dict[str, Any] = {"hidden": [32, 64], "batch": 128, "steps": 8}
LEARNERS: dict[str, dict[str, Any]] = {
    "filtered_bc": {},
    "td3bc": {},
    "calql": {},
    "cpl": {},
    "bc_chunks": {"name": "bc"},
    "iql_chunks": {"name": "iql"},
    "diffusion": SMALL,
    "flow": SMALL,
}
CHUNKS = 8
"""Actions of `bc_chunks` and `iql_chunks`: as many as diffusion executes."""
SAMPLES = 32
"""Chunks among which the critic of idql chooses."""
UNREWARDED = ("bc_chunks", "diffusion", "flow")
"""Learners that read no reward."""


def main() -> None:
    """Train and evaluate what is missing, then print one table for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--learners", default=",".join(LEARNERS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    for run in given.runs:
        print(table(run, given.learners.split(","), given.seeds, given.workers), flush=True)


def table(run: Path, learners: Sequence[str], seeds: int, workers: int) -> str:
    """Markdown of one run."""
    trained = {arm: group for arm, group in plan(run, learners, seeds).items() if group}
    train_all([training for group in trained.values() for training in group], workers=workers)
    config = read_json(run / "config.json")
    task, store = load_task(config["task"]), stored(run)
    arms = {"behaviour": Arm("behaviour", (mixture(config),))}
    arms |= {name: Arm(name, candidates(folders)) for name, folders in of_run(run).items()}
    arms |= {name: Arm(name, candidates([t.folder for t in group])) for name, group in trained.items()}
    arms |= idql(trained)
    found = job.evaluate(
        task, arms, job.Plan(config["evaluate"]["episodes"], workers=workers), run / "all", quiet=False
    )
    for name, several in found.rollouts.items():
        for seed, rollouts in enumerate(several):
            results.save(rollouts, run / "all" / "results" / name / f"seed{seed}.json")
    return "\n".join([f"\n## {task.name}", "", f"Logs: {store!r}", "", *lines(found.rollouts)])


def plan(run: Path, learners: Sequence[str], seeds: int) -> dict[str, list[Training]]:
    """The trainings of each arm, seed by seed."""
    updates = read_json(run / "config.json")["learner"]["updates"]
    arms: dict[str, list[Training]] = {}
    for name in learners:
        algorithm = LEARNERS[name].get("name", name)
        defaults = json.loads(json.dumps(asdict(learner(algorithm).Config())))
        own = defaults | {"name": algorithm, "updates": updates} | LEARNERS[name]
        if name in UNREWARDED:
            arms[name] = [training(run, name, own, None, seed) for seed in range(seeds)]
        elif name == "cpl":
            answers = {"cpl, answers": run, "cpl, clips": run / "clips"}
            arms |= {
                title: [training(run, title, own, None, seed, labels=labels) for seed in range(seeds)]
                for title, labels in answers.items()
                if labels.is_dir()
            }
        else:
            for arm, reward in REWARDS.items():
                title = f"{name}, {reward}"
                arms[title] = [training(run, title, own, column(run, arm, seed), seed) for seed in range(seeds)]
    return arms


def training(
    run: Path, name: str, own: Mapping[str, Any], reward: str | None, seed: int, *, labels: Path | None = None
) -> Training:
    """One policy to train."""
    folder = run / "further" / name.replace(", ", "-") / f"seed{seed}"
    return Training(
        name,
        seed,
        str(stored(run).path),
        reward,
        own,
        ("state",),
        str(folder),
        curve_episodes=0,
        labels=str(labels) if labels else None,
        chunk=CHUNKS if "_chunks" in name else 1,
    )


def column(run: Path, arm: str, seed: int) -> str:
    """The reward column that an arm of the main job was trained on."""
    return read_json(run / "policies" / arm / f"seed{seed}" / "config.json")["facts"]["reward"]


def stored(run: Path) -> Store:
    """The logs of a main job."""
    return Store.open(read_json(run / "config.json")["store"] or run / "store")


def of_run(run: Path) -> dict[str, list[str]]:
    """Folders of the policies that the main job trained, by what the table calls them."""
    titles = {"bc": "bc", "constant": "iql, constant", **{arm: f"iql, {name}" for arm, name in REWARDS.items()}}
    found = {t: sorted((run / "policies" / arm).glob("seed*")) for arm, t in titles.items()}
    return {title: [str(folder) for folder in folders] for title, folders in found.items() if folders}


def mixture(config: Mapping[str, Any]) -> Mixture:
    """The policies that collected the logs."""
    policy = config["collect"]["policy"]
    several = tuple(policy) if isinstance(policy, list) else (policy,)
    return Mixture("behaviour", policies=several, shares=tuple(config["collect"]["noise"]))


def idql(trained: Mapping[str, Sequence[Training]]) -> dict[str, Arm]:
    """The critic of chunks over the diffusion policy of the same seed, for each reward."""
    found: dict[str, Arm] = {}
    for reward in REWARDS.values():
        critics, policies = trained.get(f"iql_chunks, {reward}", ()), trained.get("diffusion", ())
        pairs = [
            Candidate(policy.folder, 0.0, Steering(f"{critic.folder}/critic", SAMPLES))
            for policy, critic in zip(policies, critics, strict=False)
        ]
        found |= {f"idql, {reward}": Arm(f"idql, {reward}", tuple(pairs))} if pairs else {}
    return found


def candidates(folders: Sequence[str]) -> tuple[Candidate, ...]:
    """Policies of one method."""
    return tuple(Candidate(folder) for folder in folders)


def lines(rollouts: Mapping[str, Sequence[Any]]) -> list[str]:
    """The table; differences from cloning are of the seeds that both have, and of chunks from cloning of chunks too."""
    success = {name: results.stacked(several) for name, several in rollouts.items()}
    rows = [
        "| learner, reward | seeds x starts | success | minus bc | minus bc_chunks | return |",
        "|---|---|---|---|---|---|",
    ]

    def minus(name: str, base: str) -> str:
        if name in ("behaviour", "bc", base) or base not in success:
            return ""
        least = min(len(success[name]), len(success[base]))
        return str(difference(success[name][:least], success[base][:least]))

    for name, found in success.items():
        size = f"{len(found)} x {found.shape[1]}" if name != "behaviour" else f"- x {found.shape[1]}"
        returns = sum(float(one.returns.mean()) for one in rollouts[name]) / len(found)
        whole = minus(name, "bc_chunks") if name.startswith("iql_chunks") else ""
        rows.append(f"| {name} | {size} | {rate(found).percent()} | {minus(name, 'bc')} | {whole} | {returns:.0f} |")
    return rows


if __name__ == "__main__":
    main()
