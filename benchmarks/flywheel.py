"""Turns of the flywheel in simulation: log, take a turn, and log again with whoever is in service.

A lab's logs of mixed quality come in every turn: `logs` episodes of the scripted expert, every other one with half of
its actions random; and `served` more of the policy that is in service, deployed on the twin in lock step. Who is in
service before the first promotion is a clone of the first turn's logs (`vlmrl train learner=bc`). Settings behind the
known ones are those of `vlmrl flywheel`.

    python benchmarks/flywheel.py [out=runs/flywheel] [turns=3] [logs=100] [served=25] [task=so101/reach] [pairs=...]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
from pathlib import Path

from vlmrl import config as configuration
from vlmrl.cli import flywheel, jobs, train
from vlmrl.cli.deploy import DeployConfig, node
from vlmrl.deploy.inference import Inline
from vlmrl.deploy.pilot import PolicyPilot
from vlmrl.deploy.seams import ActionQueue
from vlmrl.evaluate.candidates import Candidate
from vlmrl.robot import load_robot
from vlmrl.sim import load_task
from vlmrl.store import Store

NOISES = (0.0, 0.5)
"""Shares of random actions of those who made the logs."""


def record(candidate: Candidate, place: Path, task_name: str, episodes: int, *, seed: int) -> str:
    """Deploy a policy, unless these episodes are there; their store."""
    store = place / "store"
    done = len(Store.open(store).episodes) if (store / "manifest.json").is_file() else 0
    if done >= episodes:
        return str(store)
    place.mkdir(parents=True, exist_ok=True)
    task = load_task(task_name)
    config = DeployConfig(
        task=task_name, driver="mujoco", lockstep=True, episodes=episodes - done, seed=seed + done, store=str(store)
    )
    pilot = PolicyPilot(Inline(candidate.make(task)), load_robot(task.physics.name), ActionQueue("hold"), 0)
    with node(config, pilot, place, whole=True) as made:
        report = made.run()
    if report.ended != "all episodes done":
        raise SystemExit(report.ended)
    return str(store)


def cloned(stores: list[str], folder: Path) -> str:
    """A clone of the first logs, which is in service before the first promotion."""
    data = folder / "clone" / "store"
    flywheel.merge(data, [Path(store) for store in stores])
    settings = [f"store={data}", "learner=bc", "action=action_requested", "learner.updates=5000", "workers=1"]
    train.main(configuration.compose("train", settings), folder / "clone")
    return str(folder / "clone" / "policies" / "seed0")


def main(given: dict[str, str]) -> None:
    """Run, and print each turn's table."""
    folder, task = Path(given.pop("out", "runs/flywheel")), given.setdefault("task", "so101/reach")
    counts = {"turns": 3, "logs": 100, "served": 25}
    turns, logs, served = (int(given.pop(key, usual)) for key, usual in counts.items())
    further = [f"{key}={value}" for key, value in ({"labeler": "scripted"} | given).items()]
    jobs.register()
    for turn in range(1, turns + 1):
        if any(one.number >= turn and one.decision for one in flywheel.turns(folder)):
            continue
        stores = [
            record(
                Candidate("expert", noise=noise),
                folder / f"recorded{turn}" / f"logs{k}",
                task,
                logs // len(NOISES),
                seed=10_000 * turn + 1_000 * k,
            )
            for k, noise in enumerate(NOISES)
        ]
        clone = cloned(stores, folder) if turn == 1 else str(folder / "clone" / "policies" / "seed0")
        serving = flywheel.located(flywheel.service(folder) or clone, folder)
        place = folder / f"recorded{turn}" / "served"
        stores.append(record(Candidate(serving), place, task, served, seed=10_000 * turn + 5_000))
        settings = [*further, f"incumbent={clone}", f"recorded=[{','.join(stores)}]"]
        flywheel.main(configuration.compose("flywheel", settings), folder)


if __name__ == "__main__":
    main(dict(argument.split("=", 1) for argument in sys.argv[1:]))
