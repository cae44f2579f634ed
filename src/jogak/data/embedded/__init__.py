"""Small real translation sets that ship with jogak: software texts under permissive licences (see NOTICE).

Each set is `NAME.tsv.xz`: a line a pair, its columns source, target and the package it came from;
backslash, tab and line feed are written `\\\\`, `\\t` and `\\n`. `sources.json` records the packages with
their versions and licences, the number of pairs, and the SHA-256 of the uncompressed text. `python -m
jogak.data.builders._embed` makes all of it again.
"""

import json
import lzma
import re
from collections.abc import Iterator
from importlib import resources
from typing import TypedDict

from jogak.errors import UserError, nearest

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\t": "\\t"}
_UNESCAPES = {code: sign for sign, code in _ESCAPES.items()}


class PackageRecord(TypedDict):
    """One package of a set; `spec` is what the gettext builder takes."""

    spec: str
    name: str
    version: str
    licence: str
    pairs: int


class SetRecord(TypedDict):
    """One set: its size, its hash, and its packages in the order of the build."""

    pairs: int
    sha256: str
    packages: list[PackageRecord]


def records() -> dict[str, SetRecord]:
    """What `sources.json` says of each set."""
    return json.loads((resources.files(__name__) / "sources.json").read_text(encoding="utf-8"))


def embedded_names() -> list[str]:
    """The names that `read_embedded` takes: each set in both directions."""
    return sorted(name for key in records() for name in (key, _swapped(key)))


def read_embedded(name: str) -> Iterator[tuple[str, str]]:
    """(source, target) of each pair of a set; "ko-en" gives (Korean, English), "en-ko" the same swapped.

    Raises: UserError naming the nearest set.
    """
    known = records()
    if name in known:
        return ((source, target) for source, target, _ in read_origins(name))
    if _swapped(name) in known:
        return ((target, source) for source, target, _ in read_origins(_swapped(name)))
    raise UserError(f"there is no embedded data called '{name}'{nearest(name, embedded_names())}")


def read_languages() -> Iterator[tuple[str, str]]:
    """(text, language) of both sides of every pair of every set, each text once: what a classifier can learn from."""
    seen: set[str] = set()
    for name in sorted(records()):
        for pair in read_embedded(name):
            for text, language in zip(pair, name.split("-"), strict=True):
                if text not in seen:
                    seen.add(text)
                    yield text, language


def read_origins(name: str) -> Iterator[tuple[str, str, str]]:
    """(source, target, package) of each pair, in the direction in which the set is stored."""
    try:
        file = resources.files(__name__) / f"{name}.tsv.xz"
        with file.open("rb") as raw, lzma.open(raw) as lines:
            for line in lines:
                source, target, package = line.decode("utf-8").rstrip("\n").split("\t")
                yield unescape(source), unescape(target), package
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise UserError(f"embedded:{name}: damaged or missing ({error}); install jogak again") from None


def recorded_packages(languages: str) -> list[str]:
    """The packages of a set, in their recorded versions, as the gettext builder takes them.

    Raises: UserError naming the nearest set.
    """
    known = records()
    record = known.get(languages) or known.get(_swapped(languages))
    if record is None:
        raise UserError(f"there is no embedded data called '{languages}'{nearest(languages, embedded_names())}")
    return [package["spec"] for package in record["packages"]]


def escape(text: str) -> str:
    """The text on one line without tabs."""
    return re.sub(r"[\\\n\t]", lambda found: _ESCAPES[found[0]], text)


def unescape(text: str) -> str:
    """The inverse of `escape`."""
    return re.sub(r"\\[\\nt]", lambda found: _UNESCAPES[found[0]], text)


def _swapped(name: str) -> str:
    return "-".join(reversed(name.split("-")))
