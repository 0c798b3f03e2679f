"""The distilling stage of the main job: one reward for each training seed, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from vlmrl.cli.pool import side_by_side
from vlmrl.reward.distill import distill
from vlmrl.reward.preference import Config as RewardConfig
from vlmrl.runfolder import Metrics, read_json
from vlmrl.store import Store
from vlmrl.types import Preferences


@dataclass(frozen=True)
class Distillation:
    """One reward to train."""

    store: str
    preferences: Preferences
    config: RewardConfig
    camera: str
    seed: int
    folder: str
    quiet: bool

    @property
    def done(self) -> bool:
        """Whether the reward of these very answers is there already."""
        path = Path(self.folder) / "config.json"
        return path.is_file() and read_json(path)["facts"]["snapshot"] == self.preferences.snapshot


def distill_all(
    store: Store,
    preferences: Preferences,
    config: RewardConfig,
    *,
    camera: str,
    seeds: Sequence[int],
    folder: Path,
    workers: int,
) -> None:
    """Distill the answers once for each seed into `folder/seed*`, unless it is done."""
    # Bars of several processes would write over each other.
    quiet = len(seeds) > 1
    wanted = [
        Distillation(str(store.path), preferences, config, camera, seed, str(folder / f"seed{seed}"), quiet)
        for seed in seeds
    ]
    missing = [one for one in wanted if not one.done]
    progress = side_by_side(distill_one, missing, workers=workers)
    for _ in tqdm(progress, desc="distill", unit="reward", total=len(missing), disable=not missing or not quiet):
        pass


def distill_one(one: Distillation) -> None:
    """Train one reward and save it."""
    folder = Path(one.folder)
    trained = distill(
        Store.open(one.store),
        one.preferences,
        one.config,
        camera=one.camera,
        seed=one.seed,
        metrics=Metrics(folder.parent.parent / "metrics.jsonl"),
        name=f"reward/seed{one.seed}",
        quiet=one.quiet,
    )
    trained.save_pretrained(folder)
