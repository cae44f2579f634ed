"""What the side-by-side benchmarks share: taking turns, ratios of pairs with their spread, and tables to paste."""

import datetime
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path

import torch

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def take_turns(
    programs: Mapping[str, Callable[[], object]], rounds: int, clock: str = "wall"
) -> dict[str, list[float]]:
    """Seconds of each program in each round; in every round all of them run, so that all meet the same machine.

    The first round only warms up. Every other round runs in the opposite order. A program that gives a number has
    measured itself (`Apart`).
    """
    now = CLOCKS[clock]
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        names = list(programs) if turn % 2 else list(programs)[::-1]
        for name in names:
            begin = now()
            measured = programs[name]()
            if turn:
                taken[name].append(measured if isinstance(measured, float) else now() - begin)
    return taken


class Apart:
    """A program in a process of its own, so that what a library sets for its process is set for nobody else.

    make(*given) is called there once and gives the program; calling this object runs it, and gives its seconds.
    """

    def __init__(self, clock: str, make: Callable[..., Callable[[], object]], *given: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, clock, torch.get_num_threads(), make, given))
        self._process.start()
        far.close()

    def __call__(self) -> float:
        self._pipe.send(None)
        return self._pipe.recv()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def _serve(
    pipe: Connection, clock: str, threads: int, make: Callable[..., Callable[[], object]], given: tuple[object, ...]
) -> None:
    torch.set_num_threads(threads)
    program, now = make(*given), CLOCKS[clock]
    while True:
        try:
            pipe.recv()
        except EOFError:  # the other end is closed
            return
        begin = now()
        program()
        pipe.send(now() - begin)


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """How many times our speed theirs goes into: the median of the rounds' pairs, and the least and most of them."""
    pairs = [a / b for a, b in zip(theirs, ours, strict=True)]
    return f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"


def gemm_peak(dtype: torch.dtype, clock: str = "wall", seconds: float = 1.0) -> float:
    """FLOP/s of the fastest matrix product found, square and at width 512: the limit that shares are shares of."""
    now, best = CLOCKS[clock], 0.0
    shapes = [(1024, 1024, 1024), (1024, 512, 2048), (2048, 512, 512)]
    for m, k, n in shapes:
        a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
        until = time.perf_counter() + seconds / len(shapes)
        turns = 0
        while turns < 3 or time.perf_counter() < until:
            begin = now()
            a @ b
            took = now() - begin
            turns += 1
            if turns > 1 and took > 0:
                best = max(best, 2 * m * k * n / took)
    return best


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [
        _line(head, widths),
        "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|",
    ]
    return "\n".join(lines + [_line(row, widths) for row in rows])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return "| " + " | ".join(padded) + " |"


def circumstances(*packages: str) -> str:
    """Command, hardware, versions and date: what a figure needs beside it."""
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("torch", *packages))
    command = " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return (
        f"`{command}`, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}; {_processor()}, "
        f"{torch.get_num_threads()} threads; Python {platform.python_version()}, {versions}."
    )


def _processor() -> str:
    """The processor's name, and which of the instructions that decide a precision's speed it has."""
    name, flags = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(
            (part.strip() for part in line.split(":", 1)) for line in info.read_text().splitlines() if ":" in line
        )
        name, flags = fields.get("model name", name), fields.get("flags", "")
    has = [shown for flag, shown in (("avx512f", "AVX-512"), ("amx_bf16", "AMX bfloat16")) if flag in flags.split()]
    if not {"amx_bf16", "avx512_bf16"} & set(flags.split()):
        has.append("no bfloat16 instructions")
    return " ".join([name, *([f"({', '.join(has)})"] if has else [])])
