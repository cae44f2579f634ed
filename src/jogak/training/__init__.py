"""Training: `fit` a task into a run folder, with exact resume."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jogak.training.loop import fit
    from jogak.training.run import Run
    from jogak.training.signals import Interrupted

_PUBLIC = {"fit": "loop", "Run": "run", "Interrupted": "signals"}
__all__ = ["Interrupted", "Run", "fit"]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # a module attribute can be anything
    if name in _PUBLIC:
        return getattr(import_module(f"jogak.training.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'jogak.training' has no attribute '{name}'")
