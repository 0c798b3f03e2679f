"""What an evaluation found: one line for each method in each task, one number over all tasks, and what was checked."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float64

from vlmrl.evaluate import aggregate, sequential
from vlmrl.evaluate.job import Evaluated
from vlmrl.evaluate.normalised import reference
from vlmrl.evaluate.observing import blind
from vlmrl.evaluate.rollout import Rollouts
from vlmrl.evaluate.statistics import difference, rate
from vlmrl.interval import Interval


@dataclass(frozen=True)
class Line:
    """One method in one task."""

    task: str
    method: str
    seeds: int
    """Training seeds; 0 where nothing was trained."""
    episodes: int
    """Of each training seed."""
    success: Interval
    success_end: float
    """Rate of success at the last step."""
    returns: float
    score: float | None
    """D4RL's normalised score, where there are references."""
    diverged: int
    """Episodes whose simulation failed; they count as failures."""
    versus: Interval | None
    """Success minus that of the other method, paired."""
    sequential: bool
    """Whether the interval (of the difference, where there is one) is valid at the time one chose to stop."""
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Overall:
    """One method over several tasks."""

    method: str
    unit: str
    """What is drawn again: training seeds, or initial states."""
    numbers: Mapping[str, Interval]


def lines(found: Evaluated) -> list[Line]:
    """One line a method; the first is compared with the second where there are two."""
    names, task = list(found.rollouts), found.task
    success = {name: stacked(found.rollouts[name]) for name in names}
    made = []
    for k, name in enumerate(names):
        rollouts, alone = found.rollouts[name], len(names) == 1
        gap = difference(success[name], success[names[1]]) if k == 0 and not alone else None
        stopped = found.stopped is not None and k == 0
        returns = float(np.mean([r.returns.mean() for r in rollouts]))
        scale = reference(task)
        made.append(
            Line(
                task=task.name,
                method=name,
                seeds=len(rollouts) if found.arms[name].trained else 0,
                episodes=success[name].shape[1],
                success=_rate(found, success[name]),
                success_end=float(np.mean([e.success_end for r in rollouts for e in r.episodes])),
                returns=returns,
                score=scale.score(returns) if scale else None,
                diverged=sum(r.diverged for r in rollouts),
                versus=found.stopped if stopped and not alone else gap,
                sequential=stopped,
                remarks=tuple(remarks(found, name)),
            )
        )
    return made


def _rate(found: Evaluated, success: Float64[np.ndarray, "seeds episodes"]) -> Interval:
    """Where the number of episodes was not fixed before, the interval that holds at any."""
    return rate(success) if found.stopped is None else sequential.rate(int(success.sum()), success.size)


def remarks(found: Evaluated, name: str) -> list[str]:
    """What a reader must know before citing the figure."""
    rollouts, task = found.rollouts[name], found.task
    count = len(rollouts[0].seeds)
    told = []
    if task.resets.fixed:
        what = "one episode is all there is to see" if count == 1 else "chance is the policy's own"
        told.append(f"every episode of {task.name} starts alike: {what}")
    if failed := sum(r.diverged for r in rollouts):
        told.append(f"the simulation failed in {failed} episodes, counted as failures")
    if early := sum(int((r.first_success == task.hold - 1).sum()) for r in rollouts):
        told.append(f"{early} episodes succeeded from their first step on: does the task start nearly solved?")
    if any(blind(r) for r in rollouts):
        told.append("every episode got the same actions to the bit: the policy ignores what it sees")
    if found.arms[name].trained and len(rollouts) == 1:
        told.append("one training seed: says nothing about the method that trained it")
    return told


def stacked(rollouts: Sequence[Rollouts]) -> Float64[np.ndarray, "seeds episodes"]:
    """Successes of training seeds over the same initial states."""
    return np.stack([r.success.astype(np.float64) for r in rollouts])


def overall(results: Sequence[Evaluated]) -> list[Overall]:
    """One number over all tasks for each method that was run in all of them; none for a single task."""
    if len(results) < 2:
        return []
    made, names = [], [name for name in results[0].rollouts if all(name in r.rollouts for r in results)]
    scores = {name: matrix([r.rollouts[name] for r in results]) for name in names}
    for k, name in enumerate(names):
        (unit, x), numbers = scores[name], dict[str, Interval]()
        numbers["mean"] = aggregate.interval(aggregate.mean, x)
        if unit == "training seeds":
            numbers["interquartile mean"] = aggregate.interval(aggregate.iqm, x)
            numbers["optimality gap"] = aggregate.interval(aggregate.optimality_gap, x)
            if k == 0 and len(names) > 1 and scores[names[1]][0] == unit:
                better = aggregate.interval(aggregate.probability_of_improvement, x, scores[names[1]][1])
                numbers[f"probability of improvement over {names[1]}"] = better
        made.append(Overall(name, unit, numbers))
    return made


def matrix(tasks: Sequence[Sequence[Rollouts]]) -> tuple[str, Float64[np.ndarray, "runs tasks"]]:
    """Success in runs × tasks: a run is a training seed, or an initial state where nothing was trained twice.

    Quantiles of single episodes' zeros and ones would mean nothing, so only the mean is taken of the latter.
    """
    if min(len(rollouts) for rollouts in tasks) > 1:
        runs = min(len(rollouts) for rollouts in tasks)
        return "training seeds", np.stack([stacked(r).mean(1)[:runs] for r in tasks], axis=1)
    count = min(len(r[0].seeds) for r in tasks)
    return "initial states", np.stack([stacked(r).mean(0)[:count] for r in tasks], axis=1)


def text(found: Sequence[Line]) -> str:
    """The table as a terminal prints it."""
    columns = {
        "task": [line.task for line in found],
        "policy": [line.method for line in found],
        "seeds": [str(line.seeds or "-") for line in found],
        "episodes": [str(line.episodes) for line in found],
        "success, 95 %": [line.success.percent() for line in found],
        "at the end": [f"{100 * line.success_end:.0f} %" for line in found],
        "return": [f"{line.returns:.1f}" for line in found],
    }
    if any(line.score is not None for line in found):
        columns["score"] = ["" if line.score is None else f"{line.score:.1f}" for line in found]
    if any(line.versus for line in found):
        columns["minus the other"] = [str(line.versus or "") for line in found]
    widths = [max(map(len, [head, *cells])) for head, cells in columns.items()]
    rows = [list(columns), *(list(cells) for cells in zip(*columns.values(), strict=True))]
    shown = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([shown[0], "-" * len(shown[0]), *shown[1:]])


def overall_text(found: Sequence[Overall]) -> str:
    """Numbers over tasks as a terminal prints them."""
    made = []
    for one in found:
        numbers = "; ".join(f"{name} {number}" for name, number in one.numbers.items())
        made.append(f"{one.method}, over tasks (success, {one.unit} drawn again within each): {numbers}")
    return "\n".join(made)


def as_json(found: Sequence[Line], total: Sequence[Overall]) -> dict[str, object]:
    """Everything as the run folder keeps it."""
    return {"lines": [asdict(line) for line in found], "overall": [asdict(one) for one in total]}
