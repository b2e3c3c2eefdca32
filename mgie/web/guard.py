"""What stands before the page: a bound on what comes, and a rule of where it may load from."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from mgie.lines import say

SLACK = 2**20
"""Bytes that a request may have beside a file."""
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'"
)
"""Where a page may load from: here. (Its own scripts are inline, and compile templates.)"""
HEADERS = (
    (b"content-security-policy", POLICY.encode("ascii")), (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)  # fmt: skip
NOT_UNDERSTOOD = (TypeError, LookupError, ValueError, AttributeError, RecursionError)
"""What the library raises of bodies that have another form than it expects."""
ASGI = Callable[..., Awaitable[None]]


class TooLarge(Exception):
    """Raised where more comes than may."""


class Guard:
    """An ASGI application around the page's."""

    def __init__(self, app: ASGI, *, most: int):
        """Requests have at most so many bytes, and a little beside."""
        self.app, self.most = app, most + SLACK

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        came, begun = 0, False

        async def counted() -> dict[str, Any]:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.most:
                raise TooLarge
            return message

        async def marked(message: dict[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        told = dict(scope["headers"]).get(b"content-length", b"0")
        try:
            if not told.isdigit() or int(told) > self.most:
                raise TooLarge
            await self.app(scope, counted, marked)
        except TooLarge:
            if not begun:
                sentence = f"the request is larger than {self.most} bytes: send a smaller file."
                await _refuse(marked, 413, sentence)
        except NOT_UNDERSTOOD as error:  # the library's own, before it is anybody's request
            say(f"a request was refused ({type(error).__name__}).")
            if not begun:
                await _refuse(
                    marked, 422, "the request is none that this page takes: docs/web.md shows some."
                )


async def _refuse(send: Any, status: int, sentence: str) -> None:
    head = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": json.dumps({"detail": sentence}).encode("ascii")})
