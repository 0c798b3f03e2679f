"""Meta-World's Sawyer environments (metaworld 3.1): their scenes, rewards and scripted policies.

Differences from the stock environment: a seed decides the start whatever happened before; the first observation shows
the object where it is (stock, it shows the previous episode's); an episode is reset once, not twice.

What `physics.options` says: `Options`.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float32, Float64

from vlmrl.errors import ConfigError, unknown
from vlmrl.sim.task import Task, Vector, parsed

_HAND = ("hand_x", "hand_y", "hand_z", "gripper")
_OBJECT = tuple(f"object{i}_{k}" for i in (1, 2) for k in ("x", "y", "z", "qw", "qx", "qy", "qz"))
_NOW = _HAND + _OBJECT
_KNOWN = ("object", "second", "target")
_REMEMBERED = ("_target_pos", "init_tcp", "obj_init_pos", "_handle_init_pos", "_lever_pos_init", "stick_init_pos")
"""Vectors of three by which the environments' rewards know their reset; each has some of them."""


@dataclass(frozen=True)
class Options:
    """What a task may say about its Meta-World environment."""

    goal: bool = False
    """Whether the state tells where the goal is; Meta-World hides it in its partially observable tasks."""
    moves: str = ""
    """What must get somewhere: `object`, `second`, a site or a body; empty: as Meta-World's `obj_to_target` has it."""
    to: str = "target"
    """Where to: `target` (the environment's own), a site or a body."""
    done: float = 0.0
    """Distance at which it has arrived, m."""
    paint: Mapping[str, Vector] = field(default_factory=dict[str, Vector])
    """Red, green and blue, 0 to 1, of bodies that are to look otherwise than stock."""


class Sawyer:
    """One Meta-World environment, driven below its own `reset` and `step`."""

    action_names = ("hand_dx", "hand_dy", "hand_dz", "gripper")
    action_units = ("0.01 m", "0.01 m", "0.01 m", "1")
    state_names = (*_NOW, *(f"{n}_before" for n in _NOW), "goal_x", "goal_y", "goal_z")
    """Meta-World's own 39 numbers; the goal is zero where the task does not show it."""
    state_units = (*(2 * (*3 * ("m",), "1", *2 * (*3 * ("m",), *4 * ("1",)))), *3 * ("m",))

    def __init__(self, task: Task) -> None:
        self._env = _environment(task.physics.name)
        self._options = parsed(Options, task)
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
        _paint(self.model, self._options.paint)
        self._sites = {self.model.site(i).name: i for i in range(self.model.nsite)}
        places = {*_KNOWN, *self._sites, *_bodies(self.model)}
        for name in {self._options.moves or _KNOWN[0], self._options.to} - places:
            raise unknown("site or body", name, places)
        self._marker = _marker(self.model, self._sites) if task.render.sites else None
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
        self._start = self._distance()
        self._mark()

    def step(self, action: Float32[np.ndarray, " A"]) -> float:
        """Move the hand; the reward is Meta-World's dense one, unscaled."""
        self._state, reward, _, _, info = self._env.step(action)
        self._told(info)
        return float(reward)

    def signals(self) -> Mapping[str, float]:
        """Meta-World's own success, the distance still to go (m), and the share of the way that is done."""
        distance, way = self._distance(), self._start - self._options.done
        travelled = (self._start - distance) / way if abs(way) > 1e-6 else 0.0
        return {"success": float(self._success), "to_target": distance, "travelled": travelled}

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
        state = self._state.astype(np.float32)
        if self._options.goal:
            state[36:] = self.target
        return np.clip(state, self.low, self.high)

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
        self._mark()

    def _mark(self) -> None:
        if self._marker is not None:
            self.model.site_pos[self._marker] = self.target

    def _distance(self) -> float:
        moves, to = self._options.moves, self._options.to
        return float(np.linalg.norm(self._place(moves) - self._place(to))) if moves else self.to_target

    def _place(self, name: str) -> Float64[np.ndarray, "3"]:
        """Where an object, the target, a site or a body is, m."""
        if name in _KNOWN:
            return dict(zip(_KNOWN, (*self.objects, self.target), strict=True))[name]
        return self.data.site_xpos[self._sites[name]] if name in self._sites else self.data.body(name).xpos

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


def _bodies(model: mujoco.MjModel) -> set[str]:
    return {model.body(i).name for i in range(model.nbody)} - {""}


def _paint(model: mujoco.MjModel, paint: Mapping[str, Vector]) -> None:
    for name, colour in paint.items():
        if name not in (bodies := _bodies(model)):
            raise unknown("body to paint", name, bodies)
        if len(colour) != 3:
            raise ConfigError(f"paint: {name}: red, green and blue wanted, found {list(colour)}")
        parts = {model.body(name).id}
        for child in range(model.nbody):
            if int(model.body_parentid[child]) in parts:
                parts.add(child)
        geoms = np.flatnonzero(np.isin(model.geom_bodyid, list(parts)))
        model.geom_matid[geoms], model.geom_rgba[geoms] = -1, (*colour, 1.0)


def _marker(model: mujoco.MjModel, sites: Mapping[str, int]) -> int:
    """Leave visible nothing but the mark of the goal; return which site it is."""
    if "goal" not in sites or model.site_bodyid[sites["goal"]] != 0:
        raise ConfigError("render.sites: this Meta-World environment has no mark for its goal")
    model.site_rgba[[i for name, i in sites.items() if name != "goal"], 3] = 0
    return sites["goal"]


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
