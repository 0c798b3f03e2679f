"""How fast a labeling job is, and how large; against a server of known latency in a process of its own.

`python benchmarks/labeling.py throughput` asks with 16, 64 and 256 questions in flight and compares with the ideal, in
flight / latency. `python benchmarks/labeling.py memory` measures the memory of 2,000 and 20,000 questions. The server
is no model: it waits, and names a side by the digest of the request. `python benchmarks/labeling.py kills` kills
workers of one queue at random and counts its answers; it starts a PostgreSQL server, where one is installed.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class Noise:
    """A store of pictures of noise, made when they are read."""

    def __init__(self, frames, size):
        self.episodes = SimpleNamespace(
            id=[f"e{i}" for i in range(frames // 100)],
            start=np.arange(0, frames, 100),
            stop=np.arange(100, frames + 1, 100),
        )
        self.size = size

    def frame_rows(self, camera):
        """All rows."""
        del camera
        return np.arange(self.episodes.stop[-1], dtype=np.int64)

    def frames(self, camera, rows):
        """Pictures that the row decides."""
        del camera
        shape = (self.size, self.size, 3)
        return np.stack([np.random.default_rng(int(r)).integers(0, 256, shape, dtype=np.uint8) for r in rows])


class Instant:
    """A labeler that answers at once, to see what the job itself takes."""

    name, calls_per_question, priced = "instant", 1, True

    def __init__(self, *, sees):
        self.needs_pictures = sees

    def content(self, query):
        """The pair, and its pictures where it sees them."""
        from vlmrl.annotate.question import item_to_json, picture_digest

        pictures = {"pictures": [picture_digest(p) for p in query.images]} if self.needs_pictures else {}
        return {"labeler": self.name, "items": [item_to_json(i) for i in query.items], **pictures}

    async def ask(self, query):
        """A."""
        from vlmrl.types import Cost, Reply, Verdict

        del query
        return Reply(Verdict.A_BETTER, self.name, text="0" * 500, cost=Cost(calls=1))

    async def close(self):
        """Nothing to close."""


async def serve(latency_s, ready):
    """Answer chat completions after so many seconds, each connection by itself."""

    async def client(reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(int(h[15:]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length:"))
                body = await reader.readexactly(length)
                await asyncio.sleep(latency_s)
                writer.write(answer(body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0, backlog=1024)
    ready(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def answer(body):
    text = str(sha256(body).digest()[0] % 2)
    content = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "none",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 1, "total_tokens": 1001},
    }
    raw = json.dumps(content).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(raw) + raw


class Server:
    """The server's process."""

    def __init__(self, latency_s):
        command = [sys.executable, __file__, "serve", "--latency", str(latency_s)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def throughput(latency_s, rounds, sizes, flights):
    """Print the table."""
    print(f"latency {latency_s:g} s, one call a question, PNG pictures of noise, SQLite ledger; {machine()}")
    print("steady: answers a second between the second and the last but one round, of in flight / latency")
    print("  picture in flight questions  ideal s  taken s of ideal   steady  CPU s")
    with Server(latency_s) as server:
        for size in sizes:
            for flight in flights:
                count = rounds * flight
                taken, steady, cpu = one_run(server.url, size, flight, count)
                ideal = rounds * latency_s
                print(
                    f"{size:>5} px  {flight:>9} {count:>9} {ideal:>8.1f} {taken:>8.2f} "
                    f"{100 * ideal / taken:>6.1f} % {100 * steady * latency_s / flight:>6.1f} % {cpu:>6.1f}",
                    flush=True,
                )


def one_run(url, size, flight, count):
    """Return seconds taken, answers a second in between, and seconds of processor."""
    from vlmrl.annotate import Ledger, Limits, Pictures, openai, run_job, sample_pairs

    store, seen = Noise(2000, size), []
    queries = sample_pairs(store, "c", count=count, instruction="x", generator=np.random.default_rng(flight))
    labeler = openai.build(openai.Config(model="none", base_url=url, protocol="one_stage"))
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "l.db") as ledger:
        cpu, start = time.process_time(), time.perf_counter()
        report = run_job(
            queries,
            labeler,
            ledger=ledger,
            limits=Limits(concurrency=flight),
            pictures=Pictures(store),
            progress=lambda tally: seen.append((time.perf_counter() - start, tally.asked)),
        )
        taken, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert report.asked == sum(report.verdicts.values()) == count
    (begin, first), (end, last) = (next(x for x in seen if x[1] >= n) for n in (2 * flight, count - 2 * flight))
    return taken, (last - first) / (end - begin), cpu


def memory(counts, size):
    print(f"questions answered at once, in batches of 64, 8 in flight, SQLite ledger; {machine()}")
    print("job: one question a pair; label: what vlmrl label holds of both orders, and the labels made of them")
    print("      questions   picture before MB  peak MB bytes a question a second")
    for what, picture in (("job", 0), ("job", size), ("label", 0)):
        for count in counts:
            done = subprocess.run(
                [sys.executable, __file__, "hold", "--hold", what, "--count", str(count), "--size", str(picture)],
                check=True,
                capture_output=True,
                text=True,
            )
            print(done.stdout, end="", flush=True)


def ask_both(queries, labeler, store, ledger, folder):
    """Do what `vlmrl label ask.order=both` does without the reward, and return the questions that were asked now."""
    from vlmrl.annotate import Limits, Pictures
    from vlmrl.annotate.asking import Asking
    from vlmrl.annotate.frozen import freeze
    from vlmrl.cli.ask import ask
    from vlmrl.cli.label import pairs_as_json
    from vlmrl.runfolder import write_json

    asked = ask(
        queries,
        labeler,
        store,
        book=ledger,
        limits=Limits(),
        check_order=0,
        difference=np.ones(len(queries)),
        asking=Asking(order="both"),
        pictures=Pictures(store),
    )
    labels = freeze(queries, asked.report.keys, asked.replies)
    assert len(labels) == len(queries)
    write_json(folder / "labels.json", pairs_as_json(labels))
    return asked.report.cost.calls


def ask_once(queries, labeler, store, ledger, folder):
    """Run the job alone, and return the questions that were asked."""
    from vlmrl.annotate import Limits, Pictures, run_job

    del folder
    report = run_job(queries, labeler, ledger=ledger, limits=Limits(), pictures=Pictures(store))
    assert report.asked + report.cached == sum(report.verdicts.values()) == len(queries)
    return report.asked


def hold(what, count, size):
    from vlmrl.annotate import Ledger, sample_pairs

    work, pairs = (ask_both, count // 2) if what == "label" else (ask_once, count)
    store = Noise(max(2000, count // 10), max(size, 1))
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "l.db") as ledger:
        # Once around before measuring: what is imported and cached on first use is none of the questions'.
        few = sample_pairs(store, "c", count=500, instruction="warm", generator=np.random.default_rng(1))
        work(few, Instant(sees=size > 0), store, ledger, Path(folder))
        before = rss()
        queries = sample_pairs(store, "c", count=pairs, instruction="x", generator=np.random.default_rng(0))
        start = time.perf_counter()
        assert work(queries, Instant(sees=size > 0), store, ledger, Path(folder)) > 0.9 * count
        taken = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    picture = f"{size} px" if size else "none"
    print(
        f"{what:>5} {count:>9,} {picture:>9} {before / 1e6:>9.1f} {peak / 1e6:>8.1f} {(peak - before) / count:>16,.0f} "
        f"{count / taken:>8,.0f}"
    )


def kills(questions, number):
    """Print the table."""
    sys.path.insert(0, str(ROOT / "tests"))
    import postgres

    print(f"4 workers, 2 questions in flight in each; {machine()}")
    print("ledger      workers take themselves for   questions killed answered twice asked again left reserved seconds")
    one, four = ("one machine", ()), ("four machines", ("--machines", "--lease_s", "10"))
    with tempfile.TemporaryDirectory() as folder:
        kill_one("a file", one, f"{folder}/l.db", questions, number)
    if postgres.TOOLS is None:
        sys.exit("PostgreSQL is not installed")
    with postgres.served() as create:
        kill_one("PostgreSQL", one, create("one"), questions, number)
        kill_one("PostgreSQL", four, create("four"), questions, number)


def kill_one(ledger, workers, location, questions, number):
    command = [sys.executable, str(ROOT / "tests" / "kill_workers.py"), location, "--delay_s", "0.05", *workers[1]]
    command += ["--questions", str(questions), "--kills", str(number)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment())
    found = json.loads(done.stdout)
    columns = ("questions", "killed", "answered", "answered_twice", "asked_twice", "leases_left", "seconds")
    widths = (9, 6, 8, 5, 11, 13, 7)
    figures = " ".join(f"{found[name]:>{width}}" for name, width in zip(columns, widths, strict=True))
    print(f"{ledger:<11} {workers[0]:<28}  {figures}", flush=True)


def environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def machine():
    model = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), ": ?")
    return f"{os.cpu_count()} cores, {model.split(': ')[1]}, load {os.getloadavg()[0]:.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["throughput", "memory", "kills", "serve", "hold"])
    parser.add_argument("--latency", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=8, help="questions for each in flight")
    parser.add_argument("--flights", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 300], help="of square pictures")
    parser.add_argument("--counts", type=int, nargs="+", default=[2_000, 20_000])
    parser.add_argument("--hold", choices=["job", "label"], default="job")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    match given.what:
        case "serve":
            asyncio.run(serve(given.latency, lambda port: print(port, flush=True)))
        case "throughput":
            throughput(given.latency, given.rounds, given.sizes, given.flights)
        case "memory":
            memory(given.counts, given.size)
        case "kills":
            kills(given.questions, given.kills)
        case "hold":
            hold(given.hold, given.count, given.size)


if __name__ == "__main__":
    main()
