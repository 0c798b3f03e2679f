"""Gymnasium's Humanoid-v5 as in VLM-RM: no early end, a goal pose in place of the reward for walking.

The physics, the starts and the 348 numbers of the observation are Humanoid-v5's. Two differences: positions, inertias
and velocities of bodies belong to the present state (there, they are 3 ms old), and numbers are float32.

VLM-RM has no true reward. Ours is the goal's indicator: 1 where the task's pose holds, else 0.
"""

from collections.abc import Mapping

import mujoco
import numpy as np
from jaxtyping import Float32, Float64

from vlmrl.errors import ConfigError, unknown
from vlmrl.sim import humanoid_model
from vlmrl.sim.dynamics import Expert
from vlmrl.sim.poses import Measure, holds, nearness, read_ranges
from vlmrl.sim.task import Task

_SUBSTEPS = 5
"""Physics steps a control step, as in Humanoid-v5."""

_FREE = 7
"""Numbers of the trunk's place and orientation, before the joints in `qpos`."""

_LIMIT = 1e6
"""No number of the observation comes near: a space without bounds is one that Gymnasium warns of."""

_QUATERNION = ("qw", "qx", "qy", "qz")
_INERTIA = ("ixx", "iyy", "izz", "ixy", "ixz", "iyz", "mx", "my", "mz", "mass")
_TWIST = ("wx", "wy", "wz", "vx", "vy", "vz")
_WRENCH = ("tx", "ty", "tz", "fx", "fy", "fz")


class Humanoid:
    """Seventeen motors of a body that starts upright, 11 cm above the floor."""

    def __init__(self, task: Task) -> None:
        strange = set(task.physics.options) - {"pose"}
        if strange:
            raise ConfigError(f"task {task.name!r}: {unknown('physics option', min(strange), ['pose'])}")
        self._pose = read_ranges(task.physics.options.get("pose"), f"task {task.name!r}: physics.options.pose")
        self.model = humanoid_model.build()
        self.data = mujoco.MjData(self.model)
        self.control_hz = 1 / (self.model.opt.timestep * _SUBSTEPS)
        self._spread, self._measure = task.resets.spread, Measure(self.model)
        motors = range(self.model.nu)
        self.action_names = tuple(self.model.actuator(i).name for i in motors)
        self._strongest = self.model.actuator_ctrlrange[:, 1].copy()
        self.action_units = tuple(f"{self.model.actuator(i).gear[0] * self._strongest[i]:g} N m" for i in motors)
        self.state_names, self.state_units = _state(self.model)
        self.high = np.full(len(self.state_names), _LIMIT, np.float32)
        self.low = -self.high

    def reset(self, generator: np.random.Generator) -> None:
        """Start as Humanoid-v5 does: every position and velocity drawn evenly around the upright one."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos += generator.uniform(-self._spread, self._spread, self.model.nq)
        self.data.qvel += generator.uniform(-self._spread, self._spread, self.model.nv)
        mujoco.mj_forward(self.model, self.data)

    def step(self, action: Float32[np.ndarray, " A"]) -> float:
        """Drive the motors; the reward is 1 where the pose holds, else 0."""
        self.data.ctrl[:] = self._strongest * action
        mujoco.mj_step(self.model, self.data, nstep=_SUBSTEPS)
        mujoco.mj_rnePostConstraint(self.model, self.data)
        # Up to date with the last substep, without the constraint solver: its warm start stays Humanoid-v5's.
        mujoco.mj_fwdPosition(self.model, self.data)
        mujoco.mj_fwdVelocity(self.model, self.data)
        return float(holds(self._measure(self.data), self._pose))

    def observe(self) -> Float32[np.ndarray, " D"]:
        """Humanoid-v5's numbers: positions, velocities, inertias, motor torques and contact forces."""
        d = self.data
        bodies = (d.cinert[1:], d.cvel[1:], d.qfrc_actuator[6:], d.cfrc_ext[1:])
        numbers = np.concatenate([d.qpos[2:], d.qvel, *(part.ravel() for part in bodies)])
        return np.clip(numbers, -_LIMIT, _LIMIT).astype(np.float32)

    def signals(self) -> Mapping[str, float]:
        """What `vlmrl.sim.poses` measures; `pose`: 1 where the task's pose holds; `pose_near`: 0 to 1, how near."""
        found = self._measure(self.data)
        return {
            "pose": float(holds(found, self._pose)),
            "pose_near": nearness(found, self._pose),
            **found,
        }

    def memory(self) -> Float64[np.ndarray, " M"]:
        """Contact forces of the last step, which the observation has."""
        return self.data.cfrc_ext[1:].ravel().copy()

    def remember(self, memory: Float64[np.ndarray, " M"]) -> None:
        """Put them back."""
        self.data.cfrc_ext[1:] = memory.reshape(-1, 6)


def build(task: Task) -> Humanoid:
    """Load the dressed humanoid with the task's goal pose."""
    return Humanoid(task)


def build_expert(task: Task) -> Expert:
    """There is none.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"task {task.name!r} has no scripted expert: nobody has written a controller for the humanoid's poses. "
        "Random actions are policy=random, reference poses are rendered by `vlmrl task poses`, "
        "and a policy is to be learned"
    )


def _state(model: mujoco.MjModel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and units of the observation."""
    joints = [model.joint(i).name for i in range(1, model.njnt)]
    bodies = [model.body(i).name for i in range(1, model.nbody)]
    named: list[tuple[str, str]] = [("trunk_z", "m"), *((f"trunk_{q}", "1") for q in _QUATERNION)]
    named += [(joint, "rad") for joint in joints]
    named += [(f"trunk_{v}", "m/s") for v in ("vx", "vy", "vz")] + [(f"trunk_{w}", "rad/s") for w in _TWIST[:3]]
    named += [(f"{joint}_velocity", "rad/s") for joint in joints]
    units = (*("kg m2",) * 6, *("kg m",) * 3, "kg")
    named += [(f"{body}_{i}", unit) for body in bodies for i, unit in zip(_INERTIA, units, strict=True)]
    named += [(f"{body}_{v}", "rad/s" if v[0] == "w" else "m/s") for body in bodies for v in _TWIST]
    named += [(f"{joint}_torque", "N m") for joint in joints]
    named += [(f"{body}_contact_{f}", "N m" if f[0] == "t" else "N") for body in bodies for f in _WRENCH]
    names, of = zip(*named, strict=True)
    return names, of
