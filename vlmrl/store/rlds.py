"""Import of RLDS data sets (TFRecord files as TFDS writes them), without TensorFlow.

Step i holds an observation, the action taken in it and the reward of taking it, so `reward` of step i becomes
`truth/reward` of row i+1. Of the step marked `is_last` only the observation counts (google-research/rlds): its row has
no action. A recording that just stops has none marked; its last row has an action and no next row. `is_terminal` of the
last step means that the episode terminated; where the data set lacks it, a discount of 0 on arriving there does.
"""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vlmrl.errors import ConfigError, DataError
from vlmrl.store import manifest
from vlmrl.store.importers import Report, append_all
from vlmrl.store.rlds_meta import FLAGS, STEPS, Dataset, Feature, load
from vlmrl.store.rlds_record import Values, example, records
from vlmrl.store.rlds_steps import Columns, Steps
from vlmrl.store.store import Store
from vlmrl.types import Episode

_OBSERVATION = f"{STEPS}/observation"
_ACTION = f"{STEPS}/action"


@dataclass(frozen=True)
class Config:
    """Import an RLDS data set. Features are named as below `steps`: observation/state."""

    source: str
    """Folder that holds `features.json`, `dataset_info.json` and the TFRecord files."""
    out: str
    """Store to write; an existing one is continued."""
    task: str = ""
    """Task name to record; the data set's where empty."""
    batch: int = 16
    """Episodes committed at a time."""
    split: str = "train"
    control_hz: float = 10.0
    """Steps in a second, which RLDS does not tell."""
    state: tuple[str, ...] = ()
    """Features joined into `obs/state`; empty: every vector of floats in the observation keeps its own name."""
    action: tuple[str, ...] = ()
    """Features joined into `action`; empty: `action`, or all vectors in it."""
    cameras: tuple[str, ...] = ()
    """Features kept as cameras; empty: all RGB pictures in the observation."""
    instruction: str = ""
    """Feature that holds the sentence; empty: the one whose name says instruction."""
    success: str = ""
    """Feature that is above 0 on the last step of a success, such as reward; empty: success is unknown."""


def run(config: Config, progress: Callable[[int], None] | None = None) -> Report:
    """Import into a store, new or half filled; `progress` is told how many episodes were committed.

    Raises:
        DataError: naming what is wrong with the source; the episodes before it are kept.
    """
    dataset = load(Path(config.source))
    columns = choose(dataset, config)
    out = Path(config.out)
    shards, meta = dataset.split(config.split), {"control_hz": config.control_hz, **asdict(columns)}
    if (out / manifest.NAME).exists():
        store = Store.open(out)
        if other := [f"{k} {store.meta.get(k)}, not {v}" for k, v in meta.items() if store.meta.get(k) != v]:
            raise ConfigError(f"{out} was filled with {'; '.join(other)}: a store keeps its settings")
    else:
        store = Store.create(out, names=_names(dataset, columns), meta=meta)
    added = append_all(store, read(config, skip=store.episodes), batch=config.batch, progress=progress)
    dark = [f"{camera} (black)" for camera in columns.cameras if camera not in store.cameras]
    note = f"time counts {config.control_hz:g} steps a second, as control_hz says"
    known = sum(shard.episodes for shard in shards) - len(added)
    return Report(store, added, known, _left_out(dataset, columns) + dark, note)


def choose(dataset: Dataset, config: Config) -> Columns:
    """Find the features that the settings name, or usual ones.

    Raises:
        ConfigError: if one does not exist or cannot be what it is named for.
    """
    if not config.control_hz > 0:
        raise ConfigError(f"control_hz is {config.control_hz}, above 0 wanted")
    seen, acted = dataset.below(_OBSERVATION), dataset.below(_ACTION)
    state = _named(dataset, config.state, "a vector of numbers", lambda f: f.vector)
    action = _named(dataset, config.action, "a vector of numbers", lambda f: f.vector)
    cameras = _named(dataset, config.cameras, "an RGB picture", lambda f: f.picture)
    said = _named(dataset, [config.instruction], "text", lambda f: f.kind == "text") if config.instruction else []
    success = _named(dataset, [config.success], "a number", lambda f: f.vector) if config.success else []
    action = action or [k for k, f in acted.items() if f.vector]
    if not action:
        have = ", ".join(k.removeprefix(f"{STEPS}/") for k, f in dataset.features.items() if f.vector)
        raise ConfigError(f"{dataset.root} has no step feature 'action': say action=[...]; vectors are: {have}")
    vectors = {_short(k): [k] for k, f in seen.items() if f.vector and f.floating}
    return Columns(
        obs={"state": state} if state else vectors,
        action=action,
        cameras={_short(k): k for k in cameras or [k for k, f in seen.items() if f.picture]},
        instruction=(said or _sentences(dataset) or [""])[0],
        success=(success or [""])[0],
    )


def _named(dataset: Dataset, names: Sequence[str], kind: str, fits: Callable[[Feature], bool]) -> list[str]:
    found = [dataset.resolve(name) for name in names]
    for full in found:
        if not fits(dataset.features[full]):
            raise ConfigError(f"feature {full} is {dataset.features[full]}, {kind} wanted")
    return found


def _sentences(dataset: Dataset) -> list[str]:
    """Texts that are named instruction, the shortest name first."""
    texts = [k for k, f in dataset.features.items() if f.kind == "text" and "instruction" in k.rpartition("/")[2]]
    return sorted(texts, key=lambda k: (len(k), k))


def _short(full: str) -> str:
    return full.removeprefix(f"{_OBSERVATION}/").removeprefix(f"{STEPS}/").replace("/", ".")


def _names(dataset: Dataset, columns: Columns) -> dict[str, list[str]]:
    """Names of the entries of columns that were joined."""

    def entries(full: str) -> list[str]:
        short, width = _short(full).removeprefix("action."), dataset.features[full].width
        return [short] if width == 1 else [f"{short}.{i}" for i in range(width)]

    joined = {f"obs/{short}": names for short, names in columns.obs.items()} | {"action": columns.action}
    return {k: [e for name in names for e in entries(name)] for k, names in joined.items() if len(names) > 1}


def _left_out(dataset: Dataset, columns: Columns) -> list[str]:
    own = columns.read | {f"{STEPS}/{flag}" for flag in FLAGS}
    return sorted(name.removeprefix(f"{STEPS}/") for name in dataset.features.keys() - own)


def read(config: Config, *, skip: Container[str] = ()) -> Iterator[Episode]:
    """Yield the episodes of a split, without those whose id is in `skip`.

    Raises:
        DataError: naming file and offset, if one is missing or damaged, or does not hold what the metadata says.
    """
    dataset = load(Path(config.source))
    columns = choose(dataset, config)
    shards = dataset.split(config.split)
    if missing := [shard.path for shard in shards if not shard.path.is_file()]:
        raise DataError(f"{missing[0]} is missing" + (f", and {len(missing) - 1} more files" if missing[1:] else ""))
    index = 0
    for shard in shards:
        count = 0
        for at, content in records(shard.path):
            steps = Steps(dataset, columns, *_example(content, f"{shard.path}, record at byte {at}"))
            episode = steps.episode(config.task or dataset.name, config.split, index, config.control_hz)
            if episode.id not in skip:
                yield replace(episode, images=steps.pictures())
            count, index = count + 1, index + 1
        if count != shard.episodes:
            raise DataError(f"{shard.path} holds {count} episodes, but dataset_info.json counts {shard.episodes}")


def _example(content: bytes, what: str) -> tuple[dict[str, Values], str]:
    try:
        return example(content), what
    except ValueError as error:
        raise DataError(f"{what} is no tf.train.Example: {error}") from error
