"""Training step of test-time training beside causal attention of the same width, each alone in a block, by turns.

A block is norm, mixer, residual: forward and backward, gradients of the input and of every parameter. Heads are 64
wide. The ratio is how many times attention's time test-time training takes.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from _side_by_side import PRECISIONS, circumstances, ratio, table, take_turns
from torch import nn

from jogak import mixers
from jogak.models.block import Block, PreNorm

PROGRAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "attention": ("attention", {"causal": True}),
    "ttt linear": ("ttt", {}),
    "ttt linear, no gate, no convolution": ("ttt", {"conv": 0, "gate": False}),
    "ttt mlp": ("ttt", {"inner": "mlp"}),
}


def step(
    name: str,
    options: dict[str, Any],
    width: int,
    length: int,
    batch: int,
    dtype: torch.dtype,
) -> Callable[[], None]:
    """One training step of a block that has only a mixer."""
    torch.manual_seed(0)
    mixer = mixers.build(name, d_model=width, heads=width // 64, **options)
    block = Block(mixer, None, None, lambda: PreNorm(lambda: nn.LayerNorm(width), 0.0))
    x = torch.randn(batch, length, width, requires_grad=True)
    weight = torch.randn(batch, length, width)

    def run() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            y, _ = block(x)
        y.backward(weight)
        block.zero_grad()
        x.grad = None

    return run


def compare(width: int, options: argparse.Namespace) -> list[list[str]]:
    rows = []
    for precision in options.precisions:
        dtype = PRECISIONS[precision]
        programs = {
            shown: step(name, given, width, options.length, options.batch, dtype)
            for shown, (name, given) in PROGRAMS.items()
        }
        taken = take_turns(programs, options.rounds)
        for shown, seconds in taken.items():
            compared = "" if shown == "attention" else ratio(seconds, taken["attention"])
            spent = f"{1e3 * statistics.median(seconds):.0f}"
            rows.append([f"{width}, {precision}", shown, spent, compared])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 768])
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = [row for width in options.widths for row in compare(width, options)]
    print(table(["width, precision", "mixer", "ms a step", "times attention"], rows))
    print(
        f"\nT = {options.length}, B = {options.batch}; medians of {options.rounds} turns, least and most of the pairs."
    )
    print(circumstances())


if __name__ == "__main__":
    main()
