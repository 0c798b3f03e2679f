"""Simulated tasks: Gymnasium environments with named success, fast pictures and full state."""

from typing import TYPE_CHECKING

from vlmrl.sim.register import expert, make
from vlmrl.sim.task import Task, load_task, matching, task_names, varied

if TYPE_CHECKING:
    from vlmrl.sim.env import SimEnv as SimEnv

__all__ = ["Task", "expert", "load_task", "make", "matching", "task_names", "varied"]


def __getattr__(name: str) -> object:
    """Import `SimEnv` when it is asked for: it brings MuJoCo."""
    if name == "SimEnv":
        from vlmrl.sim.register import before_mujoco

        before_mujoco()
        from vlmrl.sim.env import SimEnv

        return SimEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
