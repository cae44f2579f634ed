"""jogak: sequence models whose token mixer is one swappable part under one tested contract."""

from importlib import import_module
from typing import Any

__version__ = "0.4.0"

# Public name -> module that holds it. Imported on first use, so that `import jogak` costs milliseconds.
_PUBLIC = {
    "load": "jogak.api",
    "train": "jogak.api",
    "compare": "jogak.api",
    "run": "jogak.api",
    "evaluate": "jogak.api",
    "look": "jogak.api",
    "plan": "jogak.api",
    "Model": "jogak.api",
    "Pretrained": "jogak.hub.pretrained",
    "JogakError": "jogak.errors",
    "UserError": "jogak.errors",
    "StorageError": "jogak.errors",
}
_SUBMODULES = (
    "api",
    "codecs",
    "config",
    "data",
    "decoding",
    "families",
    "hub",
    "layers",
    "mixers",
    "models",
    "ops",
    "tasks",
)

__all__ = [  # noqa: PLE0604  # names resolved by __getattr__
    "__version__",
    *_PUBLIC,  # pyright: ignore[reportUnsupportedDunderAll]
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # a module attribute can be anything
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _SUBMODULES:
        return import_module(f"jogak.{name}")
    raise AttributeError(f"module 'jogak' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES])
