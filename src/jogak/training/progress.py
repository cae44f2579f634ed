"""What a person sees while training: a live line on a terminal, plain lines every few seconds elsewhere."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal
LIVE_EVERY = 0.5  # seconds between redraws; drawing costs a millisecond or two


@dataclass(frozen=True)
class Figures:
    """The measurements of the last log line. tokens_per_second: real (not padding) source and target tokens."""

    loss: float
    tokens_per_second: float
    share: float  # of the machine's measured peak
    precision: str


class Display:
    """Progress on standard error; silent where `console` is None (other processes than the first)."""

    def __init__(self, steps: int, console: Console | None) -> None:
        self.steps = steps
        self._console = console
        self._live: Live | None = None
        self._figures: Figures | None = None
        self._last = time.monotonic()

    @classmethod
    def standard(cls, steps: int, *, speaks: bool) -> "Display":
        """On standard error, if this is the process that speaks."""
        return cls(steps, Console(file=sys.stderr, highlight=False) if speaks else None)

    def __enter__(self) -> Self:
        if self._console is not None and self._console.is_terminal:
            # No refresh thread: it would take the interpreter from the training loop at times of its own.
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def notice(self, text: str) -> None:
        """One line that stays."""
        if self._console is not None:
            self._console.print(text, markup=False, soft_wrap=True)

    def figures(self, figures: Figures) -> None:
        """Newer measurements to show."""
        self._figures = figures

    def validation(self, step: int, found: Mapping[str, float], *, best: bool) -> None:
        """What a validation found."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in found.items())
        self.notice(f"validation at step {step}: {shown}{'  (best so far)' if best else ''}")

    def step(self, step: int, progress: float, left: float | None) -> None:
        """Called after each step, cheap when nothing is due. progress: share done; left: seconds to go."""
        now = time.monotonic()
        if self._console is None or now - self._last < (PLAIN_EVERY if self._live is None else LIVE_EVERY):
            return
        self._last = now
        if self._live is not None:
            self._live.update(self._drawn(step, progress, left), refresh=True)
        else:
            self._console.print("  ".join(self._words(step, left)), markup=False, soft_wrap=True)

    def _words(self, step: int, left: float | None) -> list[str]:
        words = [f"step {step}/{self.steps}"]
        if (f := self._figures) is not None:
            words += [f"loss {f.loss:.3f}", f"{f.tokens_per_second:,.0f} tokens/s"]
            words += [f"{100 * f.share:.0f}% of {f.precision} peak"]
        return [*words, "" if left is None else f"{clock(left)} left"]

    def _drawn(self, step: int, progress: float, left: float | None) -> Table:
        row = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=1.0, completed=min(progress, 1.0), width=24)
        row.add_row(bar, *(Text(word) for word in self._words(step, left)))
        return row


def clock(seconds: float) -> str:
    """3:07, or 1:03:07."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
