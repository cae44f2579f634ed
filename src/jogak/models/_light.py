"""Running a model on the meta device without the second that torch's compiler takes to load."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

NAME, MARK = "torch._dynamo", "__dynamo_disable"


class _StandIn(ModuleType):
    """What torch's shape functions ask of the compiler: to leave them alone. Anything else loads the real one."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self.asked: list[Any] = []

    def disable(self, function: Callable[..., Any], *_: object, **__: object) -> Callable[..., Any]:
        self.asked.append(function)
        return function

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # of any kind
        self.leave()
        return getattr(importlib.import_module(NAME), name)

    def leave(self) -> None:
        """Nothing remembers that this stood in: what it was asked for is asked of the real one at the next call."""
        for function in self.asked:
            if hasattr(function, MARK):
                delattr(function, MARK)
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME]
            del torch._dynamo


@contextmanager
def without_compiler() -> Iterator[None]:
    """Within this block torch's shape functions do not load the compiler, unless it is there already.

    torch writes each of them so that the compiler does not trace it, and for that imports the compiler at the first
    call; here nothing is compiled.
    """
    if NAME in sys.modules:
        yield
        return
    stand_in = _StandIn()
    sys.modules[NAME] = torch._dynamo = stand_in  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        stand_in.leave()
