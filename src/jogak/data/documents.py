"""Running text: whole files and records as documents, and what of them is held out, by its place.

A `.txt` file is one document, whatever lines it has; of every other kind of source each record is one. The end of the
data is held out, so that nothing which training reads stands around it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from pathlib import Path

from jogak.data.sources import Row, read_texts
from jogak.errors import UserError

PYDOC = "embedded:pydoc"


Read = Callable[[], Iterator["Document"]]


@dataclass(frozen=True, slots=True)
class Document:
    """A text, and where it comes from ("file" or "file:line")."""

    text: str
    where: str


def read_documents(specs: Sequence[str], field: str = "text") -> Iterator[Document]:
    """The documents of all `specs` in order; `field` is what is read of a record.

    embedded:pydoc is the documentation that Python itself carries (pydoc_data.topics), under Python's licence.

    Raises: UserError naming file and line for whatever is missing, empty or damaged.
    """
    for spec in specs:
        if spec == PYDOC:
            yield from _pydoc()
            continue
        for name, lines in groupby(read_texts([spec], field), key=lambda found: _text_file(found[1])):
            if name is None:
                yield from (Document(text, where) for text, where in lines)
            else:
                yield Document(_joined(lines), name)


def _text_file(where: str) -> str | None:
    """The file that "file:line" names, if its lines belong together."""
    file, _, line = where.rpartition(":")
    plain = Path(file).with_suffix("") if Path(file).suffix in (".gz", ".xz") else Path(file)
    return file if line.isdecimal() and plain.suffix == ".txt" else None


def _joined(lines: Iterable[tuple[str, str]]) -> str:
    """The lines of a file, with the empty ones between them that reading by lines leaves out."""
    parts, before = [], 0
    for text, where in lines:
        number = int(where.rpartition(":")[2])
        parts.append("\n" * (number - before) + text)
        before = number
    return "".join(parts).removeprefix("\n") + "\n"


def _pydoc() -> Iterator[Document]:
    """Python's help topics; a paragraph that several of them hold comes once, so that none is known beforehand."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError(f"{PYDOC}: this Python comes without its documentation; install python3-doc or pydoc") from None
    seen: set[str] = set()
    # In the order of a hash: neighbours in the alphabet are of one kind, and the end is held out.
    for name in sorted(topics, key=lambda name: blake2b(name.encode(), digest_size=8).digest()):
        fresh: list[str] = []
        for paragraph in topics[name].strip().split("\n\n"):
            if paragraph.strip() and paragraph not in seen:
                seen.add(paragraph)
                fresh.append(paragraph)
        if fresh:
            yield Document("\n\n".join(fresh) + "\n", f"{PYDOC}:{name}")


@dataclass(frozen=True)
class TextSplit:
    """The last documents held out, and a way to stream those before them.

    digest: a hash of all documents and of where they are cut.
    """

    validation: list[Document]
    test: list[Document]
    digest: str
    _read: Read
    _borders: tuple[int, int]

    def train(self) -> Iterator[Row]:
        """The documents before those held out, read afresh at each call, as rows without a source."""
        for side, document in _pieces(self._read(), self._borders):
            if side:
                return
            yield Row("", document.text, document.where)


def split_text(read: Read, validation: int, test: int) -> TextSplit:
    """Hold out about the last `test` bytes, and `validation` bytes before them; documents are cut at line ends.

    read: gives all documents afresh at each call. Memory grows with what is held out and the longest document.

    Raises: UserError if less would be left to train on than is held out.
    """
    digest, total = blake2b(f"{validation} {test}".encode(), digest_size=16), 0
    for document in read():
        data = document.text.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
        total += len(data)
    if total < 2 * (validation + test) or not total:
        raise UserError(
            f"the data has {total} bytes, too few to hold out {validation + test}; lower data.test and "
            "data.validation (windows of data.max_length), or give more text"
        )
    borders = (total - validation - test, total - test)
    sides: tuple[list[Document], ...] = ([], [], [])
    for side, document in _pieces(read(), borders):
        if side:
            sides[side].append(document)
    return TextSplit(sides[1], sides[2], digest.hexdigest(), read, borders)


def _pieces(documents: Iterable[Document], borders: tuple[int, int]) -> Iterator[tuple[int, Document]]:
    """Every document, cut where a border (in bytes from the start) goes through it, and how many lie before it."""
    at, side = 0, 0
    for document in documents:
        rest = document.text
        while rest:
            while side < len(borders) and at >= borders[side]:
                side += 1
            here, rest = _cut(rest, borders[side] - at) if side < len(borders) else (rest, "")
            at += len(here.encode())
            yield side, Document(here, document.where)


def _cut(text: str, size: int) -> tuple[str, str]:
    """`text` in two, the first part of at least `size` bytes, up to the next end of a line."""
    data = text.encode()
    end = data.find(b"\n", size - 1) + 1
    return (data[:end].decode(), data[end:].decode()) if end else (text, "")
