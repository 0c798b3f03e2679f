"""The operator's page: where the robot is, what the camera sees, and one big stop; in a process of its own.

Who has the token that is printed at the start, in a header that no other site can send, may speak; what guards the
labelling page guards this one. Every look at the status is the operator's heartbeat.
"""

import hmac
import io
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files
from typing import Any, cast

import numpy as np

from vlmrl.deploy.child import Child, Wire
from vlmrl.deploy.node import Node
from vlmrl.deploy.state import WORDS
from vlmrl.errors import ConfigError

_STATIC = {"page.js": "text/javascript; charset=utf-8", "page.css": "text/css; charset=utf-8"}
_SHOW_S = 0.05


class Page:
    """The page of one node."""

    def __init__(self, port: int) -> None:
        """Listen on this machine's own address.

        Raises:
            ConfigError: if that is not possible.
        """
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            listening.close()
            raise ConfigError(f"cannot listen at port {port}: {error}; choose another page_port=") from error
        self.token, self.port = secrets.token_urlsafe(24), listening.getsockname()[1]
        self._child = Child(_serve, listening, self.token)
        listening.close()
        self._shown, self._pictured = -1.0, dict[str, float]()

    @property
    def address(self) -> str:
        """With the token, which browsers keep to themselves."""
        return f"http://127.0.0.1:{self.port}/#token={self.token}"

    def attend(self, node: Node) -> None:
        """Pass on what operators said, and tell them how things are."""
        while (said := self._child.hear()) is not None:
            if said:
                node.say(said)
            else:
                node.alive()
        if self._child.behind_s:
            return  # it shows the latest when it is there again
        if (now := node.time) - self._shown >= _SHOW_S:
            self._shown = now
            self._child.send(shown(node))
        for feed in node.episodes.feeds:
            if feed.latest is not None and feed.latest.time > self._pictured.get(feed.name, -1.0):
                self._pictured[feed.name] = feed.latest.time
                self._child.send((feed.name, feed.latest.pixels))

    def close(self) -> None:
        """End the process."""
        self._child.close()


def shown(node: Node) -> dict[str, Any]:
    """What the page shows of a node, JSON-ready."""
    status, settings = node.status, node.settings
    joints = [{"name": j.name, "lower": j.lower, "upper": j.upper} for j in node.spec.joints]
    return asdict(status) | {
        "state": str(node.state),
        "robot": node.spec.name,
        "sentence": settings.instruction,
        "pilot": "" if node.pilot is None else node.pilot.name,
        "episodes": settings.episodes,
        "horizon": node.episodes.horizon,
        "hz": node.spec.control_hz,
        "joints": joints,
        "cameras": [feed.name for feed in node.episodes.feeds],
        "told": node.told,
    }


def _serve(pipe: Wire, listening: socket.socket, token: str) -> None:
    """Serve until the other end closes."""
    import uvicorn

    page = _Shown()
    settings = uvicorn.Config(
        application(page, pipe.send, token), access_log=False, log_level="warning", lifespan="off"
    )
    server = uvicorn.Server(settings)
    threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
    while True:
        said = pipe.recv()
        if isinstance(said, tuple):
            name, pixels = cast("tuple[str, np.ndarray]", said)
            page.pictures[name] = pixels
        else:
            page.status = cast("dict[str, Any]", said)


class _Shown:
    """The latest of what the node told."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = {}
        self.pictures: dict[str, np.ndarray] = {}


def application(page: _Shown, say_so: Callable[[str], None], token: str) -> Any:
    """The guarded application; `say_so` is told every word, and nothing at every look."""
    from fastapi import Depends, FastAPI, HTTPException, Request
    from fastapi.responses import Response
    from pydantic import BaseModel, ConfigDict

    from vlmrl.annotate.people.guard import Guard

    class Said(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        word: str

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    folder, lock = files("vlmrl.deploy.page"), threading.Lock()

    def operator(request: Request) -> None:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
            raise HTTPException(401, "this token is not known here")

    def tell(word: str) -> None:
        with lock:
            say_so(word)

    @app.get("/")
    def start() -> Response:
        return Response(folder.joinpath("page.html").read_bytes(), media_type="text/html; charset=utf-8")

    for name, kind in _STATIC.items():
        app.add_api_route(
            f"/{name}", _static(Response(folder.joinpath(name).read_bytes(), media_type=kind)), methods=["GET"]
        )

    @app.get("/api/status", dependencies=[Depends(operator)])
    def status() -> dict[str, Any]:
        tell("")
        return page.status

    def say(said: Any) -> dict[str, Any]:
        if said.word not in WORDS:
            raise HTTPException(422, f"unknown word; have: {', '.join(WORDS)}")
        tell(said.word)
        return {"said": said.word}

    # The class of this scope is not found where annotations are read later.
    say.__annotations__["said"] = Said
    app.add_api_route("/api/say", say, methods=["POST"], dependencies=[Depends(operator)])

    @app.get("/api/picture/{camera}", dependencies=[Depends(operator)])
    def picture(camera: str) -> Response:
        if camera not in page.pictures:
            raise HTTPException(404, "no picture of this camera yet")
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(page.pictures[camera]).save(buffer, "JPEG", quality=85)
        return Response(buffer.getvalue(), media_type="image/jpeg")

    return Guard(app, names=frozenset())  # pyright: ignore[reportArgumentType]


def _static(response: Any) -> Any:
    """A route without parameters that a caller could set."""
    return lambda: response
