"""The Gymnasium environment of a task: family dynamics, named success, progress, pictures and full state."""

import hashlib
from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box, Dict
from jaxtyping import Float32, Float64, UInt8

from vlmrl.errors import ConfigError, DataError, unknown
from vlmrl.sim.dynamics import Diverged, Draws, Paints, Shows, family
from vlmrl.sim.predicates import MEASURES, PREDICATES, bind
from vlmrl.sim.render import Renderer
from vlmrl.sim.task import Task
from vlmrl.sim.varying import Varying

_STATE = (
    mujoco.mjtState.mjSTATE_FULLPHYSICS
    | mujoco.mjtState.mjSTATE_WARMSTART
    | mujoco.mjtState.mjSTATE_CTRL
    | mujoco.mjtState.mjSTATE_EQ_ACTIVE
    | mujoco.mjtState.mjSTATE_MOCAP_POS
    | mujoco.mjtState.mjSTATE_MOCAP_QUAT
)
"""All that our dynamics use of MuJoCo's integration state (external forces, always zero here, are left out)."""


class SimEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """A task as Gymnasium sees it.

    The reward is the simulator's ground truth. Episodes are truncated at the task's horizon and never terminate; only a
    task of one step is over after it, with nothing left to expect.
    `info` has `success` (of this step, with the task's `hold`), `progress` (0 to 1, visible in the picture), the
    family's `signals`, and `diverged`: the simulation has failed, the episode is truncated and must not be used.
    """

    def __init__(self, task: Task, *, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode is None or 'rgb_array', found {render_mode!r}")
        self.task, self.render_mode = task, render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(task.control_hz)}
        self._dynamics = family(task).build(task)
        if abs(self._dynamics.control_hz - task.control_hz) > 1e-6:
            raise ConfigError(f"task {task.name!r}: control_hz is {task.control_hz}, but {self._dynamics.control_hz:g}")
        self.state_names, self.action_names = self._dynamics.state_names, self._dynamics.action_names
        self.state_units, self.action_units = self._dynamics.state_units, self._dynamics.action_units
        shown = self._dynamics.shown if isinstance(self._dynamics, Shows) else {}
        spaces: dict[str, Any] = {"state": Box(self._dynamics.low, self._dynamics.high, dtype=np.float32)}
        spaces |= {key: Box(-np.inf, np.inf, shape, np.float32) for key, shape in shown.items()}
        self.observation_space: Any = Dict(spaces)
        self.action_space = Box(-1.0, 1.0, (len(self.action_names),), np.float32)
        self._holds = bind(PREDICATES, task.success, "predicate")
        self._measure = bind(MEASURES, task.progress, "measure")
        self._renderer = Renderer(self.model, task.cameras, render=task.render, robot_bodies=task.robot_bodies)
        shapes = {key: space.shape for key, space in spaces.items()}
        self._varying = Varying(task, self._dynamics, shapes) if task.variation.active else None
        self._steps, self._held = 0, 0
        self._warned = 0

    @property
    def model(self) -> mujoco.MjModel:
        """The loaded scene."""
        return self._dynamics.model

    @property
    def data(self) -> mujoco.MjData:
        """The scene's present state."""
        return self._dynamics.data

    @property
    def drawn(self) -> Mapping[str, float]:
        """What the task's variation has drawn for this episode."""
        return {} if self._varying is None else dict(self._varying.values)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode; a seed gives the same start whatever happened before.

        `options={"sim_state": ...}` starts where an earlier `sim_state()` was.
        """
        super().reset(seed=seed)
        self._steps, self._held = 0, 0
        if self._varying is not None:
            self._varying.undress()
        self._dynamics.reset(self.np_random)
        if self._varying is not None:
            self._varying.next(self.np_random_seed, seeded=seed is not None)
            self._renderer.vary(self._varying.cameras, self._varying.props)
        if options and "sim_state" in options:
            self.set_sim_state(options["sim_state"])
        self._warned = self._warnings()
        return self.observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Advance one control step; actions outside [-1, 1] are clipped."""
        action = np.asarray(action, np.float32)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise DataError(f"finite action of shape {self.action_space.shape} wanted, found {action!r}")
        action = np.clip(action, -1, 1)
        if self._varying is not None:
            action = self._varying.act(action, self._steps)
            self._varying.push(self._steps)
        try:
            reward = self._dynamics.step(action)
        except Diverged:
            reward, diverged = 0.0, True
        else:
            # MuJoCo resets a state that has exploded, which then looks perfectly well.
            diverged = self._warnings() > self._warned or not np.isfinite(reward)
        if self._varying is not None:
            self._varying.rest()
        self._steps += 1
        self._held = self._held + 1 if not diverged and self._holds(self._dynamics) else 0
        terminated = self.task.horizon == 1 and not diverged
        truncated = diverged or (self._steps >= self.task.horizon and not terminated)
        return self.observe(), reward, terminated, truncated, self._info() | {"diverged": diverged}

    def at_goal(self) -> bool:
        """Whether the success predicate holds in the present state, however long the task's `hold` asks for."""
        return bool(self._holds(self._dynamics))

    @property
    def progress(self) -> float:
        """How far the task is done in the present state, from 0 to 1."""
        return float(self._measure(self._dynamics))

    def observe(self) -> dict[str, Float32[np.ndarray, "..."]]:
        """The observation of the present state, as after `set_sim_state`."""
        more = self._dynamics.show() if isinstance(self._dynamics, Shows) else {}
        observation = {"state": self._dynamics.observe(), **more}
        return observation if self._varying is None else self._varying.see(observation, self._steps)

    def frame(self, camera: str | None = None) -> UInt8[np.ndarray, "H W 3"]:
        """Draw the present state, RGB; by default what rewards and labelers see."""
        chosen = camera or self.task.camera
        if isinstance(self._dynamics, Paints):
            if chosen not in self.task.cameras:
                raise unknown("camera", chosen, self.task.cameras)
            placement = self.task.cameras[chosen]
            return self._dynamics.paint(placement.height, placement.width)
        return self._renderer.frame(self.data, chosen)

    def render(self) -> UInt8[np.ndarray, "H W 3"] | None:  # type: ignore[override]
        """Gymnasium's name for `frame`, with the robot in the picture."""
        return None if self.render_mode is None else self.frame(self.task.video)

    def settings(self, camera: str | None = None) -> Mapping[str, object]:
        """What determines a camera's pictures, JSON-ready."""
        return self.task.settings(camera or "") | {"renderer": f"mujoco {mujoco.__version__}"}

    def sim_state(self) -> Float64[np.ndarray, " S"]:
        """Everything that the next steps and pictures depend on."""
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, state, _STATE)
        drawn = [] if self._varying is None else self._varying.memory()
        return np.concatenate([[self._steps, self._held], state, self._dynamics.memory(), drawn])

    def start(self) -> str:
        """Fingerprint of what tells episodes apart at their start: physics, what varies, and what is observed.

        No generator's numbers: two seeds that start alike are the same start.
        """
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, state, _STATE)
        dynamics = self._dynamics
        told = hashlib.sha256(state.tobytes())
        told.update((dynamics.start() if isinstance(dynamics, Draws) else dynamics.memory()).tobytes())
        for key, value in sorted(self.observe().items()):
            told.update(key.encode() + value.tobytes())
        told.update(b"" if self._varying is None else self._varying.start())
        return told.hexdigest()[:16]

    def set_sim_state(self, state: Float64[np.ndarray, " S"]) -> None:
        """Return to a state that `sim_state` gave, also in another environment of the same task.

        Raises:
            DataError: if it is not of this task's length, or of another variation.
        """
        size = mujoco.mj_stateSize(self.model, _STATE)
        end = 2 + size + len(self._dynamics.memory())
        drawn = 0 if self._varying is None else len(self._varying.memory())
        if state.shape != (end + drawn,):
            raise DataError(
                f"simulator state of task {self.task.name!r} has {end + drawn} numbers, found {state.shape}"
            )
        if self._varying is not None:
            self._varying.undress()
        self._steps, self._held = int(state[0]), int(state[1])
        mujoco.mj_setState(self.model, self.data, state[2 : 2 + size], _STATE)
        self._dynamics.remember(state[2 + size : end])
        if self._varying is not None:
            self._varying.remember(state[end:])
            self._renderer.vary(self._varying.cameras, self._varying.props)
        mujoco.mj_forward(self.model, self.data)
        # The solver's warm start is part of the state, and has just been replaced.
        mujoco.mj_setState(self.model, self.data, state[2 : 2 + size], _STATE)

    def close(self) -> None:
        """Free the graphics context; safe to call twice."""
        self._renderer.close()

    def _info(self) -> dict[str, Any]:
        told = {"success": self._held >= self.task.hold, "progress": self.progress}
        return told | {"diverged": False, "signals": dict(self._dynamics.signals())}

    def _warnings(self) -> int:
        """Times that MuJoCo found the state or its velocities to have exploded."""
        bad = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
        return sum(int(self.data.warning[kind].number) for kind in bad)
