"""What a person sees of a build, on standard error: a bar on a terminal, elsewhere a plain line for each stage."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def stages(total: int) -> Iterator[Callable[[str], None]]:
    """Gives a function to call with the name of each of `total` stages as it begins."""
    console = Console(file=sys.stderr, highlight=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total)
        begun = 0

        def begin(name: str) -> None:
            nonlocal begun
            progress.update(bar, completed=begun, description=name)
            begun += 1
            if not console.is_terminal:
                console.print(f"{begun}/{total} {name}", markup=False, soft_wrap=True)

        yield begin
