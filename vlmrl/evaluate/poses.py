"""Reference poses of a group of tasks as a store: pictures to score, and which goals each one shows.

An episode is one pose: a row that shows it, and a row one control step later without any torque, so that the reward
of the first row is the score of a picture of the pose. `truth/<goal>` is 1 where the goal's pose holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlmrl.errors import ConfigError
from vlmrl.evaluate.collect import create_store
from vlmrl.sim import SimEnv, Task, load_task, make, task_names
from vlmrl.sim.poses import Measure, Ranges, holds, read_ranges
from vlmrl.sim.reference import ReferencePose, reference_poses
from vlmrl.store import Store
from vlmrl.store.frames import decode_frames
from vlmrl.types import Episode, Frames


@dataclass(frozen=True)
class Config:
    """Which poses are rendered, and how large."""

    out: str
    """Folder of the store that is made."""
    side: int | None = None
    """Pixels a side; null: those of the task's camera."""


def write(group: str, config: Config) -> Store:
    """Render every reference pose of a group of tasks into a new store.

    Raises:
        ConfigError: if the group has no tasks or no poses, or the folder holds a store.
    """
    goals = goal_poses(group)
    scene = replace(load_task(f"{group}/{next(iter(goals))}"), name=group, instruction="")
    if config.side is not None:
        judge = replace(scene.cameras[scene.camera], height=config.side, width=config.side)
        scene = replace(scene, cameras={**scene.cameras, scene.camera: judge})
    store = create_store(Path(config.out), scene)
    env = make(scene)
    try:
        store.append([_episode(env, scene, pose, goals) for pose in reference_poses(group, env.model)])
    finally:
        env.close()
    return store


def sheet(store: Store, path: Path, *, columns: int = 8, side: int = 180) -> Path:
    """Draw every pose with its name and the goals that it shows, for people to judge."""
    table, caption = store.episodes, 34
    lines = -(-len(table) // columns)
    page = Image.new("RGB", (columns * side, lines * (side + caption)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    goals = [name for name in store.columns() if name.startswith("truth/")]
    shown = {name.removeprefix("truth/"): store.column(name)[table.start] > 0 for name in goals}
    frames = decode_frames(store.snapshot, store.cameras[0], table.start, (side, side))
    for i, (name, frame) in enumerate(zip(table.id, frames, strict=True)):
        left, top = i % columns * side, i // columns * (side + caption)
        page.paste(Image.fromarray(frame), (left, top))
        pen.text((left + 4, top + side + 2), name.replace("_", " "), "#1f2933", font)
        pen.text((left + 4, top + side + 16), ", ".join(goal for goal in shown if shown[goal][i]), "#2f855a", font)
    page.save(path)
    return path


def goal_poses(group: str) -> Mapping[str, Ranges]:
    """The goal pose of every task of a group, by the task's name within it.

    Raises:
        ConfigError: if there is no such group, or a task of it has no goal pose.
    """
    names = [name for name in task_names() if name.startswith(f"{group}/")]
    if not names:
        groups = sorted({name.partition("/")[0] for name in task_names() if "/" in name})
        raise ConfigError(f"no group of tasks {group!r}; have: {', '.join(groups) or 'none'}")
    options = {name: load_task(name).physics.options for name in names}
    return {
        name.partition("/")[2]: read_ranges(given.get("pose"), f"task {name!r}: physics.options.pose")
        for name, given in options.items()
    }


def _episode(env: SimEnv, scene: Task, pose: ReferencePose, goals: Mapping[str, Ranges]) -> Episode:
    measure, still = Measure(env.model), np.zeros(len(env.action_names), np.float32)
    seen, states, pixels, shown = [], [], [], []
    env.reset(seed=0)
    pose.strike(env.model, env.data)
    for row in range(2):
        seen.append(env.observe()["state"] if row == 0 else env.step(still)[0]["state"])
        states.append(env.sim_state())
        pixels.append(env.frame())
        quantities = measure(env.data)
        shown.append({goal: holds(quantities, ranges) for goal, ranges in goals.items()})
    first = np.array([True, False])
    return Episode(
        action=np.stack([still, still]),
        obs={"state": np.stack(seen)},
        time=np.arange(2) / scene.control_hz,
        has_action=first,
        has_next=first.copy(),
        terminated=False,
        truncated=True,
        task=scene.name,
        instruction="",
        source="reference pose",
        images={scene.camera: Frames(np.stack(pixels), np.arange(2, dtype=np.int32))},
        truth={goal: np.array([row[goal] for row in shown], np.float32) for goal in goals},
        sim_state=np.stack(states),
        id=pose.name,
    )
