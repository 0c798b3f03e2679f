"""People's demonstrations executed again: the 25 of the Adroit door, in `task=adroit_door`.

    python benchmarks/human_replay.py FOLDER [--out runs/human-replay]

FOLDER holds `demos.npz` (D4RL's layout, hand_dapg's demonstrations). Makes two stores: `recording`, what was recorded
with the simulator state in which each demonstration began, and `replay`, the same actions executed by
`vlmrl data collect task=adroit_door policy=replay source=recording`, with a picture of every fifth step and all truth.

The file's own `init_qpos` is not where the demonstrations began: its arm is at zero, that of the first observation is
not. The beginning is therefore read from the first observation (joints, latch and door), and the arm's slide, which is
not observed, is solved from the observed palm; the hand is at rest, the door's frame at `init_door_body_pos`.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from vlmrl.evaluate import collect, replay
from vlmrl.sim import SimEnv, load_task, make
from vlmrl.store import Store
from vlmrl.types import Episode

PALM = slice(29, 32)
"""Of the observation, m."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/human-replay"))
    parser.add_argument("--episodes", type=int, default=25)
    arguments = parser.parse_args()
    task = load_task("adroit_door")
    recording = arguments.out / "recording"
    if not (recording / "manifest.json").exists():
        record(arguments.folder / "demos.npz", recording)
    config = collect.Config(policy=collect.REPLAY, source=str(recording), episodes=arguments.episodes)
    print(report(Store.open(recording), collect.fill(arguments.out / "replay", task, config)))


def record(source: Path, out: Path) -> None:
    """The file as a store."""
    demos = {key: values for key, values in np.load(source).items()}
    env = make(load_task("adroit_door"))
    try:
        starts = np.r_[0, demos["episode_ends"][:-1]]
        spans = list(zip(starts, demos["episode_ends"], strict=True))
        episodes = [demonstration(env, demos, k, slice(*span)) for k, span in enumerate(spans)]
    finally:
        env.close()
    Store.create(out, meta={"source": str(source)}).append(episodes)


def demonstration(env: SimEnv, demos: dict[str, np.ndarray], k: int, rows: slice) -> Episode:
    """One demonstration; the simulator's state is known at its first row alone."""
    observed = demos["observations"][rows].astype(np.float32)
    has_next = np.arange(len(observed)) < len(observed) - 1
    first = beginning(env, observed[0].astype(np.float64), demos["init_door_body_pos"][k])
    states = np.full((len(observed), len(first)), np.nan)
    states[0] = first
    return Episode(
        action=demos["actions"][rows].astype(np.float32),
        obs={"state": observed},
        time=np.arange(len(observed)) / env.task.control_hz,
        has_action=np.ones(len(observed), np.bool_),
        has_next=has_next,
        terminated=False,
        truncated=True,
        task=env.task.name,
        instruction=env.task.instruction,
        source="a person, by data glove",
        sim_state=states,
        id=f"adroit_door-human-{k:02d}",
    )


def beginning(env: SimEnv, observed: np.ndarray, door: np.ndarray) -> np.ndarray:
    """The simulator's state that shows the first observation of a demonstration."""
    import mujoco

    env.reset(seed=0)
    env.model.body("frame").pos[:] = door
    env.data.qvel[:] = 0
    env.data.qpos[:] = [0, *observed[:27], observed[28], observed[27]]
    site = env.model.site("S_grasp").id

    def palm(slide: float) -> np.ndarray:
        env.data.qpos[0] = slide
        mujoco.mj_forward(env.model, env.data)
        return env.data.site_xpos[site].copy()

    # The palm moves along a line with the slide.
    origin, direction = palm(0.0), (palm(0.1) - palm(0.0)) / 0.1
    palm(float(direction @ (observed[PALM] - origin) / (direction @ direction)))
    # The environment remembers what it saw last.
    dynamics: Any = env._dynamics
    dynamics._see(dynamics._inner._get_obs())
    return env.sim_state()


def report(recorded: Store, replayed: Store) -> str:
    """How far each replay leads from its recording, and what it opened."""
    lines = [
        str(replay.reproduction(replayed)),
        "demonstration  door recorded  door replayed (rad)  joints apart, at most",
    ]
    for name in replayed.episodes.id:
        then, now = (
            s.episode(i, images=False) for s, i in ((recorded, name.removesuffix("-replay")), (replayed, name))
        )
        rows = len(then)
        apart = np.abs(then.obs["state"][:, :27] - now.obs["state"][:rows, :27]).max()
        doors = [episode.obs["state"][:, 28].max() for episode in (then, now)]
        lines.append(f"{name:28} {doors[0]:5.2f} {doors[1]:5.2f} {apart:6.3f} {'opened' if now.success == 1 else ''}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
