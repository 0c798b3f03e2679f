"""Committing a part: written under a temporary name, renamed, then named by the manifest."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from vlmrl.errors import DataError
from vlmrl.store import disk, layout, manifest
from vlmrl.store.lock import Draft, draft, locked, sweep
from vlmrl.store.manifest import Manifest, PartEntry
from vlmrl.store.snapshot import Snapshot
from vlmrl.store.write import PartWriter, common_columns, content_id
from vlmrl.types import Episode


def append_part(store: Snapshot, episodes: Sequence[Episode]) -> list[str]:
    """Write and commit one part; returns the ids of its episodes."""
    columns = common_columns(episodes)
    _check_fit(store.manifest, columns)
    with draft(store.path) as made:
        part = PartWriter(made.folder, episodes, store.manifest.attributes, [p.sealed.folder for p in store.parts])
        part.write()
        disk.sync_tree(made.folder)
        proposed = [e.id or content_id(e) for e in episodes]
        with locked(store.path):
            newest = store.refreshed()
            sweep(store.path, newest.manifest.folders)
            _check_fit(newest.manifest, columns)
            ids = _choose_ids(set(newest.episodes.id), episodes, proposed)
            part.write_episodes(ids)
            _commit(newest, made, part)
    return ids


def _commit(store: Snapshot, made: Draft, part: PartWriter) -> None:
    sha = disk.seal(made.folder, part.digests)
    entry = PartEntry(
        id=f"{len(store.manifest.parts):06d}-{sha[:8]}",
        rows=sum(len(e) for e in part.episodes),
        episodes=len(part.episodes),
        bytes=sum(p.stat().st_size for p in made.folder.rglob("*") if p.is_file()),
        columns=part.columns,
        cameras=part.cameras,
        sha256=sha,
    )
    disk.sync_tree(made.folder / "episode")
    disk.sync(made.folder / layout.EPISODES)
    disk.sync(made.folder / disk.CHECKSUMS)
    disk.sync(made.folder)
    place(store.path, made, entry.folder, store.manifest.with_part(entry))


def place(path: Path, made: Draft, folder: str, after: Manifest) -> None:
    """Give a draft, finished and synced, its name and commit the manifest that lists it; the caller holds the lock."""
    target = path / folder
    if target.exists():
        raise DataError(f"{target} exists, but the manifest does not name it: move it away")
    made.announce(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.folder.rename(target)
        disk.sync(target.parent)
        manifest.commit(path, after)
    except BaseException:
        if folder not in manifest.load(path).folders:
            shutil.rmtree(target, ignore_errors=True)
        raise


def _check_fit(known: Manifest, columns: dict[str, list[int]]) -> None:
    """Observations and actions must keep their shape through the whole store, names must count their entries."""
    for name, about in known.attributes.items():
        names = about.get("names")
        if names is not None and name in columns and [len(names)] != columns[name]:
            raise DataError(f"{name} has rows of shape {columns[name]}, but the store names {len(names)} entries")
    if not known.parts:
        return
    wanted, got = (
        {k: v for k, v in c.items() if k == "action" or k.startswith("obs/")} for c in (known.parts[0].columns, columns)
    )
    if wanted != got:
        raise DataError(f"episodes have row shapes {got}, but the store holds {wanted}")


def _choose_ids(taken: set[str], episodes: Sequence[Episode], proposed: Sequence[str]) -> list[str]:
    """Given ids must be new; those made from the content are numbered where it repeats."""
    ids: list[str] = []
    for episode, base in zip(episodes, proposed, strict=True):
        if episode.id in taken:
            raise DataError(f"the store already holds an episode {episode.id!r}")
        chosen, copies = base, 1
        while chosen in taken:
            copies += 1
            chosen = f"{base}-{copies}"
        taken.add(chosen)
        ids.append(chosen)
    return ids
