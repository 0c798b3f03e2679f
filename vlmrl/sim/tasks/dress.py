"""Assisted dressing: a gripper pulls a sleeve along the arm of a seated person.

The sleeve's force on the arm is limited: at the limit the gripper stops and stays, and the episode can no longer
succeed. The reward is how far the garment has come minus a penalty of force, the form of published work on
robot-assisted dressing: ratio of the arm that is dressed, minus the force in units of its limit.
"""

import copy
from collections.abc import Mapping

import mujoco
import numpy as np
from jaxtyping import Float32, Float64

from vlmrl.errors import ConfigError
from vlmrl.sim.dynamics import Diverged
from vlmrl.sim.task import Task
from vlmrl.sim.tasks.dress_bank import GARMENTS, PEOPLE, load, variant
from vlmrl.sim.tasks.dress_cloud import Cloud
from vlmrl.sim.tasks.dress_expert import Dresser
from vlmrl.sim.tasks.dress_geometry import passes_at
from vlmrl.sim.tasks.dress_options import RANGES, read_options, read_ranges
from vlmrl.sim.tasks.dress_scene import AROUND

_SUBSTEPS = 10
_REACH_M = 0.0125
"""Way of the gripper in one control step, m: 0.25 m/s."""

_WORKSPACE = np.array([[-1.3, -0.5, 0.5], [0.02, 0.5, 1.6]])
"""Corners of the box that the gripper stays in, m: not behind the shoulder, which is at x = 0."""

_BACK_M = 0.3
"""How far a start may be moved back from the hand, m."""

_PYRAMIDAL = int(mujoco.mjtConstraint.mjCNSTR_CONTACT_PYRAMIDAL)

_SPEED, _STRETCH, _TEAR_M = 20.0, 2.0, 0.1
"""Beyond these it is not physics: speed of a vertex (m/s), length of an edge in rest lengths, and how far up the arm
the rim may come to be around it, or cease to be, from one control step to the next."""


class DressArm:
    """A person, a sleeve and a gripper; the frame is the room's, origin on the floor below the shoulder."""

    control_hz = 20.0
    action_names = ("gripper_dx", "gripper_dy", "gripper_dz")
    action_units = 3 * (f"{_REACH_M} m",)
    state_names = tuple(f"{what}_{k}" for what in ("gripper", "fingertips", "elbow", "shoulder", "rim") for k in "xyz")
    """The rim's is the mean of its vertices."""
    state_units = 15 * ("m",)
    low, high = np.full(15, -3, np.float32), np.full(15, 3, np.float32)

    def __init__(self, task: Task) -> None:
        self._options, self._ranges = read_options(task), read_ranges(task)
        first = variant(self._options.people[0], self._options.garments[0])
        self.model = copy.copy(first.model)
        self.data = mujoco.MjData(self.model)
        self._fixed = task.resets.fixed
        self._who, self._what = self._options.people[0], self._options.garments[0]
        self._force_n, self._peak_n, self._stopped, self._at_m = 0.0, 0.0, False, -1.0
        self._body = {
            name: int(self.model.body(name).mocapid[0]) for name in ("person", "upper_arm", "forearm", "gripper")
        }
        self._joints = [self.model.site(name).id for name in ("fingertips", "elbow", "shoulder")]
        points, camera = self._options.cloud_points, self._options.cloud_camera
        self._cloud = Cloud(self.model, task.cameras, camera=camera, points=points) if points else None
        self.shown: Mapping[str, tuple[int, ...]] = {"cloud": self._cloud.shape} if self._cloud else {}
        self.reset(np.random.default_rng(0))

    def reset(self, generator: np.random.Generator) -> None:
        """Draw a person, a garment, a pose of the arm and a place of the gripper before the hand."""
        if self._fixed:
            generator = np.random.default_rng(0)
        self._who = self._options.people[generator.integers(len(self._options.people))]
        self._what = self._options.garments[generator.integers(len(self._options.garments))]
        drawn = {name: generator.uniform(self._ranges[name][0], self._ranges[name][1]) for name in RANGES}
        member = variant(self._who, self._what)
        load(self.model, member.model)
        mujoco.mj_resetData(self.model, self.data)
        self._pose(drawn)
        mujoco.mj_kinematics(self.model, self.data)
        fingertips, elbow, _ = self._arm
        ahead = (fingertips - elbow) / np.linalg.norm(fingertips - elbow)
        left = np.cross([0, 0, 1], ahead)
        start = fingertips + drawn["gripper_ahead"] * ahead + drawn["gripper_aside"] * left
        self._hang(start + np.array([0, 0, drawn["gripper_above"]]), ahead, member.hanging)
        self._force_n, self._peak_n, self._stopped = 0.0, 0.0, False

    def step(self, action: Float32[np.ndarray, " A"]) -> float:
        """Move the gripper along the action, no farther than its reach; the reward is that of the state it leads to.

        Raises:
            Diverged: if cloth moves or stretches as no cloth does, or has passed through the arm.
        """
        begin = self._gripper.copy()
        way = _REACH_M * np.asarray(action, np.float64) / max(1.0, float(np.linalg.norm(action)))
        way = np.clip(begin + way, *_WORKSPACE) - begin
        self._force_n = 0.0
        for i in range(_SUBSTEPS):
            if not self._stopped:
                self.data.mocap_pos[self._body["gripper"]] = begin + way * ((i + 1) / _SUBSTEPS)
            mujoco.mj_step(self.model, self.data)
            self._force_n = max(self._force_n, contact_force(self.data))
            self._stopped = self._stopped or self._force_n > self._options.force_limit_n
        self._peak_n = max(self._peak_n, self._force_n)
        before = self._at_m
        self._update()
        self._check(before)
        return self.signals()["dressed_safely"] - min(self._force_n / self._options.force_limit_n, 1.0)

    def observe(self) -> Float32[np.ndarray, " D"]:
        """Where the gripper, the arm's joints and the rim are."""
        state = np.concatenate([self._gripper, self._arm.ravel(), self._rim.mean(axis=0)])
        return np.clip(state.astype(np.float32), self.low, self.high)

    def signals(self) -> Mapping[str, float]:
        """Ratio of the arm's length inside the sleeve, whether the rim is around the arm, and forces on it.

        `force_n` is the largest of the last control step, `force_peak_n` of the episode; `dressed_safely` is the ratio
        as long as the force was within its limit, else 0; `edge_stretch` the longest edge in rest lengths.
        """
        length = np.linalg.norm(np.diff(self._arm, axis=0), axis=1).sum()
        ratio = min(max(self._at_m, 0.0) / length, 1.0)
        return {
            "dressed_ratio": float(ratio),
            "dressed_safely": 0.0 if self._stopped else float(ratio),
            "enclosed": float(self._at_m >= 0),
            "force_n": self._force_n,
            "force_peak_n": self._peak_n,
            "stopped": float(self._stopped),
            "edge_stretch": self._stretch,
        }

    def show(self) -> Mapping[str, Float32[np.ndarray, "..."]]:
        """The cloud, where the task asks for one."""
        return {"cloud": self._cloud.observe(self.data, self._gripper)} if self._cloud else {}

    def memory(self) -> Float64[np.ndarray, " M"]:
        """The member of the bank, the forces and where the rim was; poses are MuJoCo's state."""
        member = [list(PEOPLE).index(self._who), list(GARMENTS).index(self._what)]
        return np.array([*member, self._force_n, self._peak_n, self._stopped, self._at_m], np.float64)

    def remember(self, memory: Float64[np.ndarray, " M"]) -> None:
        """Put them back."""
        self._who, self._what = list(PEOPLE)[int(memory[0])], list(GARMENTS)[int(memory[1])]
        load(self.model, variant(self._who, self._what).model)
        self._force_n, self._peak_n = float(memory[2]), float(memory[3])
        self._stopped, self._at_m = bool(memory[4]), float(memory[5])

    @property
    def _gripper(self) -> Float64[np.ndarray, "3"]:
        return self.data.mocap_pos[self._body["gripper"]]

    @property
    def _arm(self) -> Float64[np.ndarray, "3 3"]:
        """Fingertips, elbow and shoulder."""
        return self.data.site_xpos[self._joints]

    @property
    def _rim(self) -> Float64[np.ndarray, "V 3"]:
        return self.data.flexvert_xpos[:AROUND]

    @property
    def _stretch(self) -> float:
        return float((self.data.flexedge_length / self.model.flexedge_length0).max())

    def _pose(self, drawn: Mapping[str, float]) -> None:
        slope, yaw = drawn["upper_arm_slope"], drawn["upper_arm_yaw"]
        shoulder = np.array([0, 0, drawn["shoulder_height"]])
        upper = _rotation(slope, yaw)
        along = np.zeros(3)
        mujoco.mju_rotVecQuat(along, np.array([-PEOPLE[self._who].upper_arm_m, 0, 0]), upper)
        lower = _rotation(slope - drawn["elbow"], yaw + drawn["elbow_yaw"])
        upright = np.array([1.0, 0, 0, 0])
        placed = {"person": (shoulder, upright), "upper_arm": (shoulder, upper), "forearm": (shoulder + along, lower)}
        for name, (position, quaternion) in placed.items():
            self.data.mocap_pos[self._body[name]], self.data.mocap_quat[self._body[name]] = position, quaternion

    def _hang(self, start: np.ndarray, ahead: np.ndarray, hanging: np.ndarray) -> None:
        """Put gripper and hanging sleeve at `start`, or as far ahead of it as it takes to touch nobody."""
        for back_m in np.arange(0, _BACK_M, 0.01):
            self.data.mocap_pos[self._body["gripper"]] = start + back_m * ahead
            self.data.qpos[:] = hanging + np.tile(self._gripper, self.model.nq // 3)
            mujoco.mj_fwdPosition(self.model, self.data)
            self._at_m = passes_at(self._rim, self._arm)
            if self.data.ncon == 0 and self._at_m < 0:
                return
        raise ConfigError(f"a sleeve {_BACK_M} m before the hand still touches the person; start it farther away")

    def _update(self) -> None:
        """Compute what is read of the state that the last physics step has led to."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        mujoco.mj_flex(self.model, self.data)
        self._at_m = passes_at(self._rim, self._arm)

    def _check(self, before_m: float) -> None:
        speed = float(np.abs(self.data.qvel).max())
        if not (speed < _SPEED and self._stretch < _STRETCH):
            raise Diverged(f"sleeve at {speed:.3g} m/s, stretched to {self._stretch:.3g} times its length")
        if (before_m >= 0) != (self._at_m >= 0) and max(before_m, self._at_m) > _TEAR_M:
            raise Diverged(f"sleeve has passed through the arm {max(before_m, self._at_m):.2f} m from the fingertips")


def contact_force(data: mujoco.MjData) -> float:
    """Sum over all contacts of the force's size, N: in this scene they are all between garment and person.

    With a pyramidal cone a contact has four rows, f: normal force sum(f), tangential ones mu (f0 - f1), mu (f2 - f3).
    """
    f = data.efc_force[data.efc_type == _PYRAMIDAL].reshape(-1, 4)
    if not len(f):
        return 0.0
    # A contact beyond its margin has no rows.
    friction = data.contact.friction[data.contact.efc_address >= 0, :2]
    tangential = friction * (f[:, 0::2] - f[:, 1::2])
    return float(np.sqrt(f.sum(axis=1) ** 2 + (tangential**2).sum(axis=1)).sum())


def _rotation(slope: float, yaw: float) -> Float64[np.ndarray, "4"]:
    """Of a limb along -x: `slope` down, then `yaw` to the person's left."""
    down, left, both = np.zeros(4), np.zeros(4), np.zeros(4)
    mujoco.mju_axisAngle2Quat(down, np.array([0, 1.0, 0]), -slope)
    mujoco.mju_axisAngle2Quat(left, np.array([0, 0, 1.0]), yaw)
    mujoco.mju_mulQuat(both, left, down)
    return both


def build(task: Task) -> DressArm:
    """Make the scene of a dressing task."""
    return DressArm(task)


def build_expert(task: Task) -> Dresser:
    """Make the scripted expert, on the path that the task's options name."""
    return Dresser(read_options(task).path, reach_m=_REACH_M)
