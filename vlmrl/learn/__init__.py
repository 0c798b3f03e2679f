"""Offline learners: one algorithm a file, each with Config, batches, init, loss, update, policy."""

from importlib import import_module
from types import ModuleType

from vlmrl.errors import unknown

LEARNERS = {
    "bc": "vlmrl.learn.bc",
    "iql": "vlmrl.learn.iql",
}


def learner(name: str) -> ModuleType:
    """The module of an algorithm."""
    if name not in LEARNERS:
        raise unknown("learner", name, LEARNERS)
    return import_module(LEARNERS[name])
