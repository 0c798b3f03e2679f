"""Import of flat arrays as D4RL publishes them (Fu et al. 2020), from npz or HDF5: all steps of all episodes in a row.

Step i holds an observation, the action taken in it and the reward of taking it, so `rewards` of step i becomes
`truth/reward` of row i+1. The last step of an episode has an action and no next row, unless the file holds
`next_observations`: those of the last step become a further row without action.

Borders are `episode_ends` (exclusive indices), else the steps where `terminals` or `timeouts` is set. Only `terminals`
means that the task ended. Simulator states of every step (`infos/qpos`, `infos/qvel`), or of the first step of every
episode (`init_...`), become `sim_state`, NaN on the rows where they are unknown.
"""

import hashlib
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from vlmrl.errors import ConfigError, DataError
from vlmrl.store import manifest
from vlmrl.store.importers import Report, append_all
from vlmrl.store.store import Store
from vlmrl.types import Episode

_READ = ("observations", "actions", "rewards", "next_observations", "episode_ends", "terminals", "timeouts")
_STATES = ("infos/qpos", "infos/qvel")
_FIRST = "init_"


@dataclass(frozen=True)
class Config:
    """Import arrays in D4RL's layout."""

    source: str
    """File that ends in .npz, .hdf5 or .h5."""
    out: str
    """Store to write; an existing one is continued."""
    task: str = ""
    """Task name to record; the file's name where empty."""
    instruction: str = ""
    """Sentence to record."""
    control_hz: float = 10.0
    """Steps in a second, which the file does not tell."""
    batch: int = 64
    """Episodes committed at a time."""


def run(config: Config, progress: Callable[[int], None] | None = None) -> Report:
    """Import into a store, new or half filled; `progress` is told how many episodes were committed.

    Raises:
        ConfigError: if a setting is impossible, or a package is missing.
        DataError: naming what is wrong with the source.
    """
    if not config.control_hz > 0:
        raise ConfigError(f"control_hz is {config.control_hz}, above 0 wanted")
    arrays = Arrays.load(Path(config.source))
    out, meta = Path(config.out), {"control_hz": config.control_hz}
    if (out / manifest.NAME).exists():
        store = Store.open(out)
        if (found := store.meta.get("control_hz")) != config.control_hz:
            raise ConfigError(f"{out} was filled with control_hz {found}, not {config.control_hz}")
    else:
        store = Store.create(out, names={"sim_state": arrays.state_names} if arrays.state_names else {}, meta=meta)
    added = append_all(store, read(arrays, config, skip=store.episodes), batch=config.batch, progress=progress)
    note = f"time counts {config.control_hz:g} steps a second, as control_hz says"
    return Report(store, added, len(arrays.stop) - len(added), arrays.left_out, note)


def read(arrays: "Arrays", config: Config, *, skip: Container[str] = ()) -> Iterator[Episode]:
    """Yield the episodes, without those whose id is in `skip`."""
    for number in range(len(arrays.stop)):
        episode = arrays.episode(number, config)
        if episode.id not in skip:
            yield episode


@dataclass(frozen=True)
class Arrays:
    """A file's arrays, checked against each other."""

    path: Path
    content: Mapping[str, np.ndarray]
    stop: Int64[np.ndarray, " E"]
    """Exclusive last step of each episode."""

    @classmethod
    def load(cls, path: Path) -> "Arrays":
        """Read a file.

        Raises:
            ConfigError: if it is HDF5 and h5py is not installed.
            DataError: if it is missing, damaged, or its arrays do not fit together.
        """
        content = _contents(path)
        for name in ("observations", "actions"):
            if name not in content or content[name].ndim != 2:
                raise DataError(f"{path} has no matrix {name!r}; have: {_shapes(content)}")
        steps = len(content["observations"])
        wrong = {
            k: content[k].shape for k in _READ if k in content and k != "episode_ends" and len(content[k]) != steps
        }
        if wrong or not steps:
            raise DataError(
                f"{path} has {steps} observations, at least one, and as many in {wrong or 'all arrays'} wanted"
            )
        for name in ("rewards", "terminals", "timeouts"):
            if name in content and content[name].ndim != 1:
                raise DataError(f"{path}: {name} has shape {content[name].shape}, one number a step wanted")
        if "next_observations" in content and content["next_observations"].shape != content["observations"].shape:
            found = content["next_observations"].shape
            raise DataError(f"{path}: next_observations {found}, {content['observations'].shape} wanted")
        return cls(path, content, _borders(path, content, steps))

    @property
    def states(self) -> list[str]:
        """Arrays that make up `sim_state`."""
        if all(name in self.content and len(self.content[name]) == self.stop[-1] for name in _STATES):
            return list(_STATES)
        return sorted(k for k, v in self.content.items() if k.startswith(_FIRST) and v.shape[:1] == self.stop.shape)

    @property
    def state_names(self) -> list[str]:
        """Name of each entry of `sim_state`."""
        widths = {name: int(np.prod(self.content[name].shape[1:])) for name in self.states}
        return [f"{name.rpartition('/')[2]}[{i}]" for name, width in widths.items() for i in range(width)]

    @property
    def left_out(self) -> list[str]:
        """Arrays that a store has no place for."""
        return sorted(set(self.content) - set(_READ) - set(self.states))

    def episode(self, number: int, config: Config) -> Episode:
        """One episode."""
        start, stop = int(self.stop[number - 1]) if number else 0, int(self.stop[number])
        steps, last = stop - start, "next_observations" in self.content
        obs, action = self._floats("observations", start, stop), self._floats("actions", start, stop)
        if last:
            obs = np.concatenate([obs, self._floats("next_observations", stop - 1, stop)])
            action = np.concatenate([action, np.zeros_like(action[:1])])
        row = np.arange(len(obs))
        truth: dict[str, Float32[np.ndarray, " T"]] = {}
        if "rewards" in self.content:
            rewards = self._floats("rewards", start, stop)
            truth["reward"] = np.append(np.float32(np.nan), rewards)[: len(obs)].astype(np.float32)
        terminated = "terminals" in self.content and bool(self.content["terminals"][stop - 1])
        task = config.task or self.path.stem
        return Episode(
            action=action,
            obs={"state": obs},
            time=row / config.control_hz,
            has_action=row < steps,
            has_next=row < len(obs) - 1,
            terminated=terminated,
            truncated=not terminated,
            task=task,
            instruction=config.instruction,
            source=f"d4rl {self.path.name}/{number}",
            truth=truth,
            sim_state=self._sim_state(number, start, stop, len(obs)),
            id=_episode_id(number, obs, action),
        )

    def _floats(self, name: str, start: int, stop: int) -> Float32[np.ndarray, "T ..."]:
        values = np.ascontiguousarray(self.content[name][start:stop], np.float32)
        if not np.isfinite(values).all():
            step = start + int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))[0])
            raise DataError(f"{self.path}: {name} of step {step} is not finite")
        return values

    def _sim_state(self, number: int, start: int, stop: int, rows: int) -> Float64[np.ndarray, "T S"] | None:
        if not self.states:
            return None
        state = np.full((rows, len(self.state_names)), np.nan)
        known = slice(start, stop) if self.states[0] in _STATES else slice(number, number + 1)
        values = np.concatenate([self.content[k][known].reshape(known.stop - known.start, -1) for k in self.states], 1)
        state[: len(values)] = values
        return state


def _contents(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"{path} is missing; wanted a file .npz, .hdf5 or .h5")
    if path.suffix in (".hdf5", ".h5"):
        return _hdf5(path)
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except (BadZipFile, ValueError, OSError, EOFError, AttributeError) as error:
        raise DataError(f"{path} cannot be read as .npz: {error}") from error


def _hdf5(path: Path) -> dict[str, np.ndarray]:
    """Every array of numbers by its path within the file."""
    try:
        h5py = import_module("h5py")
    except ModuleNotFoundError as error:
        raise ConfigError("HDF5 files need the package h5py: pip install 'vlmrl[hdf5]'") from error
    found: dict[str, np.ndarray] = {}

    def keep(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind in "fiub" and node.shape:
            found[name] = node[()]

    try:
        with h5py.File(path) as file:
            file.visititems(keep)
    except OSError as error:
        raise DataError(f"{path} cannot be read as HDF5: {error}") from error
    return found


def _borders(path: Path, content: Mapping[str, np.ndarray], steps: int) -> Int64[np.ndarray, " E"]:
    """Exclusive last steps; what follows the last mark is an episode too."""
    if "episode_ends" in content:
        stop = content["episode_ends"].astype(np.int64)
        if stop.ndim != 1 or not len(stop) or stop[-1] != steps or (np.diff(stop, prepend=0) <= 0).any():
            raise DataError(f"{path}: episode_ends must grow from above 0 to the number of steps, {steps}")
        return stop
    marks = [_marks(content[name]) for name in ("terminals", "timeouts") if name in content]
    if not marks:
        raise DataError(f"{path} has no borders: episode_ends, terminals or timeouts wanted; have: {_shapes(content)}")
    stop = np.flatnonzero(np.any(marks, axis=0)) + 1
    return np.append(stop, steps) if not len(stop) or stop[-1] != steps else stop


def _marks(values: np.ndarray) -> Bool[np.ndarray, " N"]:
    return values.astype(bool)


def _shapes(content: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {value.shape}" for name, value in sorted(content.items())) or "nothing"


def _episode_id(number: int, obs: Float32[np.ndarray, "T D"], action: Float32[np.ndarray, "T A"]) -> str:
    return f"d4rl-{number:06d}-{hashlib.sha256(obs.tobytes() + action.tobytes()).hexdigest()[:12]}"
