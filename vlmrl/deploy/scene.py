"""What a policy is shown of the robot and its task: the task's own world, kept where the robot is.

A twin lives in this world. A robot on a wire is followed: its measured joints are put into it, so that the tip is where
the model says, and a mark is where the task drew it. What only a camera could see (an object that is pushed) is not
known of a real robot; such tasks are refused there.
"""

from collections.abc import Mapping

import mujoco
import numpy as np
from jaxtyping import Float64, UInt8

from vlmrl.errors import ConfigError
from vlmrl.robot import Observed, RobotSpec
from vlmrl.sim import SimEnv, Task, make


class Scene:
    """One robot at its task."""

    def __init__(self, task: Task, spec: RobotSpec, *, follows: bool) -> None:
        """`follows`: the robot is elsewhere, and `follow` is told where.

        Raises:
            ConfigError: if the task is not for this robot, or cannot be followed.
        """
        if task.physics.family != "robot" or task.physics.name != spec.name:
            raise ConfigError(f"task {task.name!r} is not for robot {spec.name!r}; its tasks: vlmrl task list")
        self.task, self.follows = task, follows
        self.env: SimEnv = make(task)
        if follows and (unseen := [name for name in self.env.state_names if name.startswith("object_")]):
            raise ConfigError(
                f"task {task.name!r}: nothing measures {', '.join(unseen)} on a real robot; driver=mujoco simulates it"
            )
        self._positions = np.array([self.env.model.joint(n).qposadr[0] for n in spec.names])
        self._velocities = np.array([self.env.model.joint(n).dofadr[0] for n in spec.names])
        self._held = 0

    @property
    def world(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """For a twin to live in."""
        return self.env.model, self.env.data

    @property
    def pose(self) -> Float64[np.ndarray, " J"]:
        """Joint positions in it, rad."""
        return self.env.data.qpos[self._positions].copy()

    def begin(self, seed: int) -> None:
        """Draw what the episode of a seed starts with: the mark, and for a twin its pose and the object too."""
        self.env.reset(seed=seed)
        self._held = 0

    def follow(self, seen: Observed) -> None:
        """Put the robot where it was measured."""
        if self.follows:
            self.env.data.qpos[self._positions] = seen.position
            self.env.data.qvel[self._velocities] = seen.velocity
            mujoco.mj_forward(self.env.model, self.env.data)

    def observe(self) -> Mapping[str, np.ndarray]:
        """What the policy is shown."""
        return self.env.observe()

    def solved(self) -> bool:
        """Whether the task is done: its predicate has held for as many calls as the task asks for."""
        self._held = self._held + 1 if self.env.at_goal() else 0
        return self._held >= self.task.hold

    @property
    def progress(self) -> float:
        """How far the task is done, from 0 to 1."""
        return self.env.progress

    def still(self) -> tuple[np.ndarray, np.ndarray]:
        """Everything that a picture depends on."""
        return self.env.data.qpos.copy(), self.env.data.mocap_pos.copy()

    def frame(self, camera: str) -> UInt8[np.ndarray, "H W 3"]:
        """A picture of the present state."""
        return self.env.frame(camera)

    def close(self) -> None:
        """Free the graphics context."""
        self.env.close()
