"""A task's variation at work: one episode's values on the model, the actions and the observations.

All chance is a function of the episode's number, the value's name and the control step, so that number and buffers
restore an episode exactly.
"""

import copy
import hashlib
import json
from collections.abc import Mapping

import mujoco
import numpy as np
from jaxtyping import Float32, Float64, Int64

from vlmrl.errors import ConfigError, DataError
from vlmrl.sim import looks
from vlmrl.sim.dynamics import Dynamics, Paints
from vlmrl.sim.render import Prop
from vlmrl.sim.task import Camera, Task
from vlmrl.sim.variation import LOOKS, draw, stream

_MASSES = ("body_mass", "body_inertia")
_DERIVED = (
    "body_subtreemass",
    "body_invweight0",
    "dof_M0",
    "dof_invweight0",
    "tendon_invweight0",
    "flexedge_invweight0",
    "actuator_acc0",
)
"""What MuJoCo computes from masses when it compiles a model."""
_RUBBED = ("geom_friction", "pair_friction", "flex_friction")
_JOINTS = ("dof_frictionloss", "dof_damping")
_HEADLIGHT = ("ambient", "diffuse", "specular")
_CHANGED = {
    "light_factor": looks.LIT,
    "colour_factor": looks.COLOURED,
    "mass_factor": _MASSES + _DERIVED,
    "friction_factor": _RUBBED + _JOINTS,
}
_PUSH_S = 0.1
_PUSHED = 0.2
"""Share of the time."""
_TAG = 0x76617279
_EPISODES = 2**53
"""Numbers below this are exact in a state of doubles."""


class Varying:
    """The present episode of a varied task."""

    def __init__(self, task: Task, dynamics: Dynamics, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._task, self._dynamics, self._shapes = task, dynamics, shapes
        self._actions = len(dynamics.action_names)
        self._variation = task.variation
        self._kept: dict[str, np.ndarray] = {}
        self._stream: np.random.Generator | None = None
        self._delay = int(max(self._variation.action_delay_steps, default=0))
        self._print = _fingerprint(task)
        self._push_steps = max(1, round(_PUSH_S * task.control_hz))
        self._movable = _moving(dynamics.model, task.robot_bodies)
        _check(task, dynamics, self._movable)
        self._begin(0)

    def next(self, seed: int, *, seeded: bool) -> None:
        """Draw the next episode, after the family's own reset; a seed begins the stream of episodes anew."""
        if self._stream is None or seeded:
            self._stream = np.random.default_rng([max(seed, 0), _TAG])
        self._begin(int(self._stream.integers(_EPISODES)))
        self.dress()

    def _begin(self, episode: int) -> None:
        self._episode, self.values = episode, draw(self._variation, episode)
        self._waiting = np.zeros((self._delay, self._actions), np.float32)
        self._last = {key: np.zeros(shape, np.float32) for key, shape in self._shapes.items()}

    @property
    def cameras(self) -> dict[str, Camera]:
        """Where the cameras stand in this episode."""
        return looks.cameras(self._task.cameras, self.values, self._episode)

    @property
    def props(self) -> list[Prop]:
        """What else stands about."""
        return looks.props(self._variation, int(self.values.get("distractors", 0)), self._episode)

    def dress(self) -> None:
        """Change the model as the episode has it; what is overwritten is kept."""
        model, values = self._dynamics.model, self.values
        for key, changed in _CHANGED.items():
            if getattr(self._variation, key):
                self._kept |= {name: getattr(model, name).copy() for name in changed}
        if "light_factor" in values:
            self._kept |= {name: getattr(model.vis.headlight, name).copy() for name in _HEADLIGHT}
            looks.light(model, values["light_factor"])
        if self._variation.colour_factor:
            looks.colour(model, self._variation, self._episode)
        if "mass_factor" in values:
            _weigh(model, self._movable, values["mass_factor"])
        if "friction_factor" in values:
            _rub(model, self._task.robot_bodies, values["friction_factor"])

    def start(self) -> bytes:
        """What this episode's values change, to physics or to the eye; not the number that they are drawn from."""
        model = self._dynamics.model
        names = {name for key, changed in _CHANGED.items() if getattr(self._variation, key) for name in changed}
        light = [getattr(model.vis.headlight, name).tobytes() for name in _HEADLIGHT]
        rows = [getattr(model, name).tobytes() for name in sorted(names)]
        return b"".join([repr([self.values, self.cameras, self.props]).encode(), *light, *rows])

    def undress(self) -> None:
        """Put back what was overwritten, before the family starts another episode on the model."""
        model = self._dynamics.model
        for name, value in self._kept.items():
            getattr(model.vis.headlight if name in _HEADLIGHT else model, name)[:] = value
        self._kept = {}

    def act(self, action: Float32[np.ndarray, " A"], step: int) -> Float32[np.ndarray, " A"]:
        """What is carried out at a step at which `action` was asked for."""
        if self._delay:
            # The buffer is as long as the longest delay; a shorter one uses its end.
            late = int(self.values["action_delay_steps"])
            line = np.concatenate([self._waiting, action[None]])
            action, self._waiting = line[self._delay - late], line[1:]
        if deviation := self.values.get("action_noise", 0.0):
            noise = stream(self._episode, "action", step).normal(0, deviation, action.shape)
            action = np.clip(action + noise, -1, 1).astype(np.float32)
        return action

    def push(self, step: int) -> None:
        """Set the forces of a step."""
        if force_n := self.values.get("push_n", 0.0):
            self._dynamics.data.xfrc_applied[:] = 0
            generator = stream(self._episode, "push", step // self._push_steps)
            if generator.random() < _PUSHED:
                body = generator.choice(self._movable)
                way = generator.normal(size=3)
                self._dynamics.data.xfrc_applied[body, :3] = force_n * way / np.linalg.norm(way)

    def rest(self) -> None:
        """Take the forces away: they are no part of MuJoCo's state as we keep it."""
        if "push_n" in self.values:
            self._dynamics.data.xfrc_applied[:] = 0

    def see(self, observation: Mapping[str, np.ndarray], step: int) -> dict[str, Float32[np.ndarray, "..."]]:
        """What is observed of the truth at a step; asking twice changes nothing."""
        share = self.values.get("dropped_frames", 0.0)
        if step == 0 or stream(self._episode, "dropped", step).random() >= share:
            self._last = self._noisy(observation, step)
        return {key: value.copy() for key, value in self._last.items()}

    def _noisy(self, observation: Mapping[str, np.ndarray], step: int) -> dict[str, Float32[np.ndarray, "..."]]:
        deviation = self.values.get("observation_noise", 0.0)
        if not deviation:
            return dict(observation)
        generator = stream(self._episode, "observation", step)
        seen = {k: (v + generator.normal(0, deviation, v.shape)).astype(np.float32) for k, v in observation.items()}
        return seen | {"state": np.clip(seen["state"], self._dynamics.low, self._dynamics.high)}

    def memory(self) -> Float64[np.ndarray, " V"]:
        """Number of the episode, of the variation, and the buffers that the ranges need."""
        seen = [self._last[key].ravel() for key in self._shapes] if self._variation.dropped_frames else []
        return np.concatenate([[self._episode, self._print], self._waiting.ravel(), *seen]).astype(np.float64)

    def remember(self, memory: Float64[np.ndarray, " V"]) -> None:
        """Put `memory` back; the model must be undressed.

        Raises:
            DataError: if it is of a task that varies otherwise.
        """
        if memory[1] != self._print:
            ranges = self._variation.settings()
            raise DataError(f"simulator state of another variation of {self._task.name!r}, which here is {ranges}")
        self._begin(int(memory[0]))
        rest = memory[2:].astype(np.float32)
        self._waiting, rest = np.split(rest, [self._waiting.size])
        self._waiting = self._waiting.reshape(self._delay, self._actions)
        for key, shape in self._shapes.items() if self._variation.dropped_frames else ():
            size = int(np.prod(shape))
            self._last[key], rest = rest[:size].reshape(shape), rest[size:]
        self.dress()


def _fingerprint(task: Task) -> int:
    text = json.dumps(task.variation.settings(), sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _check(task: Task, dynamics: Dynamics, movable: Int64[np.ndarray, " B"]) -> None:
    """Refuse what would change nothing."""
    given = task.variation.settings()
    wrong: dict[str, str] = {}
    if isinstance(dynamics, Paints):
        wrong |= dict.fromkeys(LOOKS, "its environment draws itself")
    model = dynamics.model
    if not len(movable):
        wrong |= dict.fromkeys(("mass_factor", "push_n"), "nothing moves but the robot")
    touching = model.ngeom and not model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_CONTACT
    if not touching and not any(getattr(model, name).any() for name in _JOINTS):
        wrong["friction_factor"] = "nothing touches, and its joints have no friction"
    for key, why in wrong.items():
        if key in given:
            raise ConfigError(f"task {task.name!r}: {key} would change nothing: {why}")


def _moving(model: mujoco.MjModel, robot_bodies: tuple[str, ...]) -> Int64[np.ndarray, " B"]:
    """Bodies with a way to move and a mass, but for the robot's."""
    robot = robot_parts(model, robot_bodies)
    return np.array(
        [i for i in range(1, model.nbody) if i not in robot and model.body_weldid[i] and model.body_mass[i] > 0],
        np.int64,
    )


def robot_parts(model: mujoco.MjModel, robot_bodies: tuple[str, ...]) -> set[int]:
    """The robot's root bodies and all that hangs on them."""
    parts = {int(model.body(name).id) for name in robot_bodies}
    for i in range(1, model.nbody):
        if int(model.body_parentid[i]) in parts:
            parts.add(i)
    return parts


def _weigh(model: mujoco.MjModel, bodies: Int64[np.ndarray, " B"], factor: float) -> None:
    for name in _MASSES:
        getattr(model, name)[bodies] *= factor
    # On a copy: MuJoCo also writes the statistics from which cameras take their near plane.
    scratch = copy.copy(model)
    mujoco.mj_setConst(scratch, mujoco.MjData(scratch))
    for name in _DERIVED:
        getattr(model, name)[:] = getattr(scratch, name)


def _rub(model: mujoco.MjModel, robot_bodies: tuple[str, ...], factor: float) -> None:
    for name in _RUBBED:
        getattr(model, name)[:] *= factor
    robot = robot_parts(model, robot_bodies)
    other = np.array([int(body) not in robot for body in model.dof_bodyid], np.bool_)
    for name in _JOINTS:
        getattr(model, name)[other] *= factor
