"""Ctrl-C and SIGTERM: finish the step, save, say how to go on."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from jogak.errors import JogakError


class Interrupted(JogakError):
    """Training was asked to stop, and saved; `exit_code` is the shell's convention: 130 Ctrl-C, 143 SIGTERM."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Cut(BaseException):
    """Leaves a validation that was interrupted; never seen outside this package."""


class Stopper:
    """Remembers that a signal asked training to stop; a second Ctrl-C stops at once, without saving.

    alone: whether no other process takes part. Under torchrun a second signal is torchrun passing on the first.
    """

    def __init__(self, alone: bool, tell: Callable[[str], None]) -> None:
        self.number = 0
        self._alone, self._tell = alone, tell
        self._may_cut = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals inside the block; outside the main thread they stay with whoever has them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def may_cut(self) -> Iterator[None]:
        """A block without anything to lose, that a signal leaves at once by raising `Cut`."""
        if self.number and self._alone:
            raise Cut
        self._may_cut = self._alone
        try:
            yield
        finally:
            self._may_cut = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT and self._alone:
            raise KeyboardInterrupt
        first = not self.number
        self.number = self.number or number
        if first:
            again = "; press Ctrl-C again to stop at once, without saving" if number == signal.SIGINT else ""
            self._tell(f"{describe(number)}: saving, then stopping{again}")
        if self._may_cut:
            self._may_cut = False
            raise Cut


def describe(number: int) -> str:
    """What a person calls the signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
