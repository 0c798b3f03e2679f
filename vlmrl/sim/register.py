"""How environments are made: from a task, or by Gymnasium id once `register_envs` was called (`vlmrl.sim.gym` does).

Simulators are imported only when one is made.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from vlmrl import gl
from vlmrl.sim.task import Task, load_task, task_names

if TYPE_CHECKING:
    from vlmrl.sim.dynamics import Expert
    from vlmrl.sim.env import SimEnv

ANY = "vlmrl/Task-v0"
"""Takes the name of a task, yours included: `gymnasium.make("vlmrl/Task-v0", task="my_task")`."""


def ids() -> Mapping[str, str]:
    """Gymnasium's ids of the tasks: `vlmrl/DrawerOpen-v0` for `drawer_open`."""
    return {id_of(name): name for name in task_names()}


def id_of(task: str) -> str:
    """Gymnasium's id of a task: its words in capitals, without what stands between them."""
    return f"vlmrl/{re.sub('(?:^|[^a-z0-9])([a-z0-9])', _capital, task)}-v0"


def _capital(found: "re.Match[str]") -> str:
    return found[1].upper()


def register_envs() -> None:
    """Tell Gymnasium our ids."""
    from gymnasium.envs.registration import register, registry

    for name, task in ids().items():
        if name not in registry:
            register(name, "vlmrl.sim.register:make_named", kwargs={"task": task})
    if ANY not in registry:
        register(ANY, "vlmrl.sim.register:make_named")


def make_named(task: str, *, image_size: tuple[int, int] | None = None, render_mode: str | None = None) -> "SimEnv":
    """Build the environment of the task of this name."""
    return make(load_task(task), image_size=image_size, render_mode=render_mode)


def make(task: Task, *, image_size: tuple[int, int] | None = None, render_mode: str | None = None) -> "SimEnv":
    """Build a task's environment; `image_size` (height, width) replaces that of the rewards' camera.

    Raises:
        ConfigError: if the task does not fit its scene, or an optional dependency is missing.
    """
    before_mujoco()
    from vlmrl.sim.env import SimEnv

    if image_size is not None:
        height, width = image_size
        judge = replace(task.cameras[task.camera], height=height, width=width)
        task = replace(task, cameras={**task.cameras, task.camera: judge})
    return SimEnv(task, render_mode=render_mode)


def expert(task: Task) -> "Expert":
    """Make the scripted expert of a task.

    Raises:
        ConfigError: if an optional dependency is missing.
    """
    before_mujoco()
    from vlmrl.sim.dynamics import family

    return family(task).build_expert(task)


def before_mujoco() -> None:
    """MuJoCo reads its OpenGL back end from the environment once, when it is imported."""
    if "mujoco" not in sys.modules:
        gl.choose()
