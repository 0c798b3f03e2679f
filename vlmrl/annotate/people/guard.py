"""What stands before the page: who may address it, how much may be sent, and what browsers must obey.

A page of another site cannot act here: each call needs a token in a header, which other origins may neither know nor
send; a name that was pointed at this machine (DNS rebinding) is refused, because the Host must be an address, localhost
or a name that the settings list.
"""

import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

LONGEST = 16_384
"""Bytes of a request's body."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware."""

    def __init__(self, app: App, *, names: frozenset[str]) -> None:
        """`names` are the host names besides localhost by which the page may be called."""
        self._app, self._names = app, names | {"localhost"}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Refuse, or pass on with headers added and the body counted."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        body = _Counted(receive)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_encoded(HEADERS)]
                # The application takes the cut body for a damaged one.
                message["status"] = 413 if body.over else message["status"]
            await send(message)

        if refusal := self._refusal(headers):
            await _refuse(sending, *refusal)
        else:
            await self._app(scope, body.receive, sending)

    def _refusal(self, headers: MutableMapping[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._known(host):
            return 421, "this page is not called by that name; open it by its address, or add hosts=[NAME]"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "this call comes from another site"
        elsewhere = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        if elsewhere and headers.get("sec-fetch-mode") != "navigate":
            return 403, "this call comes from another site"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LONGEST:
            return 413, f"at most {LONGEST} bytes may be sent"
        return None

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in self._names
        return True


class _Counted:
    """Passes a body on until it is too long: its length need not be told beforehand."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._total = receive, 0

    @property
    def over(self) -> bool:
        return self._total > LONGEST

    async def receive(self) -> Message:
        message = await self._receive()
        self._total += len(message.get("body", b""))
        return {"type": "http.disconnect"} if self.over else message


async def _refuse(send: Send, status: int, why: str) -> None:
    body = json.dumps({"error": why}).encode()
    headers = _encoded({"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"})
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _encoded(headers: MutableMapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
