"""Who a worker is: a process, named so that others on its machine can tell whether it lives."""

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from uuid import uuid4


@dataclass(frozen=True)
class _Worker:
    host: str
    boot: str
    """Differs after the machine was started again; empty where the system does not tell."""
    processes: str
    """The namespace of its process numbers: those of a container say nothing outside of it."""
    pid: int
    began: str


def new_owner() -> str:
    """Return a name for this worker: where it runs, process, when that process began, and a number of its own."""
    boot, processes = _place()
    parts = socket.gethostname(), boot, processes, str(os.getpid()), _began(os.getpid()) or ""
    return ":".join((*parts, uuid4().hex[:12]))


def surely_dead(owner: str, *, same_machine: bool) -> bool:
    """Say whether a worker was a process of this machine that is gone, even if another has its number now.

    `same_machine` says that it can have run on this one only; then a start of the machine since ended it.
    """
    worker = _parse(owner)
    if worker is None:
        return False
    if same_machine and worker.boot and _place()[0] not in ("", worker.boot):
        return True
    return _near(worker) and _began(worker.pid) not in ("", worker.began)


def surely_alive(owner: str) -> bool:
    """Say whether a worker is another process of this machine that runs: then no clock can say that it is gone.

    Of this process itself that says nothing: a worker in it may have ended before it could give up its leases.
    """
    worker = _parse(owner)
    return (
        worker is not None
        and _near(worker)
        and worker.pid != os.getpid()
        and worker.began != ""
        and _began(worker.pid) == worker.began
    )


def _parse(owner: str) -> _Worker | None:
    parts = owner.split(":")
    if len(parts) != 6 or not parts[3].isdigit():
        return None
    host, boot, processes, pid, began, _ = parts
    return _Worker(host, boot, processes, int(pid), began)


def _near(worker: _Worker) -> bool:
    """Whether its process number means the same here."""
    return (worker.host, worker.boot, worker.processes) == (socket.gethostname(), *_place())


@cache
def _place() -> tuple[str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "", ""


def _began(pid: int) -> str | None:
    """Clock ticks between boot and the start of a process, empty where the system does not tell; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "" if _exists(pid) else None
    return None if fields[0] in "ZX" else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
