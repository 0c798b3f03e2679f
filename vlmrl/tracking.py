"""Where the figures of a training go besides `metrics.jsonl`: TensorBoard, or Weights & Biases.

The file is always written: reports and resumption read it. A tracker is a mirror, made anew from nothing else.
"""

import hashlib
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from vlmrl.errors import ConfigError
from vlmrl.runfolder import Metrics

TrackerName = Literal["jsonl", "tensorboard", "wandb"]


@runtime_checkable
class Tracker(Protocol):
    """Receives figures as they come."""

    def log(self, name: str, step: int, values: Mapping[str, float]) -> None:
        """Record `values` of the series `name` at `step`."""
        ...

    def close(self) -> None:
        """Hand over what is held back."""
        ...


@dataclass(frozen=True)
class Tracked(Metrics):
    """Metrics with a mirror."""

    tracker: Tracker

    def write(self, name: str, step: int, values: Mapping[str, float]) -> None:
        """Record `values` of the series `name` at `step`, in the file first."""
        super().write(name, step, values)
        self.tracker.log(name, step, values)


@contextmanager
def tracked(name: TrackerName, path: Path, *, run: str, facts: Mapping[str, Any]) -> Generator[Metrics]:
    """The metrics file at `path`, mirrored by the tracker of that name; `facts` tell one run from another.

    Raises:
        ConfigError: if the tracker's package is missing.
    """
    if name == "jsonl":
        yield Metrics(path)
        return
    try:
        tracker = TensorBoard(path.parent) if name == "tensorboard" else WeightsAndBiases(path.parent, run, facts)
    except ImportError as error:
        raise ConfigError(f"tracker={name} needs a package: pip install 'vlmrl[{name}]' ({error})") from None
    try:
        yield Tracked(path, tracker)
    finally:
        tracker.close()


class TensorBoard:
    """Event files in the run's own folder."""

    def __init__(self, folder: Path) -> None:
        """Opens a file of its own; those of an earlier, cut attempt stay beside it."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def log(self, name: str, step: int, values: Mapping[str, float]) -> None:
        """One scalar for each value, on disk when this returns."""
        for key, value in values.items():
            self._writer.add_scalar(f"{name}/{key}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()


class WeightsAndBiases:
    """One W&B run for each policy; project, entity, key and mode come from W&B's own environment variables."""

    def __init__(self, folder: Path, run: str, facts: Mapping[str, Any]) -> None:
        """Goes on with the run of the same facts, where W&B still has it."""
        wandb: Any = import_module("wandb")
        known = hashlib.sha256(json.dumps([run, facts], sort_keys=True, default=str).encode()).hexdigest()
        self._run = wandb.init(
            id=known[:16],
            name=run,
            dir=str(folder),
            config=dict(facts),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, name: str, step: int, values: Mapping[str, float]) -> None:
        """One line of the run's history; a step may come more than once."""
        self._run.log({f"{name}/{key}": value for key, value in values.items()} | {"step": step})

    def close(self) -> None:
        """Wait until all is sent or, off line, written."""
        self._run.finish()
