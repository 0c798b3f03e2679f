"""Any Gymnasium environment by its id: MuJoCo ones drawn by our renderer, others by their own pictures.

An episode goes on to the task's horizon: the environment's time limit is taken off, and where it ends by itself the
scene stands still from then on, pays nothing, and its signal `terminated` stays 1.
"""

import contextlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, Float64, UInt8
from PIL import Image

from vlmrl.errors import ConfigError, DataError, unknown
from vlmrl.sim.dynamics import Expert
from vlmrl.sim.task import Task, parsed
from vlmrl.sim.tasks.gym_spaces import actions, numbers, scalars, to_goal
from vlmrl.sim.tasks.gym_state import Attributes, Late, Moved

_PROBES = 4
"""Episodes at construction that show which parts of the model resets move, and what `info` tells."""


@dataclass(frozen=True)
class Options:
    """What a task may say about its Gymnasium environment."""

    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Keyword arguments of `gymnasium.make`."""
    signals: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Further signals: the value of one number of the state, or the length of the vector of several."""


class Gym:
    """A Gymnasium environment below our contract."""

    def __init__(self, task: Task, env: "gymnasium.Env[Any, Any]", options: Options) -> None:
        self._env, self._chosen = env, options.signals
        inner: Any = env.unwrapped
        self._inner = inner
        self.model, self.data = _scene(inner)
        self.control_hz = _rate(inner)
        self._act = actions(env.action_space, task.physics.name)
        self.action_names, self.action_units = self._act.names, self._act.units
        self.state_names, self.low, self.high = numbers(env.observation_space, task.physics.name)
        self.state_units = ("1",) * len(self.state_names)
        for name in {n for chosen in self._chosen.values() for n in chosen} - set(self.state_names):
            raise unknown("number of the state", name, self.state_names)
        self._seen = np.zeros(len(self.state_names))
        self._told: dict[str, float] = {}
        self._done = False
        self._late = Late(self.model, self.data)
        self._moved, self._attributes = self._probed()

    def reset(self, generator: np.random.Generator) -> None:
        """Start an episode with a seed drawn from the generator."""
        observation, info = self._env.reset(seed=int(generator.integers(2**31)))
        self._done = False
        self._told = dict.fromkeys(self._told, 0.0) | {k: v for k, v in scalars(info).items() if k in self._told}
        self._see(observation)
        # Gymnasium-Robotics places the goal's mark only when it draws.
        getattr(self._inner, "_render_callback", int)()

    def step(self, action: Float32[np.ndarray, " A"]) -> float:
        """Advance one step, unless the environment has ended."""
        if self._done:
            return 0.0
        self._late.put_back()
        observation, reward, terminated, _, info = self._env.step(self._act(action))
        self._done = bool(terminated)
        self._told |= {k: v for k, v in scalars(info).items() if k in self._told}
        self._see(observation)
        return float(np.asarray(reward).item())

    def observe(self) -> Float32[np.ndarray, " D"]:
        """All numbers of the observation."""
        return np.clip(self._seen.astype(np.float32), self.low, self.high)

    def signals(self) -> Mapping[str, float]:
        """The scalars of `info` (0 at the start), the task's own, `terminated`, and `to_goal` where there is a goal."""
        values = dict(zip(self.state_names, self._seen.tolist(), strict=True))
        own = {
            name: values[chosen[0]] if len(chosen) == 1 else float(np.linalg.norm([values[c] for c in chosen]))
            for name, chosen in self._chosen.items()
        }
        return {**self._told, **to_goal(values), **own, "terminated": float(self._done)}

    def memory(self) -> Float64[np.ndarray, " M"]:
        """What resets moved in the model, the environment's own numbers, and what it said last."""
        told = [*self._late.numbers, float(self._done), *self._told.values(), *self._seen]
        return np.concatenate([self._moved.read(self.model), self._attributes.read(self._inner), told])

    def start(self) -> Float64[np.ndarray, " N"]:
        """What resets moved and what is seen; not the environment's generator and its seed."""
        return np.concatenate([self._moved.read(self.model), self._seen])

    def remember(self, memory: Float64[np.ndarray, " M"]) -> None:
        """Put them back."""
        first, second = self._moved.size, self._moved.size + self._attributes.size
        self._moved.write(self.model, memory[:first])
        self._attributes.write(self._inner, memory[first:second])
        self._late.numbers = memory[second : second + self._late.size].copy()
        told = memory[second + self._late.size :]
        self._done = bool(told[0])
        self._told = dict(zip(self._told, told[1:].tolist(), strict=False))
        self._seen = told[1 + len(self._told) :].copy()

    def _see(self, observation: object) -> None:
        flat = spaces.flatten(self._env.observation_space, observation)
        self._seen = np.asarray(flat, np.float64)
        self._late.keep()

    def _probed(self) -> tuple[Moved, Attributes]:
        """Play a little: find what resets move, which attributes are numbers, and the scalars of `info`."""
        generator = np.random.default_rng(0)
        moved, attributes = Moved(self.model), Attributes()
        zero = np.zeros(len(self.action_names), np.float32)
        for _ in range(_PROBES):
            self.reset(generator)
            moved.notice(self.model)
            attributes.notice(self._inner)
            info = self._env.step(self._act(zero))[4]
            self._told |= dict.fromkeys(scalars(info), 0.0)
            attributes.notice(self._inner)
        self.reset(generator)
        return moved, attributes


class PaintedGym(Gym):
    """An environment that MuJoCo does not move: it draws itself, and its numbers are its whole state."""

    def __init__(self, task: Task, env: "gymnasium.Env[Any, Any]", options: Options) -> None:
        super().__init__(task, env, options)
        self._name, self._restorable = task.physics.name, True
        self._restorable = self._returns()

    def paint(self, height: int, width: int) -> UInt8[np.ndarray, "H W 3"]:
        """The environment's own picture at the size asked for.

        Raises:
            ConfigError: if it lacks what it draws with.
        """
        try:
            drawn = self._env.render()
        except gymnasium.error.DependencyNotInstalled as error:
            raise _missing(self._name, error) from error
        picture = Image.fromarray(np.asarray(drawn, np.uint8))
        return np.asarray(picture.resize((width, height), Image.Resampling.BOX), np.uint8)

    def remember(self, memory: Float64[np.ndarray, " M"]) -> None:
        """Put the numbers back.

        Raises:
            DataError: if they are not its whole state.
        """
        if not self._restorable:
            raise DataError(f"{self._name} keeps its state where it cannot be put back; its episodes cannot be resumed")
        super().remember(memory)

    def _returns(self) -> bool:
        """Whether a state put back continues as it did."""
        generator = np.random.default_rng(0)
        actions = generator.uniform(-1, 1, (6, len(self.action_names))).astype(np.float32)
        self.reset(generator)
        self.step(actions[0])
        memory = self.memory()
        first = [(self.step(a), self._seen.copy()) for a in actions]
        super().remember(memory)
        second = [(self.step(a), self._seen.copy()) for a in actions]
        self.reset(generator)
        return all(r == s and np.array_equal(x, y) for (r, x), (s, y) in zip(first, second, strict=True))


def build(task: Task) -> Gym:
    """Make the environment of a task.

    Raises:
        ConfigError: if there is none of this id, a package is missing, or its spaces are not ours.
    """
    options = parsed(Options, task)
    env = _make(task.physics.name, options.arguments)
    if isinstance(getattr(env.unwrapped, "model", None), mujoco.MjModel):
        return Gym(task, env, options)
    env.close()
    return PaintedGym(task, _make(task.physics.name, {"render_mode": "rgb_array", **options.arguments}), options)


def build_expert(task: Task) -> Expert:
    """Nobody has scripted these.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(f"task {task.name!r}: family 'gymnasium' has no scripted experts; collect with another policy")


def _make(name: str, arguments: Mapping[str, Any]) -> "gymnasium.Env[Any, Any]":
    if name.partition(":")[2] == "" and name not in gymnasium.registry:
        _register_robotics()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is out of date.*")
            return gymnasium.make(name, max_episode_steps=-1, disable_env_checker=True, **arguments)
    except gymnasium.error.DependencyNotInstalled as error:
        raise _missing(name, error) from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ConfigError(f"Gymnasium cannot make {name!r}: {error}; Adroit, Fetch and others: {_EXTRA}") from error
    except TypeError as error:
        raise ConfigError(f"Gymnasium environment {name!r} does not take {dict(arguments)}: {error}") from error


_EXTRA = "pip install 'vlmrl[sims]'"


def _missing(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"Gymnasium environment {name!r} needs more than is installed ({error}): {_EXTRA}")


def _register_robotics() -> None:
    """Adroit, Fetch and others, if they are installed."""
    # Its first import prints that the dense rewards of Adroit differ from those before its version 1.2.1.
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(ModuleNotFoundError):
        gymnasium.register_envs(import_module("gymnasium_robotics"))


def _scene(inner: Any) -> tuple[mujoco.MjModel, mujoco.MjData]:
    if isinstance(getattr(inner, "model", None), mujoco.MjModel):
        return inner.model, inner.data
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    return model, mujoco.MjData(model)


def _rate(inner: Any) -> float:
    """Control steps a second of simulated time, or else as it asks to be shown."""
    dt = getattr(inner, "dt", None) if isinstance(getattr(inner, "model", None), mujoco.MjModel) else None
    return 1 / float(dt) if dt else float(inner.metadata.get("render_fps", 1))
