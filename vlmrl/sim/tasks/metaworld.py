"""Meta-World's Sawyer environments (metaworld 3.1): their scenes, rewards and scripted policies.

Differences from the stock environment: a seed decides the start whatever happened before; the first observation shows
the object where it is (stock, it shows the previous episode's); an episode is reset once, not twice.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float32, Float64

from vlmrl.errors import ConfigError, unknown
from vlmrl.sim.task import Task

_HAND = ("hand_x", "hand_y", "hand_z", "gripper")
_OBJECT = tuple(f"object{i}_{k}" for i in (1, 2) for k in ("x", "y", "z", "qw", "qx", "qy", "qz"))
_NOW = _HAND + _OBJECT
_REMEMBERED = ("_target_pos", "init_tcp", "obj_init_pos", "_handle_init_pos", "_lever_pos_init", "stick_init_pos")
"""Vectors of three by which the environments' rewards know their reset; each has some of them."""


class Sawyer:
    """One Meta-World environment, driven below its own `reset` and `step`."""

    action_names = ("hand_dx", "hand_dy", "hand_dz", "gripper")
    action_units = ("0.01 m", "0.01 m", "0.01 m", "1")
    state_names = (*_NOW, *(f"{n}_before" for n in _NOW), "goal_x", "goal_y", "goal_z")
    """Meta-World's own 39 numbers; the goal is zero as in its partially observable tasks."""
    state_units = (*(2 * (*3 * ("m",), "1", *2 * (*3 * ("m",), *4 * ("1",)))), *3 * ("m",))

    def __init__(self, task: Task) -> None:
        self._env = _environment(task.physics.name)
        # Beyond its 500 steps the stock environment raises; the horizon is the task's.
        self._env.max_path_length = 2**31
        self._object = np.asarray(task.resets.object, np.float64) if task.resets.object else None
        if task.resets.hand:
            self._env.hand_init_pos = np.asarray(task.resets.hand, np.float64)
        self.model, self.data = self._env.model, self._env.data
        self.control_hz = 1 / (self.model.opt.timestep * self._env.frame_skip)
        self.low, self.high = _bounds(self._env)
        self._home = self.model.body_pos.copy()
        self._state = np.zeros(39)
        self.to_target = 0.0
        """Meta-World's distance of the object from its target, in metres; some tasks report 0."""
        self._success, self._start = False, 0.0
        # `memory` has its full length from the start, so that a state can be set before the first episode.
        self._moved = np.flatnonzero(self.model.body_parentid == 0)
        self.reset(np.random.default_rng(0))
        self._vectors = tuple(name for name in _REMEMBERED if hasattr(self._env, name))

    def reset(self, generator: np.random.Generator) -> None:
        """Place the object as Meta-World draws it, or as the task fixes it."""
        env = self._env
        mujoco.mj_resetData(self.model, self.data)
        self.model.body_pos[:] = self._home
        env.curr_path_length = 0
        env._did_see_sim_exception = False
        env.np_random = generator
        env.seeded_rand_vec, env._freeze_rand_vec = True, self._object is not None
        env._last_rand_vec = self._object
        env.reset_model()
        mujoco.mj_forward(self.model, self.data)
        now = env._get_curr_obs_combined_no_goal()
        env._prev_obs = now
        self._state = self._clipped(np.hstack((now, now, np.zeros(3))))
        self._told(env.evaluate_state(self._state, np.zeros(4, np.float32))[1])
        self._start = self.to_target

    def step(self, action: Float32[np.ndarray, " A"]) -> float:
        """Move the hand; the reward is Meta-World's dense one, unscaled."""
        self._state, reward, _, _, info = self._env.step(action)
        self._told(info)
        return float(reward)

    def signals(self) -> Mapping[str, float]:
        """Meta-World's own success, and the object's way to its target (m; 1 at the target, 0 where it started)."""
        travelled = 1 - self.to_target / self._start if self._start > 0 else 0.0
        return {"success": float(self._success), "to_target": self.to_target, "travelled": travelled}

    @property
    def target(self) -> Float64[np.ndarray, "3"]:
        """Where the object is to go, m."""
        return np.asarray(self._env._target_pos, np.float64)

    @property
    def objects(self) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3"]]:
        """Positions of the first and the second object, m; zeros where there is no second."""
        return self._state[4:7].copy(), self._state[11:14].copy()

    def observe(self) -> Float32[np.ndarray, " D"]:
        """Hand and object, now and one step before."""
        return np.clip(self._state.astype(np.float32), self.low, self.high)

    def memory(self) -> Float64[np.ndarray, " M"]:
        """Where the reset put things, and the stacked observation."""
        # Resets move bodies of the model itself.
        vectors = [getattr(self._env, name) for name in self._vectors]
        told = [self.to_target, self._success, self._start]
        moved = self.model.body_pos[self._moved].ravel()
        return np.concatenate([*vectors, self._env._prev_obs, self._state, told, moved])

    def remember(self, memory: Float64[np.ndarray, " M"]) -> None:
        """Put them back."""
        env, size = self._env, 3 * len(self._vectors)
        for name, vector in zip(self._vectors, memory[:size].reshape(-1, 3), strict=True):
            setattr(env, name, vector.copy())
        env._prev_obs, self._state = memory[size : size + 18].copy(), memory[size + 18 : size + 57].copy()
        self.to_target, self._success, self._start = memory[size + 57], bool(memory[size + 58]), memory[size + 59]
        self.model.body_pos[self._moved] = memory[size + 60 :].reshape(-1, 3)
        env.curr_path_length = 0
        env._did_see_sim_exception = False

    def _told(self, info: Mapping[str, Any]) -> None:
        self.to_target, self._success = float(info["obj_to_target"]), bool(info["success"])

    def _clipped(self, state: Float64[np.ndarray, "39"]) -> Float64[np.ndarray, "39"]:
        space = self._env.sawyer_observation_space
        return np.clip(state, space.low, space.high)


class ScriptedPolicy:
    """Meta-World's own scripted policy; it has no memory."""

    def __init__(self, name: str) -> None:
        table = _policies()
        if name not in table:
            raise unknown("Meta-World policy", name, table)
        self._policy = table[name]()

    def reset(self, seed: int) -> None:
        """Nothing to forget."""
        del seed

    def action(self, observation: Mapping[str, np.ndarray]) -> Float32[np.ndarray, " A"]:
        """Return what Meta-World would do, clipped."""
        with warnings.catch_warnings():
            # It warns whenever a gain would exceed the action's range, which is clipped here.
            warnings.simplefilter("ignore", UserWarning)
            action = self._policy.get_action(np.asarray(observation["state"], np.float64))
        return np.clip(action, -1, 1).astype(np.float32)


def build(task: Task) -> Sawyer:
    """Load a Meta-World environment."""
    return Sawyer(task)


def build_expert(task: Task) -> ScriptedPolicy:
    """Make Meta-World's scripted policy of a task."""
    return ScriptedPolicy(task.physics.name)


def _environment(name: str) -> Any:
    # Any: most of what we drive is private in Meta-World, whose version the extra pins.
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    if name not in ALL_V3_ENVIRONMENTS:
        raise unknown("Meta-World environment", name, ALL_V3_ENVIRONMENTS)
    env: Any = ALL_V3_ENVIRONMENTS[name]()
    env._set_task_called = True
    return env


def _bounds(env: Any) -> tuple[Float32[np.ndarray, "39"], Float32[np.ndarray, "39"]]:
    """Meta-World's own bounds, finite and of some width: Gymnasium warns of others."""
    space = env.sawyer_observation_space
    low, high = np.maximum(space.low, -10), np.minimum(space.high, 10)
    width = np.where(low == high, 1, 0)
    return (low - width).astype(np.float32), (high + width).astype(np.float32)


def _policies() -> Mapping[str, Any]:
    try:
        from metaworld.policies import ENV_POLICY_MAP
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return ENV_POLICY_MAP


def _missing(error: ModuleNotFoundError) -> ConfigError:
    return ConfigError(f"Meta-World tasks need the extra 'sims' ({error}): pip install 'vlmrl[sims]'")
