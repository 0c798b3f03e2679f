"""`vlmrl evaluate`: run policies in simulation from shared initial states and print rates with their intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmrl import config as configuration
from vlmrl.errors import ConfigError
from vlmrl.evaluate.results import save
from vlmrl.evaluate.rollout import evaluation_seeds, rollout
from vlmrl.evaluate.video import write_video
from vlmrl.interval import wilson
from vlmrl.policy import LearnedPolicy
from vlmrl.runfolder import masked, provenance, write_json
from vlmrl.sim import load_task


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of an evaluation."""

    policy: str = ""
    """Folder or hub id of a saved policy."""
    task: str = "drawer_open"
    episodes: int = 50
    """Each from its own seeded initial state, the same for every policy."""
    film_every: int = 3
    """Control steps between pictures of the first episode's video; 0: no video."""


def main(content: Mapping[str, Any], folder: Path) -> None:
    """Run the job that a composed configuration describes."""
    if not content["policy"]:
        raise ConfigError("evaluate needs a policy: vlmrl evaluate policy=FOLDER (vlmrl train makes one)")
    config = configuration.build(EvaluateConfig, content, where="evaluate")
    policy, task = LearnedPolicy.from_pretrained(config.policy), load_task(config.task)
    write_json(folder / "config.json", masked(dict(content)))
    write_json(folder / "meta.json", provenance())
    done = rollout(task, policy, evaluation_seeds(config.episodes), film_every=config.film_every, quiet=False)
    save(done, folder / "rollouts.json")
    rate = wilson(int(done.success.sum()), len(done.success))
    n = f"n = {len(done.success)} episodes, one policy"
    print(f"{policy.name} in {task.name}: success {rate.percent()} (Wilson 95 %), {n}")
    print(f"mean return {done.returns.mean():.1f}; rollouts in {folder / 'rollouts.json'}")
    if done.video:
        write_video(done.video, folder / "video.mp4", fps=task.control_hz / config.film_every)
        print(f"video of the first episode: {folder / 'video.mp4'}")
