"""Offline learners: one algorithm a file, each with Config, batches, init, loss, update, policy."""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from vlmrl import loop
from vlmrl.errors import unknown
from vlmrl.nn import Actor
from vlmrl.runfolder import Metrics
from vlmrl.types import Transitions

LEARNERS = {
    "bc": "vlmrl.learn.bc",
    "iql": "vlmrl.learn.iql",
    "sac": "vlmrl.learn.sac",
}


def learner(name: str) -> ModuleType:
    """The module of an algorithm."""
    if name not in LEARNERS:
        raise unknown("learner", name, LEARNERS)
    return import_module(LEARNERS[name])


def fit(
    name: str,
    transitions: Transitions,
    config: Any,
    *,
    seed: int,
    metrics: Metrics,
    every: int = 2_000,
    at: Callable[[int, Actor], Mapping[str, float] | None] | None = None,
    quiet: bool = False,
) -> Actor:
    """Train an algorithm for `config.updates`; `at(updates done, actor)` may measure the actor under way."""
    module, generator = learner(name), torch.Generator().manual_seed(seed)
    state = module.init(config, transitions, generator=generator)
    actor: Actor = module.policy(state)
    loop.fit(
        lambda batch: module.update(config, state, batch),
        module.batches(config, transitions, generator=generator),
        updates=config.updates,
        name="train",
        metrics=metrics,
        every=min(every, config.updates),
        at=(lambda step: at(step, actor)) if at else None,
        quiet=quiet,
    )
    return actor
