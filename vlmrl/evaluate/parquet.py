"""One row an episode, for any tool that reads tables."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from vlmrl.errors import ConfigError
from vlmrl.evaluate.job import Evaluated
from vlmrl.evaluate.lanes import Outcome


def write(results: Sequence[Evaluated], path: Path) -> int:
    """Write every episode; return how many.

    Raises:
        ConfigError: if pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise ConfigError("per-episode Parquet needs pyarrow: pip install 'vlmrl[video]'") from error
    rows = [
        {"task": found.task.name, "method": name, "policy": candidate.source, "training_seed_index": k}
        | {"weights": rollouts.weights, "noise": candidate.noise}
        | episode.as_json()
        for found in results
        for name, several in found.rollouts.items()
        for k, (rollouts, candidate) in enumerate(zip(several, found.arms[name].candidates, strict=True))
        for episode in rollouts.episodes
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return len(rows)


COLUMNS = (
    "task",
    "method",
    "policy",
    "training_seed_index",
    "weights",
    "noise",
    *(field.name for field in fields(Outcome) if field.name != "film"),
)
