"""Families of Hugging Face checkpoints: jogak beside `transformers`, the same weights, taking turns.

A family's tiny configuration is scaled up (`--size`), drawn at random, saved, and read by jogak. Forward: logits of a
batch, nothing kept for gradients. Step: forward, cross-entropy, backward, fused AdamW, dropout as the configuration
says; where jogak trains a head without keeping its logits, it does so here. `parameters` counts both models alike.
`--load N`: reading a GPT-2 of N MB in float32, each time in a process of its own, with every number looked at once, and
the memory that this takes at its highest over what the weights weigh.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from _side_by_side import CLOCKS, circumstances, ratio, table, take_turns
from torch import Tensor, nn

from jogak import families
from jogak.hub.checkpoint import Checkpoint
from jogak.hub.read import read
from jogak.hub.verify import OUTPUTS
from jogak.models import Decoder, EncoderDecoder
from jogak.tasks._loss import token_loss

# Sizes by what the families call them; a field that a family's tiny configuration does not have stays as it is.
FIELDS = {
    "width": ("d_model", "hidden_size", "n_embd", "dim", "lru_width"),
    "inner": (
        "intermediate_size",
        "encoder_ffn_dim",
        "decoder_ffn_dim",
        "hidden_dim",
        "d_ff",
        "n_inner",
    ),
    "depth": (
        "num_hidden_layers",
        "encoder_layers",
        "decoder_layers",
        "n_layers",
        "n_layer",
        "num_layers",
        "num_decoder_layers",
    ),
    "heads": (
        "num_attention_heads",
        "encoder_attention_heads",
        "decoder_attention_heads",
        "n_heads",
        "n_head",
    ),
    "vocab": ("vocab_size", "decoder_vocab_size"),
}
SIZES = {
    "tiny": {"width": 64, "inner": 128, "depth": 4, "heads": 4, "vocab": 500, "batch": 2, "length": 32},
    "small": {"width": 256, "inner": 1024, "depth": 4, "heads": 8, "vocab": 4000, "batch": 4, "length": 128},
    "base": {"width": 768, "inner": 3072, "depth": 12, "heads": 12, "vocab": 30000, "batch": 2, "length": 128},
}
LONGEST, PATCH, SIDE, FRAMES, SAMPLES = 512, 16, 96, 200, 8000


def fields(name: str, size: dict[str, int]) -> tuple[str, dict[str, Any]]:
    """The first architecture of a family, and its configuration in this size."""
    architecture, tiny = next(iter(families.find(name).TINY.items()))
    return architecture, scaled(name, tiny, size)


def scaled(name: str, tiny: dict[str, Any], size: dict[str, int]) -> dict[str, Any]:
    given = {n: scaled(name, v, size) if n in ("text_config", "vision_config") else v for n, v in tiny.items()}
    if "chronos_config" in given:
        given["chronos_config"] = {**given["chronos_config"], "n_tokens": size["vocab"]}
    for kind, names in FIELDS.items():
        given |= {field: size[kind] for field in names if field in given}
    head = size["width"] // size["heads"]
    own = {
        "max_position_embeddings": LONGEST,
        "n_positions": LONGEST,
        "head_dim": head,
        "d_kv": head,
        "query_pre_attn_scalar": head,
        "num_key_value_heads": size["heads"] // 2,
        "sliding_window": 64,
        "attention_window_size": 64,
        "local_attention": 64,
        "chunk_size": 64,
        "state_size": 16 if name != "mamba2" else 64,
        "mamba_d_state": 16,
        "time_step_rank": math.ceil(size["width"] / 16),
        "mamba_dt_rank": math.ceil(size["width"] / 16),
        "conv_kernel": 4,
        "mamba_d_conv": 4,
        "conv1d_width": 4,
        "expand": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        "num_mel_bins": 80,
        "max_source_positions": FRAMES,
        "max_target_positions": LONGEST,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
    }
    lists = {"conv_kernel"}  # of waves: the filters of each layer
    given |= {n: v for n, v in own.items() if n in given and not (n in lists and isinstance(given[n], list | tuple))}
    if "num_heads" in given:  # of T5, and of Mamba-2, whose heads split its inner width
        given["num_heads"] = size["heads"] if name != "mamba2" else 2 * size["width"] // given["head_dim"]
    return given


def inputs(theirs: Any, size: dict[str, int]) -> tuple[list[Tensor], dict[str, Tensor], Tensor | None]:
    """What ours is given, what theirs is, and the targets of the loss; None: the mean of squares is the loss."""
    generator = torch.Generator().manual_seed(0)
    given, batch, length = theirs.config, size["batch"], size["length"]

    def ids(wide: int) -> Tensor:
        return torch.randint(10, getattr(given, "vocab_size", None) or 100, (batch, wide), generator=generator)

    kind = theirs.main_input_name
    pixels = torch.randn(batch, 3, SIDE, SIDE, generator=generator)
    if given.model_type == "clip":
        text = torch.randint(10, given.text_config.vocab_size, (batch, 16), generator=generator)
        return [pixels, text], {"pixel_values": pixels, "input_ids": text}, None
    if given.model_type == "clip_text_model":
        return [x := ids(16)], {kind: x}, None
    if given.model_type == "patchtst":
        x = torch.randn(batch, given.context_length, given.num_input_channels, generator=generator)
        return [x], {"past_values": x}, None
    if given.model_type == "wav2vec2":
        x = torch.randn(batch, SAMPLES, generator=generator)
        return [x], {kind: x}, None
    if kind == "pixel_values":
        labels = torch.randint(getattr(given, "num_labels", 2), (batch,), generator=generator)
        return [pixels], {kind: pixels}, labels if given.model_type != "clip_vision_model" else None
    x = ids(length) if kind == "input_ids" else torch.randn(batch, 80, 2 * FRAMES, generator=generator)
    if not given.is_encoder_decoder:
        return [x], {kind: x}, ids(length)
    target = ids(length // 2)
    return [x, target], {kind: x, "decoder_input_ids": target}, ids(length // 2)


def our_loss(model: nn.Module, given: list[Tensor], targets: Tensor | None) -> Tensor:
    """As the tasks have it where they train such a model: the logits of a plain head are never kept."""
    if not isinstance(model, Decoder) or targets is None:
        return mean_loss(model(*given), targets)
    if isinstance(model, EncoderDecoder):
        hidden, _ = model.hidden(given[1], None, model.read(given[0], None))
    else:
        hidden, _ = model.hidden(given[0])
    return token_loss(model, hidden.flatten(0, 1), targets.flatten(), 0.0)[0] / targets.numel()


def answer(found: Any) -> Tensor:
    """What theirs gives: logits, vectors, a forecast."""
    return next(found[name] for name in OUTPUTS if name in found)


def mean_loss(logits: Tensor, targets: Tensor | None) -> Tensor:
    if targets is None:
        return logits.float().square().mean()
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten())


def stepper(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """One training step."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return step


def compare(name: str, size: dict[str, int], options: argparse.Namespace) -> tuple[list[str], float, float]:
    """The table's row of a family, and the medians of both ratios."""
    architecture, given = fields(name, size)
    torch.manual_seed(0)
    model = getattr(transformers, architecture)
    configuration = model.config_class(**given)
    theirs = model(configuration).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = read(Checkpoint(Path(folder)), torch.float32).model
    x, named, targets = inputs(theirs, size)
    assert torch.allclose(ours(*x), answer(theirs(**named)), atol=1e-3, rtol=1e-3), name

    def forward(call: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            with torch.inference_mode():
                return call()

        return run

    caches = "use_cache" in configuration.to_dict() and {"input_ids", "decoder_input_ids"} & {*named}
    no_cache = {"use_cache": False} if caches else {}
    whole = {"jogak": forward(lambda: ours(*x)), "theirs": forward(lambda: theirs(**named, **no_cache))}
    once = take_turns(whole, options.rounds, options.clock)
    ours.train()
    theirs.train()
    steps = {
        "jogak": stepper(ours, lambda: our_loss(ours, x, targets)),
        "theirs": stepper(theirs, lambda: mean_loss(answer(theirs(**named, **no_cache)), targets)),
    }
    twice = take_turns(steps, options.rounds, options.clock)
    count = sum(p.numel() for p in ours.parameters())
    cells = [name, f"{count / 1e6:.1f}M"]
    medians = []
    for taken in (once, twice):
        cells += [f"{statistics.median(taken[side]) * 1e3:.1f}" for side in ("jogak", "theirs")]
        cells.append(ratio(taken["theirs"], taken["jogak"]))
        medians.append(statistics.median(b / a for a, b in zip(taken["jogak"], taken["theirs"], strict=True)))
    return cells, medians[0], medians[1]


# ---------------------------------------------------------------- loading

LOADING = """
import json, resource, sys, time
from pathlib import Path
import torch
if sys.argv[1] == "jogak":
    from jogak import api
    load = lambda: api.load(sys.argv[2], device="cpu").module
else:
    import transformers
    from transformers import GPT2LMHeadModel
    transformers.logging.disable_progress_bar()
    load = lambda: GPT2LMHeadModel.from_pretrained(sys.argv[2])
def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
before, begin = memory("VmRSS"), time.perf_counter()
model = load()
loaded = time.perf_counter() - begin
total = sum(float(p.detach().sum()) for p in model.parameters())
print(json.dumps({"loaded": loaded, "looked": time.perf_counter() - begin, "peak": memory("VmHWM") - before}))
"""


def loading(megabytes: int, rounds: int) -> str:
    """Loading in processes of their own, taking turns."""
    width = 768
    depth = max(1, round((megabytes * 1e6 / 4 - 50257 * width) / (12 * width * width)))
    with tempfile.TemporaryDirectory() as folder:
        configuration = transformers.GPT2Config(n_layer=depth)
        transformers.GPT2LMHeadModel(configuration).save_pretrained(folder)
        size = sum(f.stat().st_size for f in Path(folder).glob("*.safetensors"))
        found: dict[str, list[dict[str, float]]] = {"jogak": [], "transformers": []}
        for turn in range(rounds + 1):
            for side in list(found) if turn % 2 else list(found)[::-1]:
                arguments = [sys.executable, "-c", LOADING, side, folder]
                done = subprocess.run(arguments, capture_output=True, text=True, check=True)
                if turn:  # the first only fills the cache of the disk
                    found[side].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for side, runs in found.items():
        seconds = {key: [run[key] for run in runs] for key in ("loaded", "looked")}
        beside = [
            "" if side == "jogak" else ratio(seconds[key], [run[key] for run in found["jogak"]]) for key in seconds
        ]
        peak = max(run["peak"] for run in runs) / size
        cells = [f"{statistics.median(values):.2f}" for values in seconds.values()]
        rows.append([side, cells[0], beside[0], cells[1], beside[1], f"{peak:.2f}"])
    head = [f"{size / 1e6:.0f} MB", "loaded, s", "jogak is faster", "looked at, s", "jogak is faster", "peak / weights"]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--only", nargs="+", choices=families.names(), default=families.names())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--load", type=int, metavar="MB", default=500, help="0: do not measure loading")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, where others run besides")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows, forwards, steps = [], list[float](), list[float]()
    for name in options.only:
        row, forward, step = compare(name, SIZES[options.size], options)
        print(" ".join(row), file=sys.stderr, flush=True)
        rows.append(row)
        forwards.append(forward)
        steps.append(step)
    means = [f"{statistics.geometric_mean(values):.2f}" for values in (forwards, steps)]
    rows.append(["geometric mean", "", "", "", means[0], "", "", means[1]])
    head = ["family", "parameters", "forward, ms", "theirs", "jogak is faster", "step, ms", "theirs", "jogak is faster"]
    print(circumstances("transformers"))
    print()
    print(table(head, rows))
    if options.load:
        print()
        print(loading(options.load, options.rounds))


if __name__ == "__main__":
    main()
