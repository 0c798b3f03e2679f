"""Who a worker is: a process, named so that others on its machine can tell whether it lives."""

import os
import socket
from pathlib import Path
from uuid import uuid4


def new_owner() -> str:
    """Return a name for this worker: host, process, when that process began, and a number of its own."""
    return f"{socket.gethostname()}:{os.getpid()}:{_began(os.getpid())}:{uuid4().hex[:12]}"


def surely_dead(owner: str) -> bool:
    """Say whether a worker was a process of this machine that is gone, even if another has its number now."""
    pid, began = _process(owner)
    if pid is None:
        return False
    return not _exists(pid) or (began != "" and _began(pid) not in ("", began))


def surely_alive(owner: str) -> bool:
    """Say whether a worker is a process of this machine that runs: then no clock can say that it is gone."""
    pid, began = _process(owner)
    return pid is not None and began != "" and _began(pid) == began


def _process(owner: str) -> tuple[int | None, str]:
    host, _, rest = owner.partition(":")
    pid, _, rest = rest.partition(":")
    began, more, _ = rest.partition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return None, ""
    return int(pid), began if more else ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _began(pid: int) -> str:
    """Clock ticks between boot and the start of a process; empty where the system does not tell, or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
