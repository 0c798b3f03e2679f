"""robomimic's HDF5 files, read and written (Mandlekar et al. 2021; its documentation, "Dataset Contents and Overview").

`data/demo_i` holds N `actions` and what was seen before each (`obs/<key>`) and after it (`next_obs/<key>`), simulator
`states`, `rewards` and `dones`; attributes tell the environment; `mask/<name>` lists demonstrations. Here a
demonstration is an episode of N+1 rows, or of N where a file has no `next_obs`: then the last action has no next row.
`rewards` and `dones` of step i become `truth/reward` and `truth/done` of row i+1. Pictures and states come back to the
bit, other numbers rounded to float32, in which robomimic trains; everything else is kept and written back.

`dones` may mean success, the end of a recording, or both: an episode counts as terminated where the file's last is set.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from vlmrl.errors import ConfigError, DataError
from vlmrl.store import manifest
from vlmrl.store.importers import Report, append_all
from vlmrl.store.store import Store
from vlmrl.types import NO_FRAME, Episode, Frames

META = "robomimic"
"""In a store's meta: what the file says besides its arrays."""
GYM = 2
"""robomimic's number for environments of the gym kind."""
_READ = ("actions", "rewards", "dones", "states", "obs", "next_obs")
_DEFAULT_HZ = 20.0
"""robosuite's control_freq."""


@dataclass(frozen=True)
class Config:
    """Import a file in robomimic's layout."""

    source: str
    """HDF5 file."""
    out: str
    """Store to write; one that was half filled from this file is gone on with."""
    task: str = ""
    """Task name to record; the file's env_name where empty."""
    instruction: str = ""
    """Sentence to record."""
    control_hz: float | None = None
    """Actions in a second; null: the file's control_freq, or 20."""
    batch: int = 64
    """Episodes committed at a time."""


@dataclass(frozen=True)
class ExportConfig:
    """Write a store as one HDF5 file that robomimic reads."""

    store: str
    """Folder of the store."""
    out: str
    """File to write; it must not exist."""
    reward: str = ""
    """Reward column that becomes `rewards`; empty: the simulator's own where the store has it, else zeros."""
    obs: tuple[str, ...] = ()
    """Keys of the observation; empty: all."""
    cameras: tuple[str, ...] = ()
    """Cameras that have a picture in every row; empty: all that do."""
    valid: float = 0.1
    """Share of the episodes, drawn by `seed`, in `mask/valid`; the others are `mask/train`. Not where the store came
    from a file that had its own."""
    seed: int = 0


def run(config: Config, progress: Callable[[int], None] | None = None) -> Report:
    """Import into a store; `progress` is told how many episodes were committed.

    Raises:
        ConfigError: if a package is missing, or the store was filled from another file.
        DataError: naming what is wrong with the source.
    """
    path, out = Path(config.source), Path(config.out)
    with _open(path) as file:
        demos = _demos(path, file)
        kept = _kept(path, file, demos)
        hz = config.control_hz or kept["env_kwargs"].get("control_freq") or _DEFAULT_HZ
        meta = {"control_hz": float(hz), META: kept}
        if (out / manifest.NAME).exists():
            store = Store.open(out)
            if store.meta.get(META, {}).get("demos") != kept["demos"]:
                raise ConfigError(f"{out} was not filled from {path}; choose another out=FOLDER")
        else:
            store = Store.create(out, meta=meta)
        for name, text in _models(file, demos).items():
            (out / META).mkdir(exist_ok=True)
            (out / META / name).write_text(text, encoding="utf-8")
        missing = [demo for demo in demos if kept["demos"][demo]["id"] not in store.episodes.id]
        found = (_episode(path, file, demo, kept, config, float(hz)) for demo in missing)
        added = append_all(store, found, batch=config.batch, progress=progress)
        left_out = sorted({key for demo in demos for key in file[f"data/{demo}"] if key not in _READ})
        note = f"time counts {hz:g} steps a second; robomimic's dones are taken for the end of the task"
        return Report(store, added, len(demos) - len(missing), left_out, note)


def export(config: ExportConfig) -> str:
    """Write the file; returns what was written, in words.

    Raises:
        ConfigError: if a name is unknown, a package is missing or the file exists.
        DataError: if an episode cannot be told in this layout.
    """
    store, out = Store.open(config.store), Path(config.out)
    if out.exists():
        raise ConfigError(f"{out} exists; choose another out=FILE")
    if not len(store):
        raise DataError(f"{config.store} has no episodes")
    keys = _chosen(config.obs, [c.removeprefix("obs/") for c in store.columns() if c.startswith("obs/")], "observation")
    whole = [c for c in store.cameras if len(store.frame_rows(c)) == len(store)]
    cameras = _chosen(config.cameras, whole, "camera with a picture in every row")
    reward = _rewards(store, config.reward)
    partial = out.with_name(f".{out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _h5py().File(partial, "w") as file:
        steps = _write(file, store, keys, cameras, reward, config)
    partial.replace(out)
    skipped = [c for c in store.cameras if c not in cameras]
    told = f"; cameras left out: {', '.join(skipped)}" if skipped else ""
    return f"{out}: {len(store.episodes):,} demonstrations, {steps:,} steps, obs {', '.join([*keys, *cameras])}{told}"


def _h5py() -> Any:
    try:
        return import_module("h5py")
    except ModuleNotFoundError as error:
        raise ConfigError("HDF5 files need the package h5py: pip install 'vlmrl[hdf5]'") from error


def _open(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"{path} is missing; wanted an HDF5 file as robomimic writes it")
    try:
        return _h5py().File(path, "r")
    except OSError as error:
        raise DataError(f"{path} cannot be read as HDF5: {error}") from error


def _demos(path: Path, file: Any) -> list[str]:
    """Names in the order of their numbers."""
    found = [name for name in file.get("data", {}) if name.startswith("demo_") and name[5:].isdigit()]
    if not found:
        raise DataError(f"{path} holds no data/demo_0, data/demo_1 ...; have: {', '.join(file) or 'nothing'}")
    return sorted(found, key=lambda name: int(name[5:]))


def _kept(path: Path, file: Any, demos: Sequence[str]) -> dict[str, Any]:
    """What a store keeps of a file besides its arrays, as JSON."""
    attributes = {key: _plain(value) for key, value in file["data"].attrs.items()}
    env = _json(path, "env_args", attributes.get("env_args")) or {}
    kwargs = env.get("env_kwargs") or _json(path, "env_info", attributes.get("env_info")) or {}
    about: dict[str, Any] = {}
    for demo in demos:
        group = file[f"data/{demo}"]
        last = {} if "next_obs" in group else {k: float(group[k][-1]) for k in ("rewards", "dones") if k in group}
        about[demo] = {
            "id": _id(path, demo, group),
            "attributes": {k: _plain(v) for k, v in group.attrs.items() if k not in ("model_file", "num_samples")},
            "model": _model_name(group),
            "last": last,
        }
    mask = {key: [_plain(name) for name in file[f"mask/{key}"][()]] for key in file.get("mask", {})}
    dtypes: dict[str, str] = {}
    file[f"data/{demos[0]}"].visititems(lambda name, node: dtypes.__setitem__(name, str(getattr(node, "dtype", ""))))
    return {"attributes": attributes, "env_kwargs": kwargs, "demos": about, "mask": mask, "dtypes": dtypes}


def _json(path: Path, name: str, text: object) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        found = json.loads(str(text))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: attribute {name} is no JSON ({error})") from error
    return found if isinstance(found, dict) else None


def _plain(value: Any) -> Any:
    """An HDF5 attribute as JSON."""
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _id(path: Path, demo: str, group: Any) -> str:
    if "actions" not in group or group["actions"].ndim != 2 or not len(group["actions"]):
        raise DataError(f"{path}: data/{demo} has no matrix of actions; have: {', '.join(group)}")
    digest = hashlib.sha256(group["actions"][()].tobytes())
    digest.update(group["states"][()].tobytes() if "states" in group else b"")
    return f"robomimic-{demo}-{digest.hexdigest()[:12]}"


def _model_name(group: Any) -> str:
    text = group.attrs.get("model_file")
    return f"{hashlib.sha256(_plain(text).encode()).hexdigest()[:16]}.xml" if text is not None else ""


def _models(file: Any, demos: Sequence[str]) -> dict[str, str]:
    groups = [file[f"data/{demo}"] for demo in demos]
    return {name: _plain(group.attrs["model_file"]) for group in groups if (name := _model_name(group))}


def _episode(path: Path, file: Any, demo: str, kept: Mapping[str, Any], config: Config, hz: float) -> Episode:
    group, where = file[f"data/{demo}"], f"{path}: data/{demo}"
    steps = len(group["actions"])
    wrong = {k: len(group[k]) for k in ("rewards", "dones", "states") if k in group and len(group[k]) != steps}
    if wrong:
        raise DataError(f"{where} has {steps} actions; as many wanted, found {wrong}")
    further = "next_obs" in group
    rows = steps + further
    seen = {key: _with_last(where, group, key, steps) for key in group.get("obs", {})}
    pictures = {key: value for key, value in seen.items() if value.ndim == 4 and value.dtype == np.uint8}
    numbers = {key: value.reshape(rows, -1).astype(np.float32) for key, value in seen.items() if key not in pictures}
    wide = [key for key, value in pictures.items() if value.shape[-1] != 3]
    if wide:
        raise DataError(f"{where}: pictures of three channels wanted, found {wide[0]} {pictures[wide[0]].shape}")
    action = np.zeros((rows, group["actions"].shape[1]), np.float32)
    action[:steps] = group["actions"][()]
    truth = {
        ours: np.append(np.float32(np.nan), group[name][()]).astype(np.float32)[:rows]
        for name, ours in (("rewards", "reward"), ("dones", "done"))
        if name in group
    }
    state = None
    if "states" in group:
        state = np.full((rows, group["states"].shape[1]), np.nan)
        state[:steps] = group["states"][()]
    terminated = "dones" in group and bool(group["dones"][-1])
    row, name = np.arange(rows), str(kept["attributes"].get("env", ""))
    env = _json(path, "env_args", kept["attributes"].get("env_args")) or {}
    return Episode(
        action=action,
        obs=numbers,
        time=row / hz,
        has_action=row < steps,
        has_next=row < rows - 1,
        terminated=terminated,
        truncated=not terminated,
        task=config.task or str(env.get("env_name") or name or path.stem),
        instruction=config.instruction,
        source=f"robomimic {path.name}/{demo}",
        images={key: Frames(value, np.arange(rows, dtype=np.int32)) for key, value in pictures.items()},
        truth=truth,
        sim_state=state,
        id=kept["demos"][demo]["id"],
    )


def _with_last(where: str, group: Any, key: str, steps: int) -> np.ndarray:
    """What was seen before every action, and after the last."""
    values = group[f"obs/{key}"][()]
    if len(values) != steps:
        raise DataError(f"{where}/obs/{key} has {len(values)} rows, {steps} wanted")
    if "next_obs" not in group:
        return values
    if key not in group["next_obs"]:
        raise DataError(f"{where} has obs/{key} and no next_obs/{key}")
    after = group[f"next_obs/{key}"][()]
    if not np.array_equal(after[:-1], values[1:]):
        raise DataError(f"{where}: next_obs/{key} is not obs/{key} one step later: steps were left out of the file")
    return np.concatenate([values, after[-1:]])


def _chosen(wanted: Sequence[str], have: Sequence[str], kind: str) -> list[str]:
    if unknown := [name for name in wanted if name not in have]:
        raise ConfigError(f"no {kind} {unknown[0]!r}; have: {', '.join(have) or 'none'}")
    return list(wanted or have)


def _rewards(store: Store, column: str) -> Float32[np.ndarray, " N"]:
    """Of the action of each row."""
    if column:
        if column not in store.rewards():
            raise ConfigError(f"unknown reward column {column!r}; have: {', '.join(sorted(store.rewards())) or 'none'}")
        return store.column(f"reward/{column}/mean")
    if "truth/reward" in store.columns():
        return np.append(store.column("truth/reward")[1:], np.float32(np.nan))
    return np.zeros(len(store), np.float32)


def _write(
    file: Any,
    store: Store,
    keys: Sequence[str],
    cameras: Sequence[str],
    reward: Float32[np.ndarray, " N"],
    config: ExportConfig,
) -> int:
    kept = store.meta.get(META, {})
    names = {about["id"]: demo for demo, about in kept.get("demos", {}).items()}
    table, dtypes = store.episodes, kept.get("dtypes", {})
    data, total = file.create_group("data"), 0
    for number, episode in enumerate(_episodes(store, cameras)):
        rows = slice(int(table.start[number]), int(table.stop[number]))
        name = names.get(episode.id, f"demo_{number}")
        about = kept.get("demos", {}).get(name, {})
        total += _write_demo(data.create_group(name), episode, reward[rows], keys, cameras, dtypes, about)
        if about.get("model"):
            model = (store.path / META / about["model"]).read_text(encoding="utf-8")
            data[name].attrs["model_file"] = model
        for key, value in about.get("attributes", {}).items():
            data[name].attrs[key] = value
    env = {"env_name": table.task[0], "env_type": GYM, "env_kwargs": {}}
    for key, value in (kept.get("attributes") or {"env_args": json.dumps(env)}).items():
        data.attrs[key] = value
    data.attrs["total"] = total
    demos = [names.get(id, f"demo_{k}") for k, id in enumerate(table.id)]
    for key, members in (kept.get("mask") or _split(demos, config)).items():
        file[f"mask/{key}"] = np.array(members, dtype="S")
    return total


def _episodes(store: Store, cameras: Sequence[str]) -> Iterator[Episode]:
    for id in store.episodes.id:
        yield store.episode(id, images=bool(cameras))


def _write_demo(
    group: Any,
    episode: Episode,
    reward: Float32[np.ndarray, " T"],
    keys: Sequence[str],
    cameras: Sequence[str],
    dtypes: Mapping[str, str],
    about: Mapping[str, Any],
) -> int:
    steps = int(episode.has_action.sum())
    if not steps or not episode.has_action[:steps].all() or not episode.has_next[: steps - 1].all():
        raise DataError(f"episode {episode.id!r} has gaps: robomimic wants an action in every row but the last")
    if not about and not (np.abs(episode.action[:steps]) <= 1).all():
        most = float(np.abs(episode.action[:steps]).max())
        raise DataError(f"episode {episode.id!r} has actions up to {most:g}: robomimic wants them within [-1, 1]")
    further = steps < len(episode)
    last = about.get("last", {})
    rewards = reward[:steps].copy()
    done = np.zeros(steps, np.float32)
    done[-1] = episode.terminated
    if "done" in episode.truth:
        done[: len(episode) - 1] = episode.truth["done"][1 : steps + 1]
    for name, numbers in (("rewards", rewards), ("dones", done)):
        if name in last and not further:
            numbers[-1] = last[name]
    if not np.isfinite(rewards).all():
        step = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise DataError(f"episode {episode.id!r} has no reward at step {step}; choose a reward column that covers it")
    group.attrs["num_samples"] = steps
    seen = {key: episode.obs[key] for key in keys} | {c: _pixels(episode, c) for c in cameras}
    values: dict[str, np.ndarray] = {"actions": episode.action, "rewards": rewards, "dones": done}
    if episode.sim_state is not None:
        values["states"] = episode.sim_state
    for name, value in values.items():
        if about and name not in dtypes:
            continue  # the file that it came from had none
        group[name] = value[:steps].astype(dtypes.get(name, value.dtype))
    for key, value in seen.items():
        group[f"obs/{key}"] = value[:steps].astype(dtypes.get(f"obs/{key}", value.dtype))
        if further:
            group[f"next_obs/{key}"] = value[1 : steps + 1].astype(dtypes.get(f"obs/{key}", value.dtype))
    return steps


def _pixels(episode: Episode, camera: str) -> np.ndarray:
    image = episode.images[camera]
    if not isinstance(image, Frames) or (image.index == NO_FRAME).any():
        raise DataError(
            f"episode {episode.id!r}: camera {camera} is video or has gaps; leave it out with cameras=[...]"
        )
    return image.pixels[image.index]


def _split(demos: Sequence[str], config: ExportConfig) -> dict[str, list[str]]:
    """Train and valid by chance, as robomimic's own script does."""
    count = round(config.valid * len(demos))
    chosen = set(np.random.default_rng(config.seed).permutation(len(demos))[:count].tolist())
    return {
        "train": [demo for k, demo in enumerate(demos) if k not in chosen],
        "valid": [demo for k, demo in enumerate(demos) if k in chosen],
    }
