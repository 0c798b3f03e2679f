"""Labels against a real OpenAI-compatible server, kills the job with -9 half-way, restarts it, and counts.

`python tests/kill_label.py` builds a tiny vision-language model and a store of random pictures, serves the model with
`transformers serve` behind a proxy that logs each request's pictures, and runs `vlmrl label` against it. What the
ledger had committed when the job died must not reach the server again; of the rest, at most twice `concurrency` may.
"""

import argparse
import base64
import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Log:
    """What reached the server, in order: a question is the digests of the two pictures shown."""

    questions: list = field(default_factory=list)
    labels: int = 0
    """Second-stage requests, which carry no picture."""


@dataclass
class Figures:
    questions: int
    concurrency: int
    committed_at_kill: int
    committed_asked_again: int
    seen_twice: int
    seen_more_often: int
    never_seen: int
    requests: int
    answers: int


def run(folder, *, pairs, concurrency):
    """Kill and restart once; return the figures."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import tiny_vlm

    model = tiny_vlm.build(folder / "model", says="1")
    make_store(folder / "noise")
    log = Log()
    with served(model) as port, logged(port, log) as url:
        command = label_command(folder, url=url, model=model, pairs=pairs, concurrency=concurrency)
        committed = kill_half_way(command, folder, pairs=pairs)
        before = len(log.questions)
        subprocess.run(command, cwd=folder, env=environment(), check=True)
    seen = Counter(log.questions)
    again = set(log.questions[before:])
    asked, answers = read_ledger(folder)
    return Figures(
        questions=len(asked),
        concurrency=concurrency,
        committed_at_kill=len(committed),
        committed_asked_again=len(committed & again),
        seen_twice=sum(n == 2 for n in seen.values()),
        seen_more_often=sum(n > 2 for n in seen.values()),
        never_seen=len(asked - set(seen)),
        requests=len(log.questions) + log.labels,
        answers=len(answers),
    )


def make_store(path, *, episodes=4, rows=20):
    """Episodes of noise: no two pictures are alike, so that pictures identify a question."""
    from vlmrl.store import Store
    from vlmrl.types import Episode, Frames

    generator, made = np.random.default_rng(0), []
    for number in range(episodes):
        has_next = np.arange(rows) < rows - 1
        pixels = generator.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
        made.append(
            Episode(
                action=np.zeros((rows, 2), np.float32),
                obs={"state": np.zeros((rows, 3), np.float32)},
                time=np.arange(rows) / 10,
                has_action=has_next,
                has_next=has_next,
                terminated=False,
                truncated=True,
                task="noise",
                instruction="open the drawer",
                source="random",
                images={"front": Frames(pixels, np.arange(rows, dtype=np.int32))},
                seed=number,
            )
        )
    Store.create(path).append(made)


def environment():
    """One thread, no network, this checkout."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


@contextlib.contextmanager
def served(model):
    """`transformers serve` as users start it; yields its port once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--port", str(port)]
    with tempfile.TemporaryFile() as output:
        server = subprocess.Popen([*command, "--device", "cpu"], env=environment(), stdout=output, stderr=output)
        try:
            wait_for(port, server, output)
            yield port
        finally:
            server.terminate()
            server.wait()


def wait_for(port, server, output, *, patience_s=120):
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as c:
            c.request("GET", "/health")
            if c.getresponse().status == 200:
                return
        time.sleep(0.2)
    output.seek(0)
    raise RuntimeError(f"the server does not answer:\n{output.read().decode()[-2000:]}")


@contextlib.contextmanager
def logged(port, log):
    """A proxy before the server that writes down each chat request when it arrives; yields its URL."""
    from vlmrl.annotate.question import picture_digest

    lock = threading.Lock()

    def note(body):
        from PIL import Image

        parts = [p for m in json.loads(body)["messages"] for p in m["content"]]
        urls = [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
        files = [io.BytesIO(base64.b64decode(url.partition(",")[2])) for url in urls]
        digests = tuple(picture_digest(np.asarray(Image.open(file))) for file in files)
        with lock:
            if digests:
                log.questions.append(digests)
            else:
                log.labels += 1

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def log_message(self, *_):
            pass

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            note(body)
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as server:
                server.request("POST", self.path, body, {"Content-Type": "application/json"})
                answer = server.getresponse()
                content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request, client_address):
            """A job that is killed cuts its connections."""

    proxy = Server(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}/v1"
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


def label_command(folder, *, url, model, pairs, concurrency):
    settings = {
        "store": folder / "noise",
        "ledger": folder / "ledger.db",
        "out": folder / "run",
        "labeler": "openai",
        "labeler.base_url": url,
        "labeler.model": model,
        "labeler.analysis_tokens": 8,
        "pairs": pairs,
        "limits.concurrency": concurrency,
        "distill": "false",
    }
    program = "from vlmrl.cli import main; main()"
    return [sys.executable, "-c", program, "label", *(f"{name}={value}" for name, value in settings.items())]


def kill_half_way(command, folder, *, pairs):
    """Run the job until half of the answers are committed, kill it, and return the committed questions."""
    job = subprocess.Popen(command, cwd=folder, env=environment(), start_new_session=True)
    while job.poll() is None and len(read_ledger(folder)[1]) < pairs // 2:
        time.sleep(0.02)
    if job.poll() is not None:
        raise RuntimeError(f"the job ended by itself with exit code {job.returncode}")
    job.send_signal(signal.SIGKILL)
    job.wait()
    return read_ledger(folder)[1]


def read_ledger(folder):
    """All questions and the answered ones, each as the digests of its pictures; empty before the ledger exists."""
    import sqlite3

    if not (folder / "ledger.db").exists():
        return set(), set()
    with contextlib.closing(sqlite3.connect(folder / "ledger.db", timeout=30)) as database:
        try:
            questions = dict(database.execute("SELECT key, content FROM question").fetchall())
            answered = database.execute("SELECT question FROM reply WHERE answer_type <> 'none'").fetchall()
        except sqlite3.OperationalError:  # the tables are not there yet
            return set(), set()
    pictures = {key: tuple(json.loads(content)["pictures"]) for key, content in questions.items()}
    return set(pictures.values()), {pictures[key] for (key,) in answered}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--concurrency", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vlmrl-kill-label-") as folder:
        figures = run(Path(folder), pairs=arguments.pairs, concurrency=arguments.concurrency)
    for name, value in vars(figures).items():
        print(f"{name.replace('_', ' '):24}{value:6}")
    good = figures.committed_asked_again == 0 and figures.seen_twice <= 2 * figures.concurrency
    sys.exit(0 if good and figures.answers == figures.questions else 1)


if __name__ == "__main__":
    main()
