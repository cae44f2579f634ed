"""S4D and S4 beside causal attention of the same width, one layer, taking turns: a training step, and decoding.

A training step is forward and backward of the mixer alone, gradients for its input and every parameter. The column
`against attention` is attention's time over the mixer's: above 1, the mixer is faster. Decoding is one place a call,
without gradients, after `position` places; attention reads all of them.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from _side_by_side import circumstances, ratio, table, take_turns

from jogak import mixers
from jogak.mixers import Mixer

MIXERS: dict[str, tuple[str, dict[str, object]]] = {
    "attention": ("attention", {"heads": 4, "causal": True}),
    "s4d": ("s4d", {}),
    "s4d fft": ("s4d", {"backend": "fft"}),
    "s4": ("s4", {}),
    "s4 fft": ("s4", {"backend": "fft"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024])
    parser.add_argument("--positions", type=int, nargs="*", default=[256, 4096])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mixers", nargs="+", choices=list(MIXERS), default=list(MIXERS))
    given = parser.parse_args()
    built = {n: mixers.build(MIXERS[n][0], d_model=given.width, **MIXERS[n][1]) for n in given.mixers}
    print(circumstances(), end="\n\n")
    for length in given.lengths:
        programs = {n: training(m, given.batch, length) for n, m in built.items()}
        show(f"training step, batch {given.batch}, T = {length}", programs, given.rounds)
    for position in given.positions:
        programs = {n: decoding(m, position) for n, m in built.items() if "fft" not in n}
        show(f"32 places decoded after {position}, batch 1", programs, given.rounds)


def training(mixer: Mixer, batch: int, length: int) -> Callable[[], object]:
    """One forward and backward pass over x [batch length D]."""
    x = torch.randn(batch, length, mixer.d_model, requires_grad=True)

    def once() -> None:
        y, _ = mixer(x)
        torch.autograd.grad(y.square().mean(), [x, *mixer.parameters()])

    return once


def decoding(mixer: Mixer, position: int) -> Callable[[], object]:
    """32 steps from the state after `position` places."""
    with torch.no_grad():
        _, state = mixer(torch.randn(1, position, mixer.d_model))
    x = torch.randn(1, 1, mixer.d_model)

    def steps() -> None:
        now = state
        with torch.inference_mode():
            for _ in range(32):
                _, now = mixer.step(x, now)

    return steps


def show(what: str, programs: dict[str, Callable[[], object]], rounds: int) -> None:
    taken = take_turns(programs, rounds)
    first = next(iter(taken))
    rows = [[n, f"{1e3 * statistics.median(t):.1f}", ratio(taken[first], t)] for n, t in taken.items()]
    print(table([what, "ms", f"against {first}"], rows), end="\n\n")


if __name__ == "__main__":
    main()
