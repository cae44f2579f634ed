"""What every request passes before it is read: the host's name, the API key, the size of its body; and the log."""

import hmac
import logging
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jogak.serving.errors import Refused, refused
from jogak.serving.metrics import Meter
from jogak.serving.settings import Settings

log = logging.getLogger("jogak.serving")
OPEN = ("/", "/healthz", "/readyz", "/openapi.json", "/favicon.ico")  # and below /page/: what needs no key
ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/run", "/v1/look", "/metrics")


class Gate:
    """Outermost but for CORS, so that whatever goes wrong inside is answered, counted and logged here."""

    def __init__(self, app: ASGIApp, *, settings: Settings, meter: Meter) -> None:
        self.app, self.settings, self.meter = app, settings, meter
        key = settings.api_key
        self.key = None if key is None else f"Bearer {key}".encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        note: dict[str, Any] = {}
        scope.setdefault("state", {})["note"] = note

        begun = False

        async def told(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, self._limited(scope, receive), told)
        except Exception as error:
            if not begun:
                await refused(error).response()(scope, receive, told)
            else:
                refused(error)  # it is logged; the client sees its answer break off
        finally:
            self._log(scope, status, time.perf_counter() - began, note)

    def _check(self, scope: Scope) -> None:
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        names = self.settings.names
        if names is not None:
            host = headers.get(b"host", b"").decode("latin-1")
            if _bare(host) not in names:
                raise Refused(421, "the server does not go by that name; call it localhost, or name it with --name")
        path = scope["path"]
        closed = self.key is not None and path not in OPEN and not path.startswith("/page/")
        if closed and not hmac.compare_digest(headers.get(b"authorization", b""), self.key or b""):
            raise Refused(
                401,
                "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """`receive`, which refuses a body beyond what is allowed, as it is announced or as it comes."""
        most, seen = self.settings.max_body, 0
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = Refused(413, f"the body is larger than the {most} bytes that are allowed", code="too_large")
        if announced.isdigit() and int(announced[:20]) > most:
            raise too_large

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise too_large
            return message

        return counted

    def _log(self, scope: Scope, status: int, seconds: float, note: Mapping[str, Any]) -> None:
        path = scope["path"]
        route = next((name for name in ROUTES if path == name or path.startswith(f"{name}/")), "other")
        self.meter.requests.labels(route, str(status)).inc()
        if route != "other":
            self.meter.seconds.labels(route).observe(seconds)
        shown = path if route != "other" or path in OPEN else "(another path)"  # it may hold anything
        more = "".join(f" {name}={value}" for name, value in note.items())
        log.info("%s %s %d %.3fs%s", scope["method"], shown, status, seconds, more)


def _bare(host: str) -> str:
    """A host without its port."""
    name, colon, port = host.rpartition(":")
    return name.lower() if colon and port.isdigit() else host.lower()
