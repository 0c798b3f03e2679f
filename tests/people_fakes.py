"""A store with clips, a queue on it, and the page of it in a thread."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from report_run import ROWS, episode

from vlmrl.annotate import Ledger
from vlmrl.annotate.people.clips import Clips
from vlmrl.annotate.people.question import Pair
from vlmrl.annotate.people.queue import Queue, Rules
from vlmrl.annotate.people.review import Review
from vlmrl.annotate.people.server import Application
from vlmrl.annotate.people.tokens import Tokens
from vlmrl.store import Store
from vlmrl.types import Frame, Span

ANNA, BEN = "human:anna", "human:ben"
TOKENS = {"anna": "anna-anna-anna-anna", "ben": "ben-ben-ben-ben-ben"}
PLAIN = Rules(relabel=0.0, repeat=0.0)


def make_store(folder: Path) -> Store:
    store = Store.create(folder / "store")
    store.append([episode(k) for k in range(6)])
    return store


def frames(k: int, *, sentence: str = "pour the tea") -> Pair:
    return Pair(Frame(f"e{k % 6}", 3 * (k // 6), "eye"), Frame(f"e{(k + 1) % 6}", 12, "eye"), sentence)


def clips(k: int, *, sentence: str = "pour the tea") -> Pair:
    a, b = (Span(f"e{(k + j) % 6}", 0, ROWS, "eye") for j in (0, 1))
    return Pair((a,), (b,), sentence)


def make_queue(store: Store, ledger: Ledger, rules: Rules = PLAIN) -> Queue:
    return Queue(ledger, Clips(store, "eye"), rules)


@dataclass
class Site:
    """A running page."""

    port: int
    queue: Queue
    review: Review

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Send as anna; a header given as empty is left out."""
        sent = {"Authorization": f"Bearer {TOKENS['anna']}", "Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        connection.putrequest(method, path, skip_host="Host" in sent)
        for name, value in sent.items():
            if value:
                connection.putheader(name, value)
        if content is not None:
            connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content)
        response = connection.getresponse()
        raw, kind = response.read(), response.getheader("content-type", "")
        connection.close()
        found = json.loads(raw) if "json" in kind else raw
        return response.status, found, {k.lower(): v for k, v in response.getheaders()}


@contextlib.contextmanager
def running(queue: Queue, *, local: str = "", names: frozenset[str] = frozenset()) -> Iterator[Site]:
    """Serve a queue until the block ends."""
    review = Review(queue, sentences=[])
    people = {"anna": local} if local else TOKENS
    application = Application(queue, review, Tokens(people), local, names)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    settings = uvicorn.Config(application.asgi(), access_log=False, log_level="warning", lifespan="off")
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Site(listening.getsockname()[1], queue, review)
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
