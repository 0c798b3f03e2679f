"""Turns of the flywheel in simulation: record by deploying who is in service, take a turn, and again.

The first data are the scripted expert's with half of its actions random, and so is the first incumbent's recording;
from then on whoever was promoted last is deployed on the twin, in lock step. Settings behind the known ones are those
of `vlmrl flywheel`.

    python benchmarks/flywheel.py out=runs/flywheel [turns=3] [episodes=40] [task=so101/reach] [labeler=scripted ...]
"""

import sys
from pathlib import Path

from vlmrl import config as configuration
from vlmrl.cli import flywheel, jobs
from vlmrl.cli.deploy import DeployConfig, node
from vlmrl.deploy.inference import Inline
from vlmrl.deploy.pilot import PolicyPilot
from vlmrl.deploy.seams import ActionQueue
from vlmrl.evaluate.candidates import Candidate
from vlmrl.robot import load_robot
from vlmrl.sim import load_task
from vlmrl.store import Store


def record(folder: Path, turn: int, task_name: str, episodes: int) -> Path:
    """Deploy who is in service, unless these episodes are there; their store."""
    place = folder / f"recorded{turn}"
    done = len(Store.open(place / "store").episodes) if (place / "store" / "manifest.json").is_file() else 0
    if done >= episodes:
        return place / "store"
    place.mkdir(parents=True, exist_ok=True)
    task = load_task(task_name)
    spec = load_robot(task.physics.name)
    served = flywheel.service(folder)
    candidate = Candidate(str(folder / served)) if served else Candidate("expert", noise=0.5)
    config = DeployConfig(
        task=task_name,
        driver="mujoco",
        lockstep=True,
        episodes=episodes - done,
        seed=1000 * turn + done,
        store=str(place / "store"),
    )
    pilot = PolicyPilot(Inline(candidate.make(task)), spec, ActionQueue("hold"), 0)
    with node(config, pilot, place, whole=False) as made:
        report = made.run()
    if report.ended != "all episodes done":
        raise SystemExit(report.ended)
    return place / "store"


def main(given: dict[str, str]) -> None:
    """Run, and print each turn's table."""
    folder, task = Path(given.pop("out", "runs/flywheel")), given.setdefault("task", "so101/reach")
    turns, episodes = int(given.pop("turns", "3")), int(given.pop("episodes", "40"))
    further = [f"{key}={value}" for key, value in ({"labeler": "scripted"} | given).items()]
    jobs.register()
    for turn in range(1, turns + 1):
        if any(one.number >= turn and one.decision for one in flywheel.turns(folder)):
            continue
        store = record(folder, turn, task, episodes)
        flywheel.main(configuration.compose("flywheel", [*further, f"recorded=[{store}]"]), folder)


if __name__ == "__main__":
    main(dict(argument.split("=", 1) for argument in sys.argv[1:]))
