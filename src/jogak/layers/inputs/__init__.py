"""What a first stack reads instead of units (pictures, sound, series): one file each, found by the file's name.

A file has `INPUT`, a module that is built with `d_model` and the options that stand beside `name` in model.input.
"""

import inspect
from typing import Protocol, cast, runtime_checkable

from torch import Tensor

from jogak import registry
from jogak.errors import UserError, nearest


@runtime_checkable
class Input(Protocol):
    """Raw numbers to vectors, positions and norms included where the model has them.

    rows: how many rows each row of raw numbers becomes. padded: whether rows may differ in length.
    """

    rows: int
    padded: bool

    def __call__(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B ...] -> [B rows, T, D]; mask: which of the raw places are real."""
        ...

    def example(self, batch: int) -> Tensor:
        """Random raw numbers of a size that fits, [B ...], on the CPU."""
        ...

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """Which of the T positions are real, bool [B T], where `mask` says which raw places are."""
        ...


@runtime_checkable
class Measured(Input, Protocol):
    """An input that takes away where values lie and how far they spread.

    length: values of a row. patch: of them in a position, of which there are `patches` at the end of the `positions`.
    """

    length: int
    patch: int
    patches: int
    positions: int

    def measure(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What is subtracted from values [B L C] and what they are divided by then, [B 1 C] each."""
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
