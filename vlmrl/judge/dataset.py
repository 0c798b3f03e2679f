"""The judge's data set on disk: one `.npz` file for each task and split, made once and resumed task by task."""

import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vlmrl.judge.curriculum import lessons
from vlmrl.judge.scenes import SIDE, Pictures, Studio, View, near_view, random_view
from vlmrl.sim.task import Camera

SPLITS = ("train", "check", "test")
"""To learn from, to calibrate with, and to examine with; no two share an episode or a random view."""
_EPISODES = {"train": 100, "check": 12, "test": 16}
_ROWS = 10
_RANDOM_VIEWS = {"train": 80, "check": 3, "test": 3}
_NEAR_VIEWS = {"train": 80, "check": 3, "test": 0}
_VIEWS_EACH = {"train": 5, "check": 6, "test": 6}

PAPER = Camera((-0.6, 0.2, 0.35), (-1.0, 1.0, 0.0, -0.2, -0.2, -1.0), crop=(0.09, 0.14, 0.95, 1.0), flip=True)
"""RL-VLM-F's camera for Meta-World with the demo's wider crop, without the robot."""
STOCK = ("corner3", "corner", "paper")
"""The first views of the test split: two of Meta-World's own cameras with the robot, and the paper's without."""
_NEAR = ("corner", "corner2", "corner3", "topview", "paper")
"""Cameras near which the other splits put some of theirs."""


def path(folder: Path, task: str, split: str) -> Path:
    """Where the pictures of a task lie."""
    return folder / f"{task}-{split}.npz"


def make(folder: Path, *, workers: int = 2, seed: int = 0) -> None:
    """Make what is missing of the data set."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(name, split) for split in SPLITS for name in lessons() if not path(folder, name, split).is_file()]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_make_one, folder, name, split, seed) for name, split in wanted]
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="pictures", unit="task", dynamic_ncols=True):
            job.result()


def load(folder: Path, task: str, split: str) -> Pictures:
    """Read the pictures of a task."""
    with np.load(path(folder, task, split), allow_pickle=False) as file:
        return Pictures(**{name: file[name] for name in file.files})


def _make_one(folder: Path, name: str, split: str, seed: int) -> None:
    generator = np.random.default_rng([seed, SPLITS.index(split), zlib.crc32(name.encode())])
    studio = Studio(lessons()[name])
    centre = studio.centre(generator)
    views = [random_view(centre, studio.surfaces(), generator) for _ in range(_RANDOM_VIEWS[split])]
    known = studio.stock_cameras() | {"paper": PAPER}
    for k in range(_NEAR_VIEWS[split]):
        views.append(near_view(known[_NEAR[k % len(_NEAR)]], studio.surfaces(), generator))
    if split == "test":
        views = [View(camera) for camera in _stock(known)] + views
    pictures = studio.shoot(
        views, episodes=_EPISODES[split], views_each=_VIEWS_EACH[split], rows=_ROWS, generator=generator
    )
    target = path(folder, name, split)
    draft = target.with_suffix(f".{os.getpid()}.tmp.npz")
    np.savez(draft, **asdict(pictures))
    draft.replace(target)


def _stock(known: Mapping[str, Camera]) -> list[Camera]:
    return [replace(known[name], robot=name != "paper", height=SIDE, width=SIDE) for name in STOCK]
