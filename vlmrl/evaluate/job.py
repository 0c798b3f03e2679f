"""An evaluation: methods from the same initial states, episode by episode on disk, until there are enough."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from vlmrl.evaluate import sequential
from vlmrl.evaluate.candidates import Arm, Candidate
from vlmrl.evaluate.journal import Journal, physics_key, task_key
from vlmrl.evaluate.lanes import LanePool, Outcome, lanes
from vlmrl.evaluate.rollout import FIRST_EVALUATION_SEED, Rollouts, distinct, gathered, rollout
from vlmrl.interval import Interval
from vlmrl.policy.rerank import Choices, RerankedPolicy
from vlmrl.sim import Task
from vlmrl.types import Policy


@dataclass(frozen=True)
class Plan:
    """How much is run, and how."""

    episodes: int
    """At most."""
    margin: float = 0.0
    """Stop where the anytime-valid interval reaches no farther than this; 0: run all."""
    envs: int = 10
    workers: int = 1
    first: int = FIRST_EVALUATION_SEED
    """Initial state of the first episode; the next has the next."""


@dataclass(frozen=True)
class Evaluated:
    """What came of one task."""

    task: Task
    arms: Mapping[str, Arm]
    rollouts: Mapping[str, Sequence[Rollouts]]
    """Of each method, one for each training seed."""
    stopped: Interval | None = None
    """The anytime-valid interval, where a margin was asked for: of the rate, or of the difference of two methods."""
    choices: Mapping[str, Sequence[Choices]] = field(default_factory=dict)
    """What the critics of steered methods chose in the episodes that were run now, one for each training seed."""


def place(folder: Path, task: str, name: str, index: int) -> Path:
    """Where the episodes of one policy lie."""
    words = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
    return folder / "episodes" / task / words / f"{index}.jsonl"


def check_folder(task: Task, arms: Mapping[str, Arm], folder: Path) -> None:
    """Refuse what `evaluate` would refuse before the first episode.

    Raises:
        ConfigError: if the folder holds episodes of something else, or the task has no scripted expert.
        DataError: if a file is damaged.
    """
    of_task = task_key(task) | physics_key(task)
    for name, arm in arms.items():
        for i, candidate in enumerate(arm.candidates):
            if (path := place(folder, task.name, name, i)).is_file():
                Journal(path, candidate.key() | of_task)
            if candidate.source == "expert":
                candidate.make(task)


def evaluate(task: Task, arms: Mapping[str, Arm], plan: Plan, folder: Path, *, quiet: bool = True) -> Evaluated:
    """Run every policy from the same initial states, in blocks, and go on where a former run was cut.

    Of a fixed start and a policy without chance, one episode is kept: the others would be copies of it.

    Raises:
        ConfigError: if the folder holds episodes of something else.
        DataError: if a guard finds the evaluation worthless.
    """
    seats = [(name, i, c) for name, arm in arms.items() for i, c in enumerate(arm.candidates)]
    of_task = task_key(task) | physics_key(task)
    journals = [Journal(place(folder, task.name, n, i), c.key() | of_task) for n, i, c in seats]
    seeds, count, stopped = list(range(plan.first, plan.first + plan.episodes)), 0, None
    done: list[list[Outcome]] = []
    copies = set[str]()
    with (
        _Runner(task, plan) as runner,
        tqdm(total=len(seeds) * len(seats), desc=task.name, unit="episode", disable=quiet, leave=False) as bar,
    ):
        while count < len(seeds):
            block = seeds[count : count + (2 if task.resets.fixed and count == 0 else plan.envs)]
            for journal, (name, _, candidate) in zip(journals, seats, strict=True):
                missing = [] if name in copies else [s for s in block if s not in journal.episodes]
                runner.run(candidate, missing, journal)
                distinct(task, list(journal.episodes.values()))
                bar.update(len(block))
            before, count = count, count + len(block)
            if task.resets.fixed and not before and count > 1:
                one = [same([journal.episodes[s] for s in seeds[:2]]) for journal in journals]
                copies = {n for n in arms if all(o for o, (name, _, _) in zip(one, seats, strict=True) if name == n)}
            if len(copies) == len(arms):
                break
            done = [
                [journal.episodes[seeds[0] if name in copies else s] for s in seeds[:count]]
                for journal, (name, _, _) in zip(journals, seats, strict=True)
            ]
            if plan.margin and (found := _enough(done, before + 1, plan.margin)):
                count, stopped = found
                break
        else:
            stopped = _interval(done, count) if plan.margin else None
        chosen = {name: runner.choices(arm.candidates) for name, arm in arms.items()}
    rollouts: dict[str, list[Rollouts]] = {name: [] for name in arms}
    for journal, (name, _, candidate) in zip(journals, seats, strict=True):
        weights = str(candidate.key().get("weights", ""))
        kept = seeds[: 1 if name in copies else count]
        rollouts[name].append(gathered(name, [journal.episodes[s] for s in kept], weights=weights))
    return Evaluated(task, arms, rollouts, stopped, {name: some for name, some in chosen.items() if some})


class _Runner:
    """Opens environments and policies when the first episode is missing, and keeps them."""

    def __init__(self, task: Task, plan: Plan) -> None:
        self._task, self._plan, self._stack = task, plan, ExitStack()
        self._pool: LanePool | None = None
        self._policies: dict[Candidate, Policy] = {}

    def __enter__(self) -> "_Runner":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(self, candidate: Candidate, seeds: Sequence[int], journal: Journal) -> None:
        """Run what is missing."""
        if not seeds:
            return
        if self._pool is None:
            count = min(self._plan.envs, self._plan.episodes)
            self._pool = self._stack.enter_context(lanes(self._task, count, workers=self._plan.workers))
        if candidate not in self._policies:
            self._policies[candidate] = candidate.make(self._task)
        rollout(self._task, self._policies[candidate], seeds, envs=self._pool, each=journal.add)

    def choices(self, candidates: Sequence[Candidate]) -> list[Choices]:
        """What those of the candidates chose that are steered and have run."""
        made = [self._policies[candidate] for candidate in candidates if candidate in self._policies]
        return [policy.choices for policy in made if isinstance(policy, RerankedPolicy)]


def same(episodes: Sequence[Outcome]) -> bool:
    """Whether a fixed start and a policy without chance made copies of one episode."""
    return len({(e.start, e.actions, e.returns) for e in episodes}) == 1


def _enough(done: Sequence[Sequence[Outcome]], start: int, margin: float) -> tuple[int, Interval] | None:
    """The first number of episodes at which the interval is narrow enough, however many were run at once."""
    found = sequential.stop_at(len(done[0]), lambda n: _interval(done, n), margin, start=start)
    return None if found is None else (found, _interval(done, found))


def _interval(done: Sequence[Sequence[Outcome]], count: int) -> Interval:
    """Of the only policy's rate, or of the difference of the two."""
    success = [[e.success for e in episodes[:count]] for episodes in done]
    if len(success) == 1:
        return sequential.rate(sum(success[0]), count)
    return sequential.paired(success[0], success[1])
