"""Offline learners: one algorithm a file, each with Config, batches, init, loss, update, policy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from vlmrl import loop
from vlmrl.errors import unknown
from vlmrl.learn import checkpoint
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
    module, generator = learner(name), torch.Generator().manual_seed(seed)
    state = module.init(config, transitions, generator=generator)
    policy: PolicyNetwork = module.policy(state)
    if clip_norm:
        checkpoint.clip_gradients(state, clip_norm)
    facts = {**(facts or {}), "learner": name, "config": repr(config), "seed": seed, "clip_norm": clip_norm}
    start = checkpoint.restore(kept, state, generator, facts=facts) if kept is not None and kept.is_file() else 0
    if kept is not None:
        metrics.cut(start)

    def save(step: int) -> None:
        if kept is not None:
            checkpoint.save(kept, state, generator, step=step, facts=facts)

    loop.fit(
        lambda batch: module.update(config, state, batch),
        module.batches(config, transitions, generator=generator),
        updates=config.updates,
        name="train",
        metrics=metrics,
        every=min(every, config.updates),
        at=(lambda step: at(step, policy)) if at else None,
        save=save,
        start=start,
        quiet=quiet,
    )
    return Learned(policy, module.critic(state) if hasattr(module, "critic") else None)
