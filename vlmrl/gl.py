"""Choice of MuJoCo's off-screen OpenGL back end, by trying to draw a picture with it."""

import hashlib
import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vlmrl.errors import VlmrlError

BACKENDS = ("egl", "osmesa")
PACKAGES = "libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri"
"""What Debian and Ubuntu call the libraries of EGL with a software renderer (OSMesa is gone from Mesa 25)."""

_CACHE_AGE_S = 24 * 3600.0

_PROBE = """
import sys, time
import mujoco
size, frames = int(sys.argv[1]), int(sys.argv[2])
model = mujoco.MjModel.from_xml_string(
    "<mujoco><visual><quality offsamples='0'/></visual><worldbody><light pos='0 0 3'/>"
    "<geom type='plane' size='2 2 1' rgba='.3 .5 .7 1'/><geom size='.2' pos='0 0 .2'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, size, size) as renderer:
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    renderer.update_scene(data)
    if not renderer.render().any():
        sys.exit("the picture is black")
    start = time.perf_counter()
    for _ in range(frames):
        renderer.update_scene(data)
        renderer.render()
    print((time.perf_counter() - start) / frames)
"""


def choose() -> str:
    """Set MUJOCO_GL to a back end that draws, unless the user has set it; call before mujoco is imported.

    Mesa's software renderer is told to draw in the calling thread: its threads cost more than they bring at the size of
    our pictures, and take the cores from processes that draw side by side.

    Raises:
        VlmrlError: if neither EGL nor OSMesa works, naming the packages to install.
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower() or _cached() or _first_working()
    os.environ["MUJOCO_GL"] = chosen
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if chosen in BACKENDS:
        os.environ.setdefault("PYOPENGL_PLATFORM", chosen)
    return chosen


def frame_time_s(backend: str, *, size: int = 128, frames: int = 20) -> float:
    """Measure one frame of a small scene in a process of its own: a failing driver may crash it.

    Raises:
        VlmrlError: if nothing was drawn, with the driver's own words.
    """
    env = os.environ | {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    if backend not in BACKENDS:
        env.pop("PYOPENGL_PLATFORM")
    command = [sys.executable, "-c", _PROBE, str(size), str(frames)]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        raise VlmrlError(f"{backend}: no picture after 120 s") from None
    if done.returncode == 0 and done.stdout.strip():
        return float(done.stdout.split()[-1])
    said = re.findall(r"^[\w.]*(?:Error|Exception)\b.*", done.stderr, re.MULTILINE) or done.stderr.splitlines()
    raise VlmrlError(f"{backend}: {said[0].strip() if said else f'exit code {done.returncode}'}")


def _first_working() -> str:
    reasons: list[str] = []
    for backend in BACKENDS:
        try:
            frame_time_s(backend, size=32, frames=1)
        except VlmrlError as error:
            reasons.append(str(error))
            continue
        _remember(backend)
        return backend
    raise VlmrlError(
        "MuJoCo cannot draw: neither EGL nor OSMesa works here; on Debian or Ubuntu: "
        f"apt-get install --no-install-recommends {PACKAGES} ({'; '.join(reasons)})"
    )


def _cache_file() -> Path:
    """One file a machine, interpreter and mujoco version; home folders may be shared between machines."""
    key = "\n".join((platform.node(), platform.release(), sys.prefix, version("mujoco")))
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "vlmrl" / f"gl-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _cached() -> str:
    """Return what worked within the last day, or nothing."""
    try:
        path = _cache_file()
        fresh = 0 <= time.time() - path.stat().st_mtime < _CACHE_AGE_S
        found = path.read_text().strip()
    except (OSError, RuntimeError, PackageNotFoundError):
        return ""
    return found if fresh and found in BACKENDS else ""


def _remember(backend: str) -> None:
    """Keep the choice; a home that cannot be written costs a probe each time, no more."""
    try:
        path = _cache_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(backend + "\n")
    except (OSError, RuntimeError, PackageNotFoundError):
        return


if __name__ == "__main__":
    try:
        print(choose())
    except VlmrlError as failure:
        sys.exit(f"vlmrl: {failure}")
