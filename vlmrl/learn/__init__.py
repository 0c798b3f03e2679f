"""Offline learners: one algorithm a file, each with Config, batches, init, loss, update, policy."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch

from vlmrl import loop
from vlmrl.errors import ConfigError, unknown
from vlmrl.learn import checkpoint
from vlmrl.learn.device import carried, move
from vlmrl.learn.stacked import Stack, abreast, stackable
from vlmrl.nn import Critic, PolicyNetwork
from vlmrl.runfolder import Metrics
from vlmrl.types import Transitions

LEARNERS = {
    "bc": "vlmrl.learn.bc",
    "calql": "vlmrl.learn.calql",
    "cpl": "vlmrl.learn.cpl",
    "diffusion": "vlmrl.learn.diffusion",
    "filtered_bc": "vlmrl.learn.filtered_bc",
    "flow": "vlmrl.learn.flow",
    "idql": "vlmrl.learn.idql",
    "iql": "vlmrl.learn.iql",
    "sac": "vlmrl.learn.sac",
    "td3bc": "vlmrl.learn.td3bc",
}

PICTURES = ("bc", "calql", "diffusion", "filtered_bc", "flow", "iql")
"""Learners that see pictures."""


def learner(name: str) -> ModuleType:
    """The module of an algorithm."""
    if name not in LEARNERS:
        raise unknown("learner", name, LEARNERS)
    return import_module(LEARNERS[name])


@dataclass(frozen=True)
class Learned:
    """What training leaves."""

    policy: PolicyNetwork
    critic: Critic | None
    """The action values, of a learner that has some."""


def fit(
    name: str,
    transitions: Transitions,
    config: Any,
    *,
    seed: int,
    metrics: Metrics,
    every: int = 2_000,
    at: Callable[[int, PolicyNetwork], Mapping[str, float] | None] | None = None,
    clip_norm: float = 0.0,
    kept: Path | None = None,
    facts: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Learned:
    """Train an algorithm for `config.updates`; `at(updates done, policy)` may measure the policy under way.

    Gradients are clipped to `clip_norm` where it is not 0. With `kept`, a file that receives the whole state each
    `every` updates, training goes on from what the file holds of the same `facts`; `metrics` then loses what is later.
    """
    return fit_seeds(
        name,
        [transitions],
        config,
        seeds=[seed],
        metrics=[metrics],
        every=every,
        at=[at],
        clip_norm=clip_norm,
        kept=kept,
        facts=facts,
        quiet=quiet,
    )[0]


def fit_seeds(
    name: str,
    transitions: Sequence[Transitions],
    config: Any,
    *,
    seeds: Sequence[int],
    metrics: Sequence[Metrics],
    every: int = 2_000,
    at: Sequence[Callable[[int, PolicyNetwork], Mapping[str, float] | None] | None],
    clip_norm: float = 0.0,
    kept: Path | None = None,
    facts: Mapping[str, Any] | None = None,
    quiet: bool = False,
    device: torch.device | str = "cpu",
) -> list[Learned]:
    """Train several seeds as one batched program, each on its own transitions; the rest is as in `fit`.

    Networks are trained on `device`, and are the processor's again in what is returned or measured.

    Raises:
        ConfigError: if there are several, and the learner cannot be trained so.
    """
    module, generators = learner(name), [torch.Generator().manual_seed(seed) for seed in seeds]
    for own in transitions:
        _check_pictures(name, own, together=len(seeds) > 1)
    states = [
        module.init(config, own, generator=generator) for own, generator in zip(transitions, generators, strict=True)
    ]
    policies: list[PolicyNetwork] = [module.policy(state) for state in states]
    chances = [_chance(own, generator) for own, generator in zip(transitions, generators, strict=True)]
    batches = [module.batches(config, own, generator=chance) for own, chance in zip(transitions, chances, strict=True)]
    streams = list(dict.fromkeys([*generators, *chances]))
    stack = stacked(module, config, transitions[0], states) if len(states) > 1 else None
    joint, feed = (stack.joint, abreast(batches)) if stack else (states[0], batches[0])
    where = torch.device(device)
    move(joint, where)
    if clip_norm:
        checkpoint.clip_gradients(joint, clip_norm, seeds=len(seeds))
    facts = {**(facts or {}), "learner": name, "config": repr(config), "seeds": list(seeds), "clip_norm": clip_norm}
    start = checkpoint.restore(kept, joint, streams, facts=facts) if kept is not None and kept.is_file() else 0
    move(joint, where)
    if kept is not None:
        for one in metrics:
            one.cut(start)

    def update(batch: Any) -> Mapping[str, torch.Tensor]:
        found = module.update(config, joint, batch)
        each = {key: value.reshape(-1) for key, value in found.items()}
        return {f"{k}/{key}": value[k] for key, value in each.items() for k in range(len(seeds))}

    def measure(step: int) -> Mapping[str, float]:
        if stack:
            stack.write_back()
        shown = policies
        if not stack and where.type != "cpu":
            shown = [cast("Any", copy.deepcopy(policy)).cpu() for policy in policies]
        found = [one(step, policy) if one else None for one, policy in zip(at, shown, strict=True)]
        return {f"{k}/{key}": value for k, own in enumerate(found) for key, value in (own or {}).items()}

    def save(step: int) -> None:
        if kept is not None:
            checkpoint.save(kept, joint, streams, step=step, facts=facts)

    loop.fit(
        update,
        carried(feed, where),
        updates=config.updates,
        name="train",
        metrics=Each(tuple(metrics)),
        every=min(every, config.updates),
        at=measure,
        save=save,
        start=start,
        quiet=quiet,
    )
    move(joint, torch.device("cpu"))
    if stack:
        stack.write_back()
    critic = getattr(module, "critic", lambda _: None)
    return [Learned(policy, critic(state)) for policy, state in zip(policies, states, strict=True)]


def _check_pictures(name: str, transitions: Transitions, *, together: bool) -> None:
    if transitions.pictures is not None and name not in PICTURES:
        raise ConfigError(f"learner {name!r} sees no pictures; those that do: {', '.join(PICTURES)}")
    if transitions.pictures is not None and together:
        raise ConfigError("several seeds that see pictures are no one program: together=false")


def _chance(transitions: Transitions, generator: torch.Generator) -> torch.Generator:
    """What batches are drawn from: where they are made ahead, in a thread, a generator of their own."""
    if transitions.pictures is None:
        return generator
    return torch.Generator().manual_seed(int(torch.randint(2**31, (), generator=generator)))


def stacked(module: ModuleType, config: Any, transitions: Transitions, states: Sequence[Any]) -> Stack:
    """The states of several seeds brought together.

    Raises:
        ConfigError: if the learner cannot be trained so.
    """
    if not stackable(config):
        raise ConfigError(f"{module.__name__} with these settings cannot train several seeds as one program")
    stack = Stack(states, module.init(config, transitions, generator=torch.Generator()))
    stack.map_losses(module, config)
    return stack


@dataclass(frozen=True)
class Each:
    """Metrics of several seeds: what begins with `K/` goes to the K-th, the rest to all."""

    each: tuple[Metrics, ...]

    def write(self, name: str, step: int, values: Mapping[str, float]) -> None:
        """Record `values` of the series `name` at `step`."""
        for k, metrics in enumerate(self.each):
            own = {key: value for key, value in values.items() if "/" not in key or key.startswith(f"{k}/")}
            metrics.write(name, step, {key.removeprefix(f"{k}/"): value for key, value in own.items()})
