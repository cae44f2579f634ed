"""Builders of data sets: one file each, found by its name; `jogak data NAME -o DIR` calls its `build`.

A builder is a module with a docstring, whose first line describes it in lists, and

    def build(out: Path, languages: str = "ko-en", packages: Sequence[str] = ()) -> Path

which writes a `.jsonl` (fields source, target, origin) and a NOTICE into the folder `out` and returns the
former.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from jogak import registry
from jogak.errors import UserError, nearest


class Builder(Protocol):
    """What a builder module offers."""

    __doc__: str | None

    def build(self, out: Path, languages: str = "ko-en", packages: Sequence[str] = ()) -> Path: ...


def names() -> list[str]:
    """The data sets that can be built, as the command writes them: with hyphens."""
    return [name.replace("_", "-") for name in registry.names("data.builders")]


def find(name: str) -> Builder:
    """The builder called `name`.

    Raises: UserError naming the nearest one.
    """
    if name not in names():
        raise UserError(f"there is no data set called '{name}'{nearest(name, names())}")
    return cast(Builder, registry.find("data.builders", name.replace("-", "_")))


def summary(name: str) -> str:
    """One line that says what `name` builds."""
    return (find(name).__doc__ or "").strip().splitlines()[0]
