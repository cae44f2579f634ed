"""Lines of text files of any size, plain or compressed, with every fault named by file, line and byte."""

import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from jogak.errors import UserError

COMPRESSED = (".gz", ".xz")
LONGEST_LINE = 64 * 2**20  # bytes; beyond, a file is hardly text in lines, and memory would not be bounded
_BOM = "\ufeff"


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed if its name says so.

    Raises: UserError if it is missing, unreadable or damaged.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as file:
                yield cast(IO[bytes], file)  # a GzipFile reads like any binary file
        elif path.suffix == ".xz":
            with lzma.open(path, "rb") as file:
                yield file
        else:
            with path.open("rb") as file:
                yield file
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{path}: damaged or truncated archive ({error}); fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, its text without the end of line), one line in memory at a time.

    Only "\\n" ends a line (with or without "\\r" before it): what else Unicode counts stays in the text.

    Raises: UserError if it is missing, damaged or not UTF-8.
    """
    with opened(path) as file:
        number, offset = 0, 0
        while raw := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(raw) > LONGEST_LINE:
                raise UserError(f"{path}:{number}: the line is longer than {LONGEST_LINE} bytes; break it up")
            yield number, _decode(raw, path, number, offset)
            offset += len(raw)


def _decode(raw: bytes, path: Path, number: int, offset: int) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        utf16 = number == 1 and raw.startswith((b"\xff\xfe", b"\xfe\xff"))
        why = "it is UTF-16" if utf16 else f"bad byte 0x{raw[error.start]:02x}"
        raise UserError(
            f"{path}:{number}: not UTF-8 at byte {offset + error.start} of the file ({why}); save it as UTF-8"
        ) from None
    text = text.removesuffix("\n").removesuffix("\r")
    return text.removeprefix(_BOM) if number == 1 else text
