"""robosuite's environments (robosuite 1.5) as robomimic trains on them: its observation keys, controller and success.

robosuite pins packages that vlmrl cannot share an installation with as they stand; `docs/adding_a_task.md` says how.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float32, Float64

from vlmrl.errors import ConfigError, unknown
from vlmrl.sim.dynamics import Expert
from vlmrl.sim.task import Task, parsed
from vlmrl.sim.tasks.gym_state import Attributes, Moved

_COLLISION_GROUP, _HIDDEN_GROUP = 0, 3
_PROBES = 3


@dataclass(frozen=True)
class Options:
    """What a task may say about its robosuite environment."""

    robot: str = "Panda"
    observations: tuple[str, ...] = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object-state")
    """Which of robosuite's observations the state has; robomimic calls the last one `object`."""
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further keyword arguments of `robosuite.make`."""


class Suite:
    """A robosuite environment below our contract; the hand is driven by differences of its pose, at 20 Hz."""

    def __init__(self, task: Task) -> None:
        options = parsed(Options, task)
        self._env = _make(task, options)
        self._keys = options.observations
        self.model, self.data = self._env.sim.model._model, self._env.sim.data._data
        # Collision shapes would cover what is meant to be seen.
        self.model.geom_group[self.model.geom_group == _COLLISION_GROUP] = _HIDDEN_GROUP
        self.control_hz = float(self._env.control_freq)
        self.action_names, self.action_units = _actions(self._env)
        self._told = (0.0, 0.0)
        self._moved, self._attributes = Moved(self.model), [Attributes() for _ in self._holders()]
        self._probe()
        observed = self._observations()
        for key in set(self._keys) - set(observed):
            raise unknown("observation", key, observed)
        self.state_names = tuple(f"{k}_{i}" for k in self._keys for i in range(np.size(observed[k])))
        self.state_units = ("1",) * len(self.state_names)
        self.high = np.full(len(self.state_names), np.finfo(np.float32).max, np.float32)
        self.low = -self.high

    def reset(self, generator: np.random.Generator) -> None:
        """Start an episode with a seed drawn from the generator."""
        drawn = np.random.default_rng(int(generator.integers(2**31)))
        # The samplers of objects hold this very generator.
        self._env.rng.bit_generator.state = drawn.bit_generator.state
        self._env.reset()
        self._tell(float(self._env.reward(np.zeros(len(self.action_names)))))

    def step(self, action: Float32[np.ndarray, " A"]) -> float:
        """Move the hand; the reward is robosuite's shaped one, 1 at success."""
        _, reward, _, _ = self._env.step(np.asarray(action, np.float64))
        self._tell(float(reward))
        return float(reward)

    def observe(self) -> Float32[np.ndarray, " D"]:
        """The chosen observations, one after another."""
        observed = self._observations()
        return np.concatenate([np.ravel(observed[k]) for k in self._keys]).astype(np.float32)

    def signals(self) -> Mapping[str, float]:
        """Its own success, and how far its shaped reward has come (0 to 1)."""
        return {"success": self._told[0], "staged": self._told[1]}

    def memory(self) -> Float64[np.ndarray, " M"]:
        """What resets moved, and the numbers that the environment, its controllers and its gripper hold."""
        held = [a.read(h) for a, h in zip(self._attributes, self._holders(), strict=True)]
        return np.concatenate([self._told, self._moved.read(self.model), *held])

    def start(self) -> Float64[np.ndarray, " N"]:
        """What resets moved; not the generators that the environment holds."""
        return np.concatenate([self._told, self._moved.read(self.model)])

    def remember(self, memory: Float64[np.ndarray, " M"]) -> None:
        """Put them back."""
        self._told = (float(memory[0]), float(memory[1]))
        at = 2 + self._moved.size
        self._moved.write(self.model, memory[2:at])
        for attributes, holder in zip(self._attributes, self._holders(), strict=True):
            attributes.write(holder, memory[at : at + attributes.size])
            at += attributes.size

    def _tell(self, staged: float) -> None:
        self._told = (float(bool(self._env._check_success())), staged)
        # A step leaves poses one substep behind the joints.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def _observations(self) -> Mapping[str, Any]:
        # Some are made of others as they were at the last update: a second one leaves nothing of the past.
        self._env._update_observables(force=True)
        return self._env._get_observations(force_update=True)

    def _holders(self) -> list[Any]:
        robots = self._env.robots
        parts = [part for robot in robots for part in robot.composite_controller.part_controllers.values()]
        return [self._env, *parts, *(gripper for robot in robots for gripper in robot.gripper.values())]

    def _probe(self) -> None:
        """Play a little: find what resets move and which attributes are numbers."""
        generator = np.random.default_rng(0)
        for _ in range(_PROBES):
            self.reset(generator)
            self._moved.notice(self.model)
            self._notice()
            self.step(np.zeros(len(self.action_names), np.float32))
            self._notice()
        self.reset(generator)

    def _notice(self) -> None:
        for attributes, holder in zip(self._attributes, self._holders(), strict=True):
            attributes.notice(holder)


def build(task: Task) -> Suite:
    """Make a robosuite environment.

    Raises:
        ConfigError: if robosuite is not installed or has none of this name.
    """
    return Suite(task)


def build_expert(task: Task) -> Expert:
    """Nobody has scripted these.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(f"task {task.name!r}: family 'robosuite' has no scripted experts; use robomimic's demonstrations")


def _make(task: Task, options: Options) -> Any:
    # robosuite reports optional parts at import, by its own logger.
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            robosuite: Any = import_module("robosuite")
            have = robosuite.environments.ALL_ENVIRONMENTS
            if task.physics.name not in have:
                raise unknown("robosuite environment", task.physics.name, have)
            return robosuite.make(
                task.physics.name,
                robots=options.robot,
                has_renderer=False,
                has_offscreen_renderer=False,
                use_camera_obs=False,
                reward_shaping=True,
                control_freq=round(task.control_hz),
                hard_reset=False,
                ignore_done=True,
                # Sizes of objects are drawn when the model is made: every environment of a task has the same.
                seed=0,
                **options.arguments,
            )
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"robosuite tasks need robosuite ({error}): pip install numba qpsolvers quadprog opencv-python-headless "
            "termcolor; pip install --no-deps robosuite==1.5.2 mink==0.0.5"
        ) from error


def _actions(env: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and units of robosuite's default controller: differences of the hand's pose, and the gripper."""
    if env.action_dim != 7:
        return tuple(f"action_{i}" for i in range(env.action_dim)), ("1",) * env.action_dim
    names = ("hand_dx", "hand_dy", "hand_dz", "hand_rx", "hand_ry", "hand_rz", "gripper")
    return names, (*3 * ("0.05 m",), *3 * ("0.5 rad",), "1")
