"""The page as a web application: static files, and calls that each name a person by a token."""

import html
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from vlmrl.annotate.people.guard import Guard
from vlmrl.annotate.people.progress import summary
from vlmrl.annotate.people.question import PREFIX, PersonQuestion
from vlmrl.annotate.people.queue import Queue
from vlmrl.annotate.people.review import Filter, Review
from vlmrl.annotate.people.tokens import Tokens
from vlmrl.errors import VlmrlError
from vlmrl.types import Item, Verdict

Answer = Literal["a", "b", "tie", "unsure"]
Key = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]

_STATIC = {
    "page.js": "text/javascript; charset=utf-8",
    "clips.js": "text/javascript; charset=utf-8",
    "review.js": "text/javascript; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
}
"""Nothing else is served from the disk."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Answered(_Body):
    """What the page sends for an answer."""

    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    answer: Answer
    seconds: float = Field(default=0.0, ge=0, le=86_400, allow_inf_nan=False)


class Corrected(_Body):
    """What the page sends for a correction; null takes one back."""

    pair: str = Field(pattern=r"^[0-9a-f]{64}$")
    answer: Answer | None


class Asked(_Body):
    """What the review shows."""

    filter: dict[str, str] = Field(default_factory=dict, max_length=12)
    start: int = Field(default=0, ge=0, le=10_000_000)


@dataclass(frozen=True)
class Application:
    """The page of one queue."""

    queue: Queue
    review: Review
    tokens: Tokens
    local_token: str = ""
    """Of the one person at this machine, who need not sign in; empty: everybody must."""
    names: frozenset[str] = frozenset()
    """Host names of the page besides localhost."""

    def asgi(self) -> Guard:
        """Return the guarded application."""
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        app.add_exception_handler(VlmrlError, _unavailable)
        app.add_exception_handler(RequestValidationError, _malformed)
        app.add_exception_handler(HTTPException, _refused)
        _add_static(app, self.local_token)
        _add_calls(app, self)
        return Guard(app, names=self.names)  # pyright: ignore[reportArgumentType]

    def person(self, request: Request) -> str:
        """Return who calls.

        Raises:
            HTTPException: if the token is none of theirs.
        """
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        found = self.tokens.person(token) if kind.lower() == "bearer" else None
        if found is None:
            raise HTTPException(401, "this token is not known here")
        return found

    def shown(self, question: PersonQuestion | None, person: str) -> dict[str, Any]:
        """A question as the page takes it, with how far the work is; it does not tell why the pair is asked."""
        state = self.queue.state()
        mine = sum(g.reply.annotator == person and not g.question.sighted for g in state.given)
        content: dict[str, Any] = {"done": mine, "left": self.queue.waiting(state), "question": None}
        if question is not None:
            sides = [self.side(item) for item in (question.shown.a, question.shown.b)]
            content["question"] = {"key": question.key, "sentence": question.shown.sentence, "sides": sides}
        return content

    def side(self, item: Item) -> dict[str, Any]:
        """How many pictures a side has, and how long it took."""
        clips = self.queue.clips
        return {"frames": len(clips.rows(item)), "seconds": clips.seconds(item)} if clips.has(item) else {"frames": 0}


def _add_static(app: FastAPI, local_token: str) -> None:
    folder = files("vlmrl.annotate.people").joinpath("static")

    @app.get("/")
    def page() -> Response:
        text = folder.joinpath("page.html").read_text(encoding="utf-8")
        text = text.replace("{{token}}", html.escape(local_token, quote=True))
        return Response(text, media_type="text/html; charset=utf-8")

    for name, kind in _STATIC.items():

        def static(name: str = name, kind: str = kind) -> Response:
            return Response(folder.joinpath(name).read_bytes(), media_type=kind)

        app.add_api_route(f"/{name}", _fixed(static), methods=["GET"])

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)


def _fixed(static: Callable[[], Response]) -> Callable[[], Response]:
    """The route without the parameters that a caller could set."""
    return lambda: static()


def _add_calls(app: FastAPI, page: Application) -> None:
    caller = Depends(page.person)
    queue, review = page.queue, page.review

    @app.get("/api/me")
    def me(who: str = caller) -> dict[str, Any]:
        rules = queue.rules
        shares = {"relabel": rules.relabel, "repeat": rules.repeat, "overlap": rules.overlap}
        return {"name": who.removeprefix(PREFIX), "shares": shares, "filters": review.choices()}

    @app.post("/api/next")
    def following(who: str = caller) -> dict[str, Any]:
        return page.shown(queue.next(who), who)

    @app.post("/api/answer")
    def answer(body: Answered, who: str = caller) -> dict[str, Any]:
        written = queue.answer(body.key, who, Verdict(body.answer), seconds=body.seconds)
        return {"written": written} | page.shown(queue.next(who), who)

    @app.post("/api/undo")
    def undo(who: str = caller) -> dict[str, Any]:
        taken = queue.take_back(who)
        return {"taken": taken is not None} | page.shown(taken or queue.next(who), who)

    @app.get("/api/progress")
    def progress(who: str = caller) -> dict[str, Any]:
        return summary(queue, review.judged(), who)

    @app.post("/api/review")
    def audit(body: Asked, who: str = caller) -> dict[str, Any]:
        found = review.page(Filter.of(body.filter), body.start, person=who)
        return found | {
            "pairs": [one | {"sides": [page.side(item) for item in one.pop("items")]} for one in found["pairs"]]
        }

    @app.post("/api/correct")
    def correct(body: Corrected, who: str = caller) -> dict[str, Any]:
        pair = review.pair(body.pair)
        if body.answer is None:
            queue.restore(pair, who)
        else:
            queue.correct(pair, who, Verdict(body.answer))
        return {"yours": body.answer}

    @app.get("/api/picture/{key}/{side}/{number}")
    def picture(
        key: Key, side: Annotated[int, Path(ge=0, le=1)], number: Annotated[int, Path(ge=0)], who: str = caller
    ) -> Response:
        del who
        item = review.item(key, side)
        if item is None:
            raise HTTPException(404, "no such question or pair")
        return Response(queue.clips.jpeg(item, number), media_type="image/jpeg")


async def _unavailable(request: Request, error: Exception) -> JSONResponse:
    del request
    return JSONResponse({"error": str(error)}, status_code=503)


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    del request
    assert isinstance(error, RequestValidationError)
    wrong = "; ".join(f"{'.'.join(map(str, e['loc'][1:])) or 'body'}: {e['msg']}" for e in error.errors()[:3])
    return JSONResponse({"error": f"not understood: {wrong}"}, status_code=422)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    del request
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)
