"""What fewer bits cost: perplexity on held-out text of a trained language model, in float32, bfloat16, int8 and int4.

The model is a run of the task language_model; its own held-out documents are read in windows. Perplexity is of a unit,
2^(bits / units); `more` is beside float32, with the 95% interval of 2,000 draws of the windows, the same for both.
"""

import argparse
from collections.abc import Sequence

import torch
from _side_by_side import circumstances, table

import jogak
from jogak.tasks import language_model

DRAWS = 2000


def windows(run: str, dtype: str) -> list[tuple[float, int]]:
    """Bits and units of each window of the held-out text."""
    loaded = jogak.load(run, dtype=dtype, device="cpu")
    held_out = language_model.read_split(loaded.recipe.data).test
    train, length = loaded.recipe.train, loaded.recipe.data.max_length
    with torch.inference_mode():
        return language_model.bits(loaded.module, loaded.codec, held_out, length, apart=train.pack)


def perplexity(found: torch.Tensor) -> torch.Tensor:
    """found: [.. windows 2], bits and units."""
    bits, units = found.sum(-2).unbind(-1)
    return 2 ** (bits / units)


def row(name: str, found: Sequence[tuple[float, int]], exact: Sequence[tuple[float, int]], seed: int) -> list[str]:
    ours, theirs = (torch.tensor(part, dtype=torch.float64) for part in (found, exact))
    drawn = torch.randint(len(ours), (DRAWS, len(ours)), generator=torch.Generator().manual_seed(seed))
    more = perplexity(ours[drawn]) / perplexity(theirs[drawn]) - 1
    low, high = more.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    middle = float(perplexity(ours) / perplexity(theirs)) - 1
    return [name, f"{float(perplexity(ours)):.3f}", f"{middle:+.2%} ({low:+.2%} to {high:+.2%})"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run of the task language_model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    exact = windows(options.run, "float32")
    rows = [["float32", f"{float(perplexity(torch.tensor(exact, dtype=torch.float64))):.3f}", ""]]
    rows += [row(dtype, windows(options.run, dtype), exact, options.seed) for dtype in ("bfloat16", "int8", "int4")]
    print(table(["matrices", "perplexity", "more than float32"], rows))
    print(f"\n{len(exact)} windows, {sum(units for _, units in exact):,} units.")
    print(circumstances())


if __name__ == "__main__":
    main()
