"""`vlmrl evaluate`: run policies in simulation from shared initial states and print rates with their intervals."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from vlmrl import config as configuration
from vlmrl.errors import ConfigError
from vlmrl.evaluate import grid, parquet, summary
from vlmrl.evaluate.candidates import BUILT_IN, Arm, Steering, arm, listed, pair
from vlmrl.evaluate.comparison import page
from vlmrl.evaluate.comparison.read import keep
from vlmrl.evaluate.job import Evaluated, Plan, check_folder, evaluate
from vlmrl.evaluate.lanes import lanes
from vlmrl.evaluate.observing import demand, looks
from vlmrl.evaluate.rollout import evaluation_seeds
from vlmrl.evaluate.video import write_video
from vlmrl.reward.preference import PreferenceReward
from vlmrl.runfolder import masked, provenance, write_json
from vlmrl.sim import Task, load_task, matching


@dataclass(frozen=True)
class EvaluateConfig:
    """Run policies in simulation from shared initial states; rates come with intervals, episodes with their records."""

    policy: Any = ""
    """Folder or hub id of a saved policy; [A,B,C]: one method trained from several seeds; expert: the task's scripted
    expert; random: uniform random actions."""
    task: Any = "drawer_open"
    """Task, or [A,B] for several; metaworld/* for all of a group."""
    versus: Any = None
    """Another policy or method from the same initial states; differences are paired."""
    critic: Any = None
    """Folder of a saved critic: of the chunks that `policy` draws, the one is executed whose first action it values
    (V-GPS), or whose first `chunk` actions, of a critic trained with chunk=N. [A,B,C]: one for each training seed."""
    samples: int = 10
    """Chunks drawn for each decision, with critic. More is not always better: a weak critic is exploited."""
    temperature: float = 0.0
    """Of the softmax over the critic's values; 0: the highest."""
    average: bool = False
    """Execute the mean of the chunks weighted by that softmax, not one of them."""
    spread: float = 1.0
    """Scale of the chance behind the samples: less than 1 keeps them nearer to the policy's mean, which is what a clone
    of noisy logs is good at, and the critic where it has seen more."""
    budget_s: float | None = None
    """Seconds that drawing and choosing may take before the policy acts alone; results then depend on the machine."""
    episodes: int = 50
    """Initial states, each its own seed, the same for every policy; with a margin: at most."""
    margin: float = 0.0
    """Stop as soon as the interval reaches no farther than this from its estimate (0.05: five points), of the rate, or
    with versus of the difference. The interval is one that may be looked at at any time; 0: run all episodes."""
    noise: float = 0.0
    """Share of random actions of policy=expert."""
    envs: int = 10
    """Environments at once; the result does not depend on it."""
    workers: int = 1
    """Processes they run in; 0: as many as there are processors. The result does not depend on it either."""
    check: Literal["", "observations"] = ""
    """observations: fail unless the policy does better with its own observations than with another episode's."""
    film: int = 8
    """Episodes in the film of successes and failures; 0: no film."""
    film_every: int = 3
    """Control steps between its pictures."""
    reward: str = ""
    """Folder of a learned reward, to be drawn over the film."""


def main(content: Mapping[str, Any], folder: Path) -> None:
    """Run the job that a composed configuration describes."""
    if not content["policy"]:
        raise ConfigError(
            "evaluate needs a policy: vlmrl evaluate policy=FOLDER (vlmrl train makes one); "
            f"built in: {', '.join(BUILT_IN)}"
        )
    config = configuration.build(EvaluateConfig, content, where="evaluate")
    check(config)
    tasks = [load_task(name) for name in matching(listed(config.task))]
    arms = chosen(config)
    if config.margin and any(len(one.candidates) > 1 for one in arms.values()):
        raise ConfigError("margin is for single policies: with several training seeds it is they that decide the width")
    reward = PreferenceReward.from_pretrained(config.reward) if config.reward else None
    for task in tasks:
        check_folder(task, arms, folder)
    write_json(folder / "config.json", masked(dict(content)))
    write_json(folder / "meta.json", provenance())
    workers = config.workers or len(os.sched_getaffinity(0))
    plan = Plan(config.episodes, margin=config.margin, envs=config.envs, workers=workers)
    checks = observations(tasks, arms, plan) if config.check else {}
    results = [evaluate(task, arms, plan, folder, quiet=False) for task in tasks]
    tell(results, checks, config, folder)
    if config.film and find_spec("av") is None:
        print("no film: it needs PyAV, pip install 'vlmrl[video]'")
    elif config.film and config.budget_s is not None:
        print("no film: with budget_s an episode that is run again may be another")
    elif config.film:
        for found in results:
            film(found, config, reward, folder)
    print(f"page: {page.write([folder], folder / 'report.html')}")


def chosen(config: EvaluateConfig) -> Mapping[str, Arm]:
    """The method or the two of them; noise is that of the one that is the scripted expert.

    Raises:
        ConfigError: if a list is no method, or nobody takes the noise.
    """
    first, second = listed(config.policy), listed(config.versus)
    somebody = "expert" in {*first, *second}
    shares = [config.noise if "expert" in one or not somebody else 0.0 for one in (first, second)]
    other = arm(second, noise=shares[1], where="versus") if second else None
    steering = [
        Steering(critic, config.samples, config.temperature, config.average, config.spread, config.budget_s)
        for critic in listed(config.critic)
    ]
    return pair(arm(first, noise=shares[0], where="policy", steering=steering), other)


def check(config: EvaluateConfig) -> None:
    """Refuse numbers that make no sense.

    Raises:
        ConfigError: what was found, and what is wanted.
    """
    if not listed(config.task):
        raise ConfigError("evaluate needs a task: task=NAME (vlmrl task list)")
    if config.episodes < 1 or config.envs < 1 or config.workers < 0 or not 0 <= config.margin < 1:
        found = f"{config.episodes}, {config.envs}, {config.workers}, {config.margin}"
        raise ConfigError(f"episodes and envs from 1, workers from 0, margin from 0 to 1 wanted, found {found}")
    if config.film_every < 1 or config.film < 0:
        raise ConfigError(f"film from 0 and film_every from 1 wanted, found {config.film} and {config.film_every}")


def observations(tasks: Sequence[Task], arms: Mapping[str, Arm], plan: Plan) -> dict[str, object]:
    """Fail unless each policy looks; return the figures."""
    found: dict[str, object] = {}
    for task in tasks:
        with lanes(task, min(plan.envs, plan.episodes), workers=plan.workers) as pool:
            for name, one in arms.items():
                for k, candidate in enumerate(one.candidates):
                    seen = looks(task, candidate.make(task), evaluation_seeds(min(plan.episodes, 20)), envs=pool)
                    demand(seen, name, task.name)
                    found[f"{task.name}/{name}/{k}"] = asdict(seen)
                    print(f"{name} looks in {task.name}: own observations minus another's: success {seen.success}")
    return found


def tell(results: Sequence[Evaluated], checks: Mapping[str, object], config: EvaluateConfig, folder: Path) -> None:
    """Print the table and what critics chose, and write them and the episodes."""
    lines = [line for found in results for line in summary.lines(found)]
    total = summary.overall(results)
    keep(results, summary.as_json(lines, total) | {"observations": checks}, folder)
    print(f"\n{summary.text(lines)}\n")
    if total:
        print(f"{summary.overall_text(total)}\n")
    for line in lines:
        for remark in line.remarks:
            print(f"{line.method} in {line.task}: {remark}")
    for found in results:
        if found.stopped is not None:
            count = len(next(iter(found.rollouts.values()))[0].seeds)
            reached = "margin reached" if count < config.episodes else "all episodes run"
            print(f"{found.task.name}: {reached} after {count} episodes: {found.stopped.percent()}, valid at any stop")
    tell_choices(results, folder)
    if find_spec("pyarrow") is None:
        print(f"episodes in {folder / 'episodes'} (as one Parquet file with pyarrow: pip install 'vlmrl[video]')")
    else:
        count = parquet.write(results, folder / "episodes.parquet")
        print(f"{count} episodes in {folder / 'episodes.parquet'}")


def tell_choices(results: Sequence[Evaluated], folder: Path) -> None:
    """Print and write what critics chose."""
    choices = {found.task.name: found.choices for found in results if found.choices}
    for task, methods in choices.items():
        for name, some in methods.items():
            for chosen in some:
                print(f"{name} in {task}: {chosen.text()}")
    if choices:
        write_json(
            folder / "choices.json",
            {t: {n: [asdict(c) for c in some] for n, some in methods.items()} for t, methods in choices.items()},
        )


def film(found: Evaluated, config: EvaluateConfig, reward: PreferenceReward | None, folder: Path) -> None:
    """Film the first policy of each method."""
    for name, rollouts in found.rollouts.items():
        episodes = rollouts[0].episodes
        path = folder / "films" / found.task.name / f"{name.replace('/', '_')}.mp4"
        policy = found.arms[name].candidates[0].make(found.task)
        shown = grid.films(
            found.task, policy, grid.choose(episodes, config.film), every=config.film_every, reward=reward
        )
        title = f"{name} in {found.task.name}: {found.task.instruction}"
        counts = (sum(e.success for e in episodes), len(episodes))
        pictures = grid.grid(shown, title=title, counts=counts)
        write_video(pictures, path, fps=found.task.control_hz / config.film_every)
        print(f"film: {path}")
