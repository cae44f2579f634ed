"""What a first stack reads instead of units (pictures, sound, series): one file each, found by the file's name.

A file has `INPUT`, a module that is built with `d_model` and the options that stand beside `name` in model.input.
"""

import inspect
from typing import Protocol, cast

from torch import Tensor

from jogak import registry
from jogak.errors import UserError, nearest


class Input(Protocol):
    """Raw numbers to vectors, positions and norms included where the model has them."""

    def __call__(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B ...] -> [B T D]; mask: which of the raw places are real."""
        ...

    def example(self, batch: int) -> Tensor:
        """Random raw numbers of a size that fits, [B ...], on the CPU."""
        ...

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """Which of the T positions are real, bool [B T], where `mask` says which raw places are."""
        ...


def build(name: str, *, d_model: int, **options: object) -> Input:
    """The input `name`.

    Raises: UserError for an unknown name or option.
    """
    kind = registry.find("layers.inputs", name).INPUT
    known = [p for p in inspect.signature(kind).parameters if p != "d_model"]
    for option in options:
        if option not in known:
            raise UserError(f"model.input: '{name}' has no option '{option}'{nearest(option, known)}")
    return cast(Input, kind(d_model=d_model, **options))
