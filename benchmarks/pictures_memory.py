"""Shows that learners train from pictures that do not fit into the memory they are allowed.

    python benchmarks/pictures_memory.py [--store-mb 1600] [--limit-mb 1200]

A store is made whose decoded pictures are larger than the limit, which `resource.setrlimit(RLIMIT_DATA)` then sets for
this process: every private page counts, pages of mapped files, which the system takes back when it wants them, do not.
Reading all pictures at once must fail under it, and a training must not. Linux only.
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np

from vlmrl.learn import fit, flow
from vlmrl.runfolder import Metrics
from vlmrl.sight import Sight
from vlmrl.store import Store
from vlmrl.types import Episode, Frames

ROWS, SIDE = 500, 128
"""Of one episode, and of its square pictures."""


def episode(seed: int) -> Episode:
    """Noise that compresses well: blocks of 16 pixels."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (ROWS, SIDE // 16, SIDE // 16, 3), np.uint8)
    inner = np.arange(ROWS) < ROWS - 1
    return Episode(
        action=generator.uniform(-1, 1, (ROWS, 4)).astype(np.float32) * inner[:, None],
        obs={"state": generator.normal(size=(ROWS, 4)).astype(np.float32)},
        time=np.arange(ROWS) * 0.1,
        has_action=inner,
        has_next=inner.copy(),
        terminated=False,
        truncated=True,
        task="",
        instruction="",
        source="",
        images={"eye": Frames(blocks.repeat(16, 1).repeat(16, 2), np.arange(ROWS, dtype=np.int32))},
    )


def used(kind: str) -> float:
    """MB of this process, by the name that /proc gives them."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(f"{kind}:"))
    return int(line.split()[1]) / 1024


def main() -> int:
    """Make the store, set the limit, fail once and train once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store-mb", type=int, default=1600)
    parser.add_argument("--limit-mb", type=int, default=1200)
    arguments = parser.parse_args()
    count = -(-arguments.store_mb * 2**20 // (ROWS * SIDE * SIDE * 3))
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store")
        for seed in range(count):
            store.append([episode(seed)])
        resource.setrlimit(resource.RLIMIT_DATA, (arguments.limit_mb << 20, resource.RLIM_INFINITY))
        size = store.frame_rows("eye").size * SIDE * SIDE * 3 / 2**20
        print(f"{size:.0f} MB of pictures, a limit of {arguments.limit_mb} MB, {used('VmData'):.0f} MB in use")
        try:
            store.frames("eye", store.frame_rows("eye"))
        except MemoryError:
            print("reading all of them fails, as it must")
        else:
            print("reading all of them did not fail: the limit proves nothing")
            return 1
        sight = Sight(size=(SIDE, SIDE), channels=(8, 16))
        data = store.transitions(cameras=("eye",), sight=sight)
        config = flow.Config(updates=40, batch=32, hidden=(16,), history=1, horizon=4, execute=2)
        fit("flow", data, config, seed=0, metrics=Metrics(Path(folder) / "metrics.jsonl"), quiet=True)
        print(
            f"{config.updates} updates on batches of {config.batch}: most of VmHWM {used('VmHWM'):.0f} MB, private "
            f"{used('RssAnon'):.0f} MB, mapped files {used('RssFile'):.0f} MB"
        )
        return 0


if __name__ == "__main__":
    sys.exit(main())
