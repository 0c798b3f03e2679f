"""Three rounds of the flywheel in simulation: collect by deploying, train on all that was collected, deploy again.

Round 0 is the scripted expert with random actions among its own; each later round deploys what the round before left.
Data accumulate in one store; failures stay in it, but cloning takes the successes only (filtered behaviour cloning).
Every policy is then evaluated from the same held-out starts.

    python benchmarks/flywheel.py out=runs/flywheel
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from vlmrl.cli.deploy import DeployConfig, node
from vlmrl.deploy.inference import Inline
from vlmrl.deploy.pilot import PolicyPilot
from vlmrl.deploy.seams import ActionQueue
from vlmrl.evaluate.candidates import Candidate
from vlmrl.evaluate.rollout import evaluation_seeds, rollout
from vlmrl.interval import wilson
from vlmrl.learn import fit, learner
from vlmrl.policy import LearnedPolicy
from vlmrl.robot import load_robot
from vlmrl.runfolder import Metrics
from vlmrl.sim import load_task
from vlmrl.store import Store

TASK, ROUNDS, COLLECT, EVALUATE, UPDATES = "so101/reach", 3, 20, 50, 1500


def collect(folder: Path, round_: int, candidate: Candidate, seed: int) -> list[int]:
    """Deploy on the twin in lock step, into the store; the outcomes."""
    task = load_task(TASK)
    spec = load_robot(task.physics.name)
    place = folder / f"round{round_}"
    place.mkdir(parents=True, exist_ok=True)
    config = DeployConfig(
        task=TASK, driver="mujoco", lockstep=True, cameras=(), episodes=COLLECT, seed=seed, store=str(folder / "store")
    )
    pilot = PolicyPilot(Inline(candidate.make(task)), spec, ActionQueue("hold"), 0)
    with node(config, pilot, place, whole=False) as made:
        report = made.run()
    if report.ended != "all episodes done":
        raise SystemExit(report.ended)
    return list(report.outcomes)


def train(folder: Path, round_: int) -> str:
    """Clone what was asked for in the successful episodes so far."""
    store = Store.open(folder / "store")
    transitions = store.transitions(action="action_requested")
    won = store.episodes.success[transitions.episode] == 1
    chosen = replace(
        transitions,
        **{
            name: getattr(transitions, name)[won] for name in ("obs", "action", "reward", "mask", "next_obs", "episode")
        },
    )
    config = learner("bc").Config(updates=UPDATES)
    place = folder / f"policy{round_}"
    place.mkdir(parents=True, exist_ok=True)
    learned = fit("bc", chosen, config, seed=round_, metrics=Metrics(place / "metrics.jsonl"), quiet=True)
    columns = {name: store.attributes[name] for name in ("obs/state", "action")}
    policy = LearnedPolicy(
        learned.policy, f"bc, round {round_}", ("state",), {"columns": columns, "rows": int(won.sum())}
    )
    policy.save_pretrained(place)
    return str(place)


def main(folder: Path) -> None:
    """Run, and print the table."""
    task, rows = load_task(TASK), []
    candidate = Candidate("expert", noise=0.5)
    for round_ in range(ROUNDS):
        outcomes = collect(folder, round_, candidate, seed=1000 * (round_ + 1))
        candidate = Candidate(train(folder, round_))
        found = rollout(task, candidate.make(task), evaluation_seeds(EVALUATE))
        rate = wilson(int(found.success.sum()), EVALUATE)
        collected = wilson(sum(outcomes), len(outcomes))
        store = Store.open(folder / "store")
        won = int((store.episodes.success == 1).sum())
        rows.append(
            {
                "round": round_,
                "collected": collected.percent(),
                "episodes": len(store.episodes),
                "successes": won,
                "held_out": rate.percent(),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    head = ("round", "success while collecting", "episodes", "successes", "policy from held-out starts")
    for cells in (head, *(row.values() for row in rows)):
        print("  ".join(f"{cell!s:<{len(name)}}" for cell, name in zip(cells, head, strict=True)))
    (folder / "flywheel.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main(Path(dict(a.split("=", 1) for a in sys.argv[1:]).get("out", "runs/flywheel")))
