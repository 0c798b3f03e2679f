"""Episodes of several stores in one: each once, known by its id, however often the same stores are merged."""

from collections.abc import Sequence
from pathlib import Path

from vlmrl.errors import ConfigError
from vlmrl.store.store import Store

_AT_ONCE = 20
"""Episodes a part: what is in memory at a time."""


def merge(into: Path, sources: Sequence[Path]) -> list[str]:
    """Append what is missing, and make the store where there is none; ids of the new episodes.

    Reward columns stay behind: they are made for all data anew. What was appended survives an interruption, and the
    next call goes on behind it.

    Raises:
        ConfigError: if a source has other names or units of a column, or another episode of the same id.
    """
    added = list[str]()
    for path in sources:
        source = Store.open(path)
        store = opened(into, source)
        check(store, source)
        here = set(store.episodes.id)
        for id in here & set(source.episodes.id):
            if (ours := _about(store, id)) != (theirs := _about(source, id)):
                raise ConfigError(
                    f"{path}: episode {id!r} is {theirs}, in {into} it is {ours}; they need different ids"
                )
        missing = [id for id in source.episodes.id if id not in here]
        for k in range(0, len(missing), _AT_ONCE):
            added += store.append([source.episode(id) for id in missing[k : k + _AT_ONCE]])
    return added


def _about(store: Store, id: str) -> str:
    """What tells two episodes apart that happen to have the same id."""
    table = store.episodes
    k = table.index(id)
    rows = table.stop[k] - table.start[k]
    return f"{rows} rows of {table.source[k]!r}, seed {table.seed[k]}, success {table.success[k]}"


def opened(path: Path, like: Store) -> Store:
    """The store at a path; where there is none, an empty one with the columns of another."""
    if (path / "manifest.json").exists():
        return Store.open(path)
    attributes = like.attributes
    return Store.create(
        path,
        names={key: about["names"] for key, about in attributes.items() if "names" in about},
        units={key: about["units"] for key, about in attributes.items() if "units" in about},
        meta=like.meta,
    )


def check(store: Store, source: Store) -> None:
    """Refuse to mix columns that mean different things.

    Raises:
        ConfigError: naming the first column.
    """
    for key in sorted({*store.attributes, *source.attributes}):
        ours, theirs = store.attributes.get(key), source.attributes.get(key)
        if ours != theirs:
            raise ConfigError(
                f"{source.path}: {key} is {theirs}, in {store.path} it is {ours}: no episodes of one kind"
            )
