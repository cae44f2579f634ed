"""`jogak serve`: models loaded, the application made, uvicorn around it, and how it ends."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from jogak import api
from jogak.errors import UserError
from jogak.serving.app import create
from jogak.serving.engine import Engine
from jogak.serving.settings import Settings

SLACK = 3.0  # seconds for the last bytes, once everything that was left has been refused


class Stopping(uvicorn.Server):
    """Told to stop, it takes nothing new, lets what runs finish for `grace` seconds, and refuses the rest."""

    def __init__(self, config: uvicorn.Config, engine: Engine, grace: float) -> None:
        super().__init__(config)
        self.engine, self.grace = engine, grace

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.engine.drain()
        loop = asyncio.get_running_loop()
        late = loop.call_later(self.grace, lambda: loop.run_in_executor(None, self.engine.stop))
        try:
            await super().shutdown(sockets)
        finally:
            late.cancel()
            self._captured_signals.clear()  # it was told to stop and has: that is no failure


def names_of(models: Sequence[str]) -> dict[str, str]:
    """The name of each model and where it is; `NAME=MODEL` gives it another than its folder's.

    Raises: UserError for two of one name.
    """
    found: dict[str, str] = {}
    for given in models:
        name, equals, where = given.partition("=")
        if not equals or "/" in name or Path(given).exists():
            name, where = Path(given).resolve().name if Path(given).exists() else given.rpartition("/")[2], given
        if not name or not where:
            raise UserError(f"{given}: give a model, or NAME=MODEL")
        if name in found:
            raise UserError(f"two models are called '{name}'; give one of them another name: NAME={where}")
        found[name] = where
    return found


def serve(
    models: Sequence[str],
    settings: Settings,
    *,
    device: str = "auto",
    dtype: str | None = None,
    told: Callable[[str], None] = lambda line: print(line, flush=True),
) -> None:
    """Load the models and serve them until the process is told to stop (SIGINT, SIGTERM).

    Raises: UserError for a model that cannot be loaded, or an address that cannot be listened at.
    """
    loaded = {name: api.load(where, device=device, dtype=dtype) for name, where in names_of(models).items()}
    listening = _listen(settings)
    app = create(loaded, settings)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.grace + SLACK)),
        timeout_keep_alive=30,
        ws="none",
        lifespan="on",
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    server = Stopping(config, app.state.server.engine, settings.grace)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    told(f"serving {', '.join(loaded)} at http://{shown}:{port}/ (Ctrl-C ends it)")
    try:
        server.run(sockets=[listening])
    finally:
        listening.close()


def _listen(settings: Settings) -> socket.socket:
    """A socket at the address, so that what is wrong with it is told before anything is served."""
    host = settings.host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        raise UserError(f"cannot listen at {settings.host}:{settings.port}: {error.strerror}; choose another") from None
    return listening
