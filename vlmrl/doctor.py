"""What this machine has for vlmrl, what it lacks, and what to do about it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from vlmrl import __version__, content, gl
from vlmrl.errors import VlmrlError

State = Literal["ok", "note", "missing"]

GIB = 2**30
DISK_WANTED = 5 * GIB
MEMORY_WANTED = 4 * GIB

_PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    state: State
    """`missing` must be mended, `note` may be."""
    found: str
    advice: str = ""


def report() -> list[Check]:
    """Look at everything; nothing is changed and nothing leaves the machine."""
    extras = _requirements()
    checks = [_python(), _packages("packages", extras.pop(""), needed=True)]
    checks += [_packages(f"extra {name}", wanted, needed=False) for name, wanted in extras.items()]
    return [*checks, _torchvision(), _opengl(), _processor(), _torch(), _memory(), _disk(), _openai(), *_content()]


def main() -> int:
    """Print the report; 1 if something that is needed is missing, else 0."""
    checks = report()
    table = Table("", "what", "found", "what to do", title=f"vlmrl {__version__}", title_justify="left")
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[red]missing[/]"}
    for check in checks:
        table.add_row(marks[check.state], check.name, _plain(check.found), _plain(check.advice))
    Console().print(table)
    return int(any(check.state == "missing" for check in checks))


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def _requirements() -> dict[str, list[Requirement]]:
    """Read what the package asks for, by extra; the core is under the empty name."""
    try:
        lines = requires("vlmrl") or []
    except PackageNotFoundError:
        return _checkout_requirements()
    wanted: dict[str, list[Requirement]] = {"": []}
    for line in lines:
        requirement = Requirement(line)
        extra = re.search(r"extra == ['\"]([\w-]+)", str(requirement.marker or ""))
        wanted.setdefault(extra.group(1) if extra else "", []).append(requirement)
    return wanted


def _checkout_requirements() -> dict[str, list[Requirement]]:
    """Read pyproject.toml: vlmrl runs from a checkout that was never installed."""
    project = tomllib.loads(_PYPROJECT.read_text())["project"]
    groups = {"": project["dependencies"]} | project["optional-dependencies"]
    return {extra: [Requirement(line) for line in lines] for extra, lines in groups.items()}


def _python() -> Check:
    found = f"{sys.version.split()[0]} at {sys.prefix}"
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Check("Python", "ok", found)
    return Check("Python", "missing", found, "use Python 3.11, 3.12 or 3.13")


def _packages(name: str, wanted: list[Requirement], *, needed: bool) -> Check:
    found: list[str] = []
    lacking: list[str] = []
    for requirement in wanted:
        if requirement.name == "vlmrl":
            continue
        try:
            have = version(requirement.name)
        except PackageNotFoundError:
            lacking.append(f"{requirement.name}{requirement.specifier}")
            continue
        if requirement.specifier.contains(have, prereleases=True):
            found.append(f"{requirement.name} {have}")
        else:
            lacking.append(f"{requirement.name}{requirement.specifier} (here {have})")
    if not lacking:
        return Check(name, "ok", f"all {len(found)} present" if needed else ", ".join(found))
    extra = "" if needed else name.removeprefix("extra ")
    return Check(name, "missing" if needed else "note", f"without {', '.join(lacking)}", _pip(extra))


def _pip(extra: str) -> str:
    """Say how to install what is missing, for a checkout or for an installed wheel."""
    suffix = f"[{extra}]" if extra else ""
    return f"pip install -c constraints.txt -e '.{suffix}'" if _PYPROJECT.is_file() else f"pip install 'vlmrl{suffix}'"


def _torchvision() -> Check:
    """Look for a trap: a torchvision built for another torch cannot load, and transformers' image classes with it."""
    try:
        have = version("torchvision")
    except PackageNotFoundError:
        return Check("torchvision", "ok", "absent, and not needed")
    done = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, check=False)
    if done.returncode == 0:
        return Check("torchvision", "ok", have)
    return Check("torchvision", "note", f"{have} cannot be imported", "pip uninstall torchvision")


def _opengl() -> Check:
    try:
        backend = gl.choose()
        time_s = gl.frame_time_s(backend)
    except VlmrlError as error:
        return Check("OpenGL", "missing", "MuJoCo cannot draw", str(error))
    return Check("OpenGL", "ok", f"MUJOCO_GL={backend}, a small 128x128 scene in {time_s * 1e3:.1f} ms")


def _processor() -> Check:
    flags = _read("/proc/cpuinfo")
    bf16 = next((name for name in ("amx_bf16", "avx512_bf16") if name in flags), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{cores} cores, " + (f"bf16 in hardware ({bf16})" if bf16 else "bf16 emulated")
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE":
        return Check("processor", "ok", found)
    return Check("processor", "note", found, "set OMP_WAIT_POLICY=PASSIVE, or waiting threads starve the working ones")


def _torch() -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("torch", "missing", f"cannot be imported: {error}", _pip(""))
    found = f"{torch.__version__}, {torch.get_num_threads()} threads, "
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Check("torch", "ok", found + (f"GPU: {', '.join(gpus)}" if gpus else "no GPU: runs on the processor"))


def _memory() -> Check:
    lines = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE))
    if "MemAvailable" not in lines:
        return Check("memory", "note", "unknown", f"{MEMORY_WANTED // GIB} GiB are needed")
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    free = min(int(lines["MemAvailable"]) * 1024, int(limit) if limit.isdecimal() else sys.maxsize)
    return _enough("memory", free, MEMORY_WANTED, "available")


def _disk() -> Check:
    return _enough("disk", shutil.disk_usage(Path.cwd()).free, DISK_WANTED, f"free at {Path.cwd()}")


def _enough(name: str, free: int, wanted: int, where: str) -> Check:
    found = f"{free / GIB:.1f} GiB {where}"
    if free >= wanted:
        return Check(name, "ok", found)
    return Check(name, "note", found, f"{wanted / GIB:.0f} GiB are comfortable for the main job")


def _openai() -> Check:
    """Say whether a key is set; its value is never shown."""
    if os.environ.get("OPENAI_API_KEY"):
        return Check("OPENAI_API_KEY", "ok", "set; used only where a command says labeler=openai")
    return Check("OPENAI_API_KEY", "ok", "not set; only labeler=openai with a paid server needs it")


def _content() -> list[Check]:
    checks: list[Check] = []
    for group in content.GROUPS:
        try:
            checks.append(Check(group, "ok", f"{', '.join(content.names(group)) or 'empty'}"))
        except VlmrlError as error:
            checks.append(Check(group, "missing", str(error), "install vlmrl again"))
    return checks


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
