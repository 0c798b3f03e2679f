"""A robot of `robots/<name>` at a table, behind its safety chain: reach a mark, push a puck to it, pick up a cube.

Actions are joint positions, -1 and 1 the ends of each joint's range. They go through the very chain that stands before
the real robot; what it changes is in the signals `clipped` and `stopped`. A latched stop lasts to the episode's end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import mujoco
import numpy as np
from jaxtyping import Float32, Float64

from vlmrl.errors import ConfigError, unknown
from vlmrl.robot import RobotSpec, load_robot
from vlmrl.safety import Reading, Reason, Response, SafetyChain
from vlmrl.sim.task import Task, parsed

Kinds = Literal["reach", "push", "pick"]
KINDS: tuple[str, ...] = ("reach", "push", "pick")
HALF = {"push": (0.02, 0.012), "pick": (0.011, 0.011)}
"""Half width and half height of what is moved, m."""
OBJECT, MARK = "object", "mark"
LIFT = 0.08
"""How high a cube is to be picked up, m."""


@dataclass(frozen=True)
class Options:
    """What a task says about the work."""

    work: str = "reach"
    ranges: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Where mark and object may be, `[low, high]` in m from the base: mark_x, mark_y, mark_z, object_x, object_y."""
    mark: float = 0.012
    """Radius of the ball to reach, m."""
    jitter: float = 0.05
    """Largest difference of a joint from its home pose at the start, rad."""


class Arm:
    """A robot's joints, and where mark and object are."""

    def __init__(self, task: Task) -> None:
        self.spec = load_robot(task.physics.name)
        self.options = parsed(Options, task)
        if self.options.work not in KINDS:
            raise ConfigError(f"task {task.name!r}: {unknown('work', self.options.work, KINDS)}")
        self.model = scene(self.spec, self.options.work, self.options.mark)
        self.data = mujoco.MjData(self.model)
        self.chain = SafetyChain(self.spec)
        self.control_hz = self.spec.control_hz
        self._substeps = max(1, round(self.spec.period / self.model.opt.timestep))
        self._addresses = np.array([self.model.joint(n).qposadr[0] for n in self.spec.names])
        self._speeds = np.array([self.model.joint(n).dofadr[0] for n in self.spec.names])
        self._tip, self._mark = self.model.site(self.spec.tip).id, self.model.body(MARK).mocapid[0]
        self._object = self.model.body(OBJECT).id if self.options.work != "reach" else -1
        self.centre, self.half = self.spec.centre, self.spec.half
        self._names()
        self._clipped = Response.PASS
        self._start_height = 0.0

    def _names(self) -> None:
        joints, places = self.spec.names, [self.spec.tip, MARK] + [OBJECT] * (self._object >= 0)
        self.action_names = joints
        self.action_units = self.spec.action_units
        speeds = tuple(f"{name}_velocity" for name in joints)
        self.state_names = (*joints, *speeds, *(f"{place}_{axis}" for place in places for axis in "xyz"))
        self.state_units = (*("rad",) * len(joints), *("rad/s",) * len(joints), *("m",) * (3 * len(places)))
        fastest = np.array([j.velocity for j in self.spec.joints]) * 3
        far = np.full(3 * len(places), 2.0)
        reach = np.concatenate([self.half + 0.5, fastest, far])
        middle = np.concatenate([self.centre, np.zeros(len(joints) + len(far))])
        self.low, self.high = (middle - reach).astype(np.float32), (middle + reach).astype(np.float32)

    def reset(self, generator: np.random.Generator) -> None:
        """Draw mark, object and pose; the chain begins from that pose."""
        mujoco.mj_resetData(self.model, self.data)
        pose = self.spec.home + generator.uniform(-1, 1, len(self.half)) * self.options.jitter
        self.data.qpos[self._addresses] = pose
        self.data.ctrl[:] = pose
        mark, thing = self._places(generator)
        self.data.mocap_pos[self._mark] = mark
        if self._object >= 0:
            address = self.model.jnt_qposadr[self.model.body_jntadr[self._object]]
            self.data.qpos[address : address + 3] = thing
        mujoco.mj_forward(self.model, self.data)
        self.chain = SafetyChain(self.spec)
        self.chain.begin(pose)
        self._clipped = Response.PASS

    def _places(self, generator: np.random.Generator) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3"]]:
        height = HALF.get(self.options.work, (0.0, 0.0))[1]

        def draw(name: str) -> Float64[np.ndarray, "3"]:
            given = [self.options.ranges.get(f"{name}_{axis}") for axis in "xyz"]
            return np.array([generator.uniform(*pair) if pair else height for pair in given])

        mark, thing = draw(MARK), draw(OBJECT)
        if self.options.work == "push":
            while np.linalg.norm((mark - thing)[:2]) < 0.06:
                mark, thing = draw(MARK), draw(OBJECT)
        return (thing + np.array([0, 0, LIFT]), thing) if self.options.work == "pick" else (mark, thing)

    def step(self, action: Float32[np.ndarray, " A"]) -> float:
        """Ask the chain for the joint positions of an action, and move as it says; the reward is minus metres to go."""
        asked = self.centre + self.half * action.astype(np.float64)
        reading = Reading(float(self.data.time), position=self.data.qpos[self._addresses].copy())
        command = self.chain.step(asked, reading)
        self._clipped = Response.PASS if command.reason in (Reason.NONE, Reason.SPEED) else command.response
        self.data.ctrl[:] = command.position
        for _ in range(self._substeps):
            mujoco.mj_step(self.model, self.data)
        mujoco.mj_forward(self.model, self.data)
        told = self.signals()
        return -told["to_mark"] - (0.3 * told["to_object"] if self._object >= 0 else 0.0)

    def observe(self) -> Float32[np.ndarray, " D"]:
        """Joint positions and velocities, tip, mark and object."""
        places = [self.tip, self.mark] + ([self.thing] if self._object >= 0 else [])
        found = np.concatenate([self.data.qpos[self._addresses], self.data.qvel[self._speeds], *places])
        return np.clip(found.astype(np.float32), self.low, self.high)

    @property
    def tip(self) -> Float64[np.ndarray, "3"]:
        """Where the tool is, m."""
        return self.data.site_xpos[self._tip]

    @property
    def mark(self) -> Float64[np.ndarray, "3"]:
        """Where it, or the object, is to be, m."""
        return self.data.mocap_pos[self._mark]

    @property
    def thing(self) -> Float64[np.ndarray, "3"]:
        """Where the object is, m."""
        return self.data.xpos[self._object]

    def signals(self) -> Mapping[str, float]:
        """Distances in m, and what the chain did in the last step."""
        moved = self.tip if self._object < 0 else self.thing
        told = {"to_mark": float(np.linalg.norm(moved - self.mark))}
        if self._object >= 0:
            told["to_object"] = float(np.linalg.norm(self.tip - self.thing))
            told["lifted"] = float(self.thing[2] - HALF[self.options.work][1])
        clipped, stopped = self._clipped >= Response.CLIP, self._clipped >= Response.CONTROLLED_STOP
        return told | {"clipped": float(clipped), "stopped": float(stopped)}

    def memory(self) -> Float64[np.ndarray, " M"]:
        """Of the chain."""
        return np.concatenate([self.chain.memory(), [float(self._clipped)]])

    def remember(self, memory: Float64[np.ndarray, " M"]) -> None:
        """Put it back."""
        self.chain.remember(memory[:-1])
        self._clipped = Response(int(memory[-1]))


def scene(spec: RobotSpec, work: str, radius: float) -> mujoco.MjModel:
    """The robot's own model at a table, with a mark and what is to be moved."""
    world = mujoco.MjSpec.from_file(str(spec.path))
    ground = world.worldbody
    table = ground.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[5, 5, 0.1])
    table.rgba, table.friction = [0.82, 0.8, 0.76, 1], [0.4, 0.005, 0.0001]
    # Far away and wide open: as good as the sun.
    for place, direction, bright in (([0.3, -3, 9], [-0.1, 0.3, -1], 0.6), ([0, 4, 9], [0, -0.5, -1], 0.3)):
        ground.add_light(pos=place, dir=direction, diffuse=[bright] * 3, cutoff=90, exponent=0)
    mark = ground.add_body(name=MARK, mocap=True)
    flat = work == "push"
    shape = mujoco.mjtGeom.mjGEOM_CYLINDER if flat else mujoco.mjtGeom.mjGEOM_SPHERE
    size = [0.03, 0.0005, 0] if flat else [radius, 0, 0]
    place = [0, 0, -HALF["push"][1] + 0.001] if flat else [0, 0, 0]
    alpha = 0.25 if work == "pick" else 1.0
    mark.add_geom(type=shape, size=size, pos=place, rgba=[0.85, 0.1, 0.1, alpha], contype=0, conaffinity=0)
    if work in HALF:
        wide, high = HALF[work]
        thing = ground.add_body(name=OBJECT, pos=[0.2, 0, high])
        thing.add_freejoint(name=OBJECT)
        round_ = work == "push"
        geom = thing.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER if round_ else mujoco.mjtGeom.mjGEOM_BOX,
            size=[wide, high, 0] if round_ else [wide, wide, high],
        )
        geom.rgba, geom.mass, geom.friction = [0.1, 0.35, 0.8, 1], 0.03, [1.0, 0.01, 0.0005]
    return world.compile()


def build(task: Task) -> Arm:
    """The robot that the task names, at its table."""
    return Arm(task)


def build_expert(task: Task) -> Any:
    """Make the scripted expert of the task's work."""
    from vlmrl.sim.tasks.robot_expert import EXPERTS

    arm = Arm(task)
    return cast("Any", EXPERTS[arm.options.work])(arm)
