"""Rewarders: whatever returns a number per row; distilling preferences into one; writing rewards back as a column."""

from importlib import import_module
from types import ModuleType

from vlmrl.errors import unknown

REWARDERS = {
    "clip": "vlmrl.reward.clip",
    "constant": "vlmrl.reward.constant",
    "ground_truth": "vlmrl.reward.ground_truth",
    "preference": "vlmrl.reward.preference",
    "saved": "vlmrl.reward.saved",
    "success": "vlmrl.reward.success",
}


def rewarder(name: str) -> ModuleType:
    """The module of a rewarder."""
    if name not in REWARDERS:
        raise unknown("rewarder", name, REWARDERS)
    return import_module(REWARDERS[name])
