"""Who writes: a lock that names its owner, and temporary folders that outlive no dead writer.

A lock is broken only when its owner is a dead process of this machine. Another machine's is waited for, then reported.
"""

import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from vlmrl.errors import DataError
from vlmrl.store.disk import NEW, canonical, publish

LOCK = "lock"
TEMPORARY = "tmp"
HOMES = ("parts", "columns")
"""Where committed folders lie."""
_POLL_S = 0.02


@dataclass(frozen=True)
class Owner:
    """A process, distinguishable from every later one with the same number."""

    host: str
    machine: str
    """Machine and process namespace: processes of two containers cannot see each other."""
    boot: str
    pid: int
    start: str
    """The kernel's start time of the process."""
    token: str
    """Unique, and it names machine and process too: see `abandoned`."""
    part: str = ""
    """The part this writer is about to commit."""

    @staticmethod
    def current() -> "Owner":
        """This process, with a new token."""
        namespace = Path("/proc/self/ns/pid")
        machine = f"{_read('/etc/machine-id')}:{namespace.stat().st_ino if namespace.exists() else ''}"
        boot, pid = _read("/proc/sys/kernel/random/boot_id"), os.getpid()
        host, start = socket.gethostname(), _start(pid) or ""
        return Owner(host, machine, boot, pid, start, f"{_here(host, machine)}-{pid}-{start}-{uuid.uuid4().hex[:12]}")

    def is_dead(self) -> bool:
        """True only where that is certain: same machine, and the process or the boot is gone."""
        me = Owner.current()
        if (self.host, self.machine) != (me.host, me.machine):
            return False
        return self.boot != me.boot or _start(self.pid) != self.start

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _here(host: str, machine: str) -> str:
    return hashlib.sha256(f"{host} {machine}".encode()).hexdigest()[:8]


def abandoned(name: str) -> bool:
    """Whether a temporary file, named for its writer's token, was left by a dead process of this machine."""
    me, parts = Owner.current(), name.split(".")[0].split("-")
    if len(parts) != 4 or not parts[1].isdigit():
        return False
    return parts[0] == _here(me.host, me.machine) and _start(int(parts[1])) != parts[2]


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _start(pid: int) -> str | None:
    """Start time of a process; None where it has ended (a zombie has)."""
    if not Path("/proc/self/stat").exists():
        return "" if _signalled(pid) else None
    # the command in brackets may itself hold spaces and brackets
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return None if not fields or fields[0] in "ZX" else fields[19]


def _signalled(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def owner_of(path: Path) -> Owner | None:
    """The owner written in a lock or owner file; None where it is gone."""
    try:
        return Owner(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} does not name its owner; remove it if nothing writes this store") from error


@contextmanager
def locked(store: Path, *, wait_s: float = 120.0) -> Generator[None]:
    """Hold the store's manifest lock.

    Raises:
        DataError: if another living, or unknowable, owner holds it for longer than `wait_s`.
    """
    owner, path = Owner.current(), store / LOCK
    candidate = store / TEMPORARY / f"{owner.token}.json"
    candidate.parent.mkdir(exist_ok=True)
    publish(candidate, canonical(asdict(owner)))
    try:
        _acquire(path, candidate, wait_s)
        try:
            yield
        finally:
            if (holder := owner_of(path)) is not None and holder.token == owner.token:
                path.unlink()
    finally:
        candidate.unlink(missing_ok=True)


def _acquire(path: Path, candidate: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            # a link appears whole: no reader ever sees a lock without its owner
            os.link(candidate, path)
            return
        except FileExistsError:
            holder = owner_of(path)
        if holder is not None and holder.is_dead():
            _break(path)
        elif time.monotonic() > deadline:
            raise DataError(f"the store is locked by {holder}; if that writer is gone, remove {path}")
        else:
            time.sleep(_POLL_S)


def _break(path: Path) -> None:
    """Remove a dead owner's lock; two breakers must not remove each other's new one."""
    with path.with_name(f"{LOCK}.guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        holder = owner_of(path)
        if holder is not None and holder.is_dead():
            path.unlink(missing_ok=True)


@dataclass
class Draft:
    """A folder being written that is not yet part of the store."""

    owner: Owner
    folder: Path

    @property
    def record(self) -> Path:
        """The file naming the owner."""
        return self.folder.with_suffix(".json")

    def announce(self, target: str) -> None:
        """Record which folder of the store this is about to become, so that a death in between leaves no orphan."""
        publish(self.record, canonical(asdict(self.owner) | {"part": target}))


@contextmanager
def draft(store: Path) -> Generator[Draft]:
    """A temporary folder owned by this process, gone afterwards unless it was renamed."""
    owner = Owner.current()
    made = Draft(owner, store / TEMPORARY / owner.token)
    made.folder.parent.mkdir(exist_ok=True)
    publish(made.record, canonical(asdict(owner)))
    made.folder.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made.folder, ignore_errors=True)
        made.record.unlink(missing_ok=True)


def sweep(store: Path, committed: set[str]) -> None:
    """Remove what dead writers of this machine left; call it while holding the lock.

    `committed` holds the folders, relative to the store, that the manifest names.
    """
    for record in (store / TEMPORARY).glob("*.json"):
        owner = owner_of(record)
        if owner is None or not owner.is_dead():
            continue
        shutil.rmtree(record.with_suffix(""), ignore_errors=True)
        # a record may have come with a copied store: it must not name a folder outside
        orphan, homes = (store / owner.part).resolve(), [store.resolve() / home for home in HOMES]
        if owner.part not in committed and any(home in orphan.parents for home in homes):
            shutil.rmtree(orphan, ignore_errors=True)
        record.unlink(missing_ok=True)
    for torn in (store / TEMPORARY).glob(f"*{NEW}"):
        if abandoned(torn.name):
            torn.unlink(missing_ok=True)
