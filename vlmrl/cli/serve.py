"""`vlmrl label serve`: a page at which people compare pairs, and look over what labelers answered."""

import getpass
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlmrl import config as configuration
from vlmrl.annotate import Ledger, sample_pairs, true_progress
from vlmrl.annotate.opinions import read_opinions
from vlmrl.annotate.people.clips import Clips
from vlmrl.annotate.people.question import Pair, is_person
from vlmrl.annotate.people.queue import Queue, Rules
from vlmrl.annotate.people.review import Review
from vlmrl.annotate.people.tokens import Tokens, new_token, read_tokens
from vlmrl.cli.choosing import pick_camera, pick_sentence
from vlmrl.errors import ConfigError, DataError
from vlmrl.runfolder import masked, provenance, write_json
from vlmrl.store import Store
from vlmrl.types import Span


@dataclass(frozen=True)
class ServeConfig:
    """Settings of the page for people."""

    store: str = ""
    """Folder of the store whose pictures are shown."""
    ledger: str = "runs/labels.db"
    """Where questions wait and answers are kept: that of the labeling job, so that people and models share it."""
    sentence: str | None = None
    """What the robot should do, for pairs that are drawn here; null: the sentence recorded with the data."""
    camera: str | None = None
    """Whose pictures are shown; null: the store's first."""
    pairs: int = 100
    """Pairs that are drawn and put on the queue, beside what was routed there; the same seed draws the same."""
    segment: int = 0
    """Rows of a clip; 0: single frames are drawn."""
    rules: Rules = field(default_factory=Rules)
    frames: int = 24
    """Pictures of a clip, at most, evenly spaced."""
    side: int = 640
    """Pixels of a picture's longer side, at most."""
    bind: str = "127.0.0.1"
    """Address to listen at; another one than this machine's own loopback needs tokens."""
    port: int = 8765
    hosts: tuple[str, ...] = ()
    """Names, besides localhost and addresses, by which browsers may call the page."""
    tokens: str | None = None
    """File of NAME: TOKEN lines that only you can read (chmod 600); null: VLMRL_LABEL_TOKENS=name=token,name=token."""
    annotator: str | None = None
    """Your name where nobody needs a token; null: your user name."""


def main(content: Mapping[str, Any], folder: Path) -> None:
    """Run the page that a composed configuration describes, until it is interrupted."""
    if not content["store"]:
        raise ConfigError("serve needs a store: vlmrl label serve store=FOLDER ledger=runs/labels.db")
    config = configuration.build(ServeConfig, content, where="serve")
    tokens, local = people(config)
    try:
        import uvicorn

        from vlmrl.annotate.people.server import Application
    except ModuleNotFoundError as error:
        raise ConfigError(f"the page needs the package {error.name!r}: pip install 'vlmrl[page]'") from error
    with Ledger(config.ledger) as ledger, _socket(config) as listening:
        queue, review = prepare(config, ledger)
        write_json(folder / "config.json", masked(dict(content)))
        write_json(folder / "meta.json", provenance())
        names = frozenset(name.lower() for name in config.hosts)
        application = Application(queue, review, tokens, local, names)
        print(f"{queue.waiting(queue.state())} answers are wanted, {len(review.judged())} pairs can be reviewed")
        print(
            f"the page is at http://{_shown(config.bind)}:{listening.getsockname()[1]}/ (stop it with Ctrl-C)",
            flush=True,
        )
        settings = uvicorn.Config(application.asgi(), access_log=False, log_level="warning", server_header=False)
        uvicorn.Server(settings).run(sockets=[listening])


def prepare(config: ServeConfig, ledger: Ledger) -> tuple[Queue, Review]:
    """The queue, with what is drawn for it, and the review of what is known."""
    store = Store.open(config.store)
    camera = pick_camera(store, config.camera)
    queue = Queue(ledger, Clips(store, camera, config.frames, config.side), config.rules)
    sentences = [config.sentence] if config.sentence else []
    truth = true_progress(store) if "truth/progress" in store.columns() else None
    review = Review(queue, sentences=sentences, truth=truth)
    if config.pairs:
        queue.add(drawn(config, store, camera), drawn=True)
    known = read_opinions(ledger, store, sentences=sentences)
    queue.offer(list({o.shown.id: o.shown for o in known if not is_person(o.annotator)}.values()))
    return queue, review


def drawn(config: ServeConfig, store: Store, camera: str) -> list[Pair]:
    """Random pairs of frames, or of clips that lie within one episode each.

    Raises:
        DataError: if there are fewer different ones than wanted.
    """
    sentence, generator = pick_sentence(store, config.sentence), np.random.default_rng(config.rules.seed)
    if not config.segment:
        found = sample_pairs(store, camera, count=config.pairs, instruction=sentence, generator=generator)
        return [Pair(query.items[0], query.items[1], sentence) for query in found]
    windows, table = store.spans(config.segment, stride=max(1, config.segment // 2)), store.episodes
    if len(windows) < 2 * config.pairs:
        have = f"{config.store} has {len(windows)} clips of {config.segment} rows"
        raise DataError(f"{2 * config.pairs} clips wanted, each shown once, but {have}; lower pairs or segment")
    first = windows[generator.permutation(len(windows))[: 2 * config.pairs], 0]
    owner = table.of_row(first)
    clips = [
        (Span(table.id[e], int(row - table.start[e]), int(row - table.start[e]) + config.segment, camera),)
        for e, row in zip(owner.tolist(), first.tolist(), strict=True)
    ]
    return [Pair(a, b, sentence) for a, b in zip(clips[::2], clips[1::2], strict=True)]


def people(config: ServeConfig) -> tuple[Tokens, str]:
    """Who may answer, and the token of the one who need not sign in, empty where everybody must.

    Raises:
        ConfigError: if the page would be open to other machines without tokens.
    """
    tokens = read_tokens(config.tokens)
    if len(tokens):
        return tokens, ""
    if not is_loopback(config.bind):
        raise ConfigError(
            f"bind={config.bind} lets other machines in, so each person needs a token: tokens=FILE with lines of "
            f"NAME: TOKEN and mode 0600, or VLMRL_LABEL_TOKENS. A token that fits: {new_token()}"
        )
    token = new_token()
    name = config.annotator or re.sub(r"[^A-Za-z0-9._-]", "", getpass.getuser()) or "me"
    return Tokens({name: token}), token


def _socket(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.bind else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((config.bind, config.port))
    except (OSError, OverflowError) as error:
        found.close()
        raise ConfigError(
            f"cannot listen at {config.bind}, port {config.port}: {error}; choose another port="
        ) from error
    return found


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address
