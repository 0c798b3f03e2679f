"""The main job from nothing to report: seconds of each stage and peak memory.

    python benchmarks/main_job.py                 default settings: at most 15 minutes and 4 GB on 2 cores
    python benchmarks/main_job.py preset=fast     at most 2 minutes

Memory is that of the whole process tree, sampled every half second (proportional set size, so shared pages count once).
"""

import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(p for child in children for p in tree(int(child)))]


def memory_gb(pid: int) -> float:
    total = 0
    for one in tree(pid):
        try:
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{one}/smaps_rollup").read_text(), re.MULTILINE)
        except OSError:
            continue
        total += int(found[1]) if found else 0
    return total / 1e6


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = ["vlmrl", "run", f"out={folder}/run", f"ledger={folder}/labels.db", *sys.argv[1:]]
        start, peak = time.perf_counter(), 0.0
        running = subprocess.Popen(command)
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.5):
                peak = max(peak, memory_gb(running.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = running.wait()
        done.set()
        watcher.join()
        seconds = time.perf_counter() - start
        settings = " ".join(sys.argv[1:]) or "with default settings"
        print(f"\nmain job {settings}: {seconds:.0f} s, peak memory {peak:.2f} GB, exit code {code}")
        sys.exit(code)


if __name__ == "__main__":
    main()
