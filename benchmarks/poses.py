"""How well an image-text model tells the humanoid's goal poses: EPIC distance and AUROC, goal by goal.

    vlmrl task poses humanoid out=runs/poses
    python benchmarks/poses.py runs/poses [--checkpoint zeroshot] [--alpha 0 0.5 1]

Every pose is scored against each task's caption, with its baseline where alpha is above 0 (VLM-RM's prompts, formula).
EPIC is 0 for the goal's own indicator, 0.71 where unrelated; AUROC is 0.5 there. 95 % intervals over poses.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from vlmrl.encoder import DualEncoder
from vlmrl.reward import clip, epic
from vlmrl.reward.quality_ranking import auroc, pearson
from vlmrl.reward.resample import interval, weights
from vlmrl.sim import Task, load_task, task_names
from vlmrl.store import Store


def main() -> None:
    arguments = _arguments()
    store, encoder = Store.open(arguments.store), DualEncoder.load(arguments.checkpoint, device="auto")
    tasks = {n.partition("/")[2]: load_task(n) for n in task_names() if n.startswith(f"{arguments.group}/")}
    first = store.episodes.start
    draws = weights(len(first))
    print(f"{encoder.name} on {len(first)} poses of {store.path}\n")
    print(
        f"{'goal':14} {'poses':>5}  " + "  ".join(f"{f'alpha {a:g}: EPIC':>22} {'AUROC':>18}" for a in arguments.alpha)
    )
    for goal, task in tasks.items():
        shown = store.column(f"truth/{goal}")[first + 1] > 0
        cells = [_cells(_scores(store, encoder, task, alpha)[first], shown, draws) for alpha in arguments.alpha]
        print(f"{goal:14} {shown.sum():5}  " + "  ".join(cells))
    captions = np.stack([_scores(store, encoder, task, 0.0)[first] for task in tasks.values()], 1)
    print("\n" + _told_apart(store, captions, list(tasks)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--group", default="humanoid")
    parser.add_argument("--checkpoint", default="zeroshot", help="seen, zeroshot, a folder or a hub id")
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    return parser.parse_args()


def _scores(store: Store, encoder: DualEncoder, task: Task, alpha: float) -> np.ndarray:
    config = clip.Config(camera=store.cameras[0], goals=(task.caption,))
    if alpha > 0:
        config = replace(config, baselines=(task.baseline,), alpha=alpha)
    return clip.build(config, encoder=encoder).column(store)[0].astype(np.float64)


def _cells(score: np.ndarray, shown: np.ndarray, draws: np.ndarray) -> str:
    distance = epic.distance(pearson(score, shown.astype(np.float64), np.arange(len(score)), draws))
    return "  ".join(
        f"{found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]".rjust(width)
        for found, width in ((interval(distance), 22), (interval(auroc(score, shown, draws)), 17))
    )


def _told_apart(store: Store, captions: np.ndarray, goals: list[str]) -> str:
    """How often a pose's own goal has the best of all captions, where it shows one beyond standing."""
    rows = store.episodes.start + 1
    truth = np.stack([store.column(f"truth/{goal}")[rows] > 0 for goal in goals], 1)
    truth[truth.sum(1) > 1, goals.index("standing")] = False
    some = truth.any(1)
    right = int(truth[some, captions[some].argmax(1)].sum())
    return (
        f"a pose's own caption scores highest: {right} of {some.sum()} poses (by chance {some.sum() / len(goals):.0f})"
    )


if __name__ == "__main__":
    main()
