"""Speed, size and peak memory of a store: `python benchmarks/store.py --episodes 200 --rows 150 --every 5`."""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from vlmrl.store import Store
from vlmrl.types import NO_FRAME, Episode, Frames

T = TypeVar("T")


def episode(rows: int, every: int, pixels: int, seed: int) -> Episode:
    """Smooth moving pictures with a little noise, which compress about as rendered ones do."""
    rng = np.random.default_rng(seed)
    index = np.full(rows, NO_FRAME, np.int32)
    index[::every] = np.arange(len(index[::every]))
    y, x = np.mgrid[:pixels, :pixels]
    shift = np.arange(0, rows, every)[:, None, None]
    base = (np.sin((x + 3 * shift) / 17) + np.cos((y - shift) / 23)) * 60 + 128
    pictures = np.repeat(base.astype(np.uint8)[..., None], 3, axis=3)
    pictures[:, ::8, ::8] = rng.integers(0, 256, pictures[:, ::8, ::8].shape, np.uint8)
    return Episode(
        action=rng.normal(size=(rows, 4)).astype(np.float32),
        obs={"state": rng.normal(size=(rows, 39)).astype(np.float32)},
        time=np.arange(rows) * 0.1,
        has_action=np.arange(rows) < rows - 1,
        has_next=np.arange(rows) < rows - 1,
        terminated=False,
        truncated=True,
        task="benchmark",
        instruction="",
        source="benchmark",
        images={"front": Frames(pictures, index)},
        truth={"progress": rng.random(rows).astype(np.float32)},
        sim_state=rng.normal(size=(rows, 60)),
        seed=seed,
    )


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(path: Path, arguments: argparse.Namespace) -> None:
    store, start, spent = Store.create(path), time.perf_counter(), 0.0
    for first in range(0, arguments.episodes, arguments.batch):
        made = time.perf_counter()
        count = min(arguments.batch, arguments.episodes - first)
        batch = [episode(arguments.rows, arguments.every, arguments.pixels, first + i) for i in range(count)]
        spent += time.perf_counter() - made
        store.append(batch)
    took = time.perf_counter() - start - spent
    raw = arguments.episodes * len(range(0, arguments.rows, arguments.every)) * arguments.pixels**2 * 3 / 1e6
    sizes = [p.stat().st_size for p in path.rglob("*") if p.is_file()]
    row("append and commit", f"{took:.1f} s, {raw / took:.0f} MB/s of pixels")
    row("an episode", f"{took / arguments.episodes * 1e3:.0f} ms, {arguments.batch} a part")
    row("pixels, on disk", f"{raw:.0f} MB, {sum(sizes) / 1e6:.0f} MB in {len(sizes)} files")
    row("peak memory, writing", f"{peak_mb():.0f} MB")


def read(path: Path, arguments: argparse.Namespace) -> None:
    base = peak_mb()
    store = timed("open", lambda: Store.open(path))
    timed("table of episodes", lambda: store.episodes)
    timed("transitions, first time", store.transitions)
    timed("transitions, again", store.transitions)
    rows = store.frame_rows("front")
    spread = rows[:: max(1, len(rows) // 300)]
    timed("decode all frames into the cache", lambda: store.frames("front", spread))
    rng = np.random.default_rng(0)
    batches = [rng.choice(rows, 64) for _ in range(100)]
    start = time.perf_counter()
    for batch in batches:
        store.frames("front", batch)
    row("random batches of 64 frames", f"{6400 / (time.perf_counter() - start):,.0f} frames/s")
    timed("one episode with its pictures", lambda: store.episode(store.episodes.id[-1]))
    timed("validate (reads everything)", store.validate)
    row("peak memory, reading", f"{peak_mb():.0f} MB, of which {base:.0f} MB are Python and libraries")


def timed(name: str, call: Callable[[], T]) -> T:
    start = time.perf_counter()
    result = call()
    row(name, f"{(time.perf_counter() - start) * 1e3:,.1f} ms")
    return result


def row(name: str, value: str) -> None:
    print(f"{name:<36} {value}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in {"episodes": 200, "rows": 150, "every": 5, "pixels": 128, "batch": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--phase", choices=["write", "read"])
    parser.add_argument("--path", type=Path)
    arguments = parser.parse_args()
    if arguments.phase:
        (write if arguments.phase == "write" else read)(arguments.path, arguments)
        return
    folder = Path(tempfile.mkdtemp())
    try:
        for phase in ("write", "read"):
            own = ["--phase", phase, "--path", str(folder / "store")]
            subprocess.run([sys.executable, __file__, *sys.argv[1:], *own], check=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
