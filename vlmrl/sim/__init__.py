"""Simulated tasks: Gymnasium environments with named success, fast pictures and full state."""

from vlmrl.sim.dynamics import expert
from vlmrl.sim.env import SimEnv, make
from vlmrl.sim.task import Task, load_task

__all__ = ["SimEnv", "Task", "expert", "load_task", "make"]
