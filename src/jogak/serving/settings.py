"""What a server is told when it starts, and what it refuses to start with."""

import ipaddress
from dataclasses import dataclass

from jogak.errors import UserError

_LEAST = {"rows": 1, "queue": 0, "max_body": 1024, "max_prompt": 1, "max_output": 1, "max_inputs": 1, "chunk": 1}


@dataclass(frozen=True)
class Settings:
    """host, port: where it listens; the loopback, so that nobody else reaches it, unless another is given.

    api_key: what clients must show; without one only the loopback is served, unless `insecure`. rows: answers of one
    model that run together; queue: those that may wait beside them. timeout: seconds for a request, its waiting
    included. max_body: bytes; max_prompt, max_output: units; max_inputs: texts of one request. chunk: positions of
    prompts that are read in a step; cache_bytes: for states of prompts that begin alike, 0: none. grace: seconds that
    running requests have once the server is told to stop. origins: web pages elsewhere that may ask; hosts: names by
    which the server may be called besides its own. log_prompts: whether texts are written to the log.

    Raises: UserError for a value that does not fit.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    insecure: bool = False
    rows: int = 64
    queue: int = 256
    timeout: float = 300.0
    max_body: int = 1 << 20
    max_prompt: int = 32768
    max_output: int = 4096
    max_inputs: int = 64
    chunk: int = 256
    cache_bytes: int = 1 << 29
    grace: float = 20.0
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    log_prompts: bool = False

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} must be a whole number at least {least}, got {getattr(self, name)}")
        if not 0 <= self.port <= 65535:
            raise UserError(f"port must be a whole number from 0 to 65535, got {self.port}")
        if not self.timeout > 0 or not self.grace >= 0 or self.cache_bytes < 0:
            raise UserError("timeout must be more than 0 seconds, grace and cache_bytes at least 0")
        if self.api_key is not None and (not self.api_key.isascii() or not self.api_key.strip()):
            raise UserError("the API key must be ASCII characters, not blanks alone")
        if self.api_key is None and not self.insecure and not is_loopback(self.host):
            raise UserError(
                f"host {self.host} is open to others, and there is no API key; set JOGAK_API_KEY or --api-key-file, or "
                "pass --insecure to serve anybody"
            )

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names by which requests may call the server (against DNS rebinding); None: any, where a key protects it or
        it is meant for anybody."""
        if not is_loopback(self.host):
            return None
        return ("localhost", "127.0.0.1", "[::1]", self.host, *self.hosts)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
