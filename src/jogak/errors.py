"""The errors a user sees: one sentence that says what, where, and how to mend it."""

from collections.abc import Iterable
from difflib import get_close_matches


class JogakError(Exception):
    """An error with a message written for the person who runs jogak; `exit_code` is what the command returns."""

    exit_code = 1


class UserError(JogakError, ValueError):
    """The caller's mistake (a missing file, an unknown key, a wrong shape): exit code 2, no traceback."""

    exit_code = 2


class StorageError(JogakError, OSError):
    """The machine refused to keep something (a full disk, no permission): exit code 1, nothing saved is lost."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'encoder'?"`, or the whole list where nothing is near, or "" where nothing is known."""
    known = sorted(known)
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""
