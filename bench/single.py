"""One sequence at a time: how fast a language model writes in bfloat16, int8 and int4, beside its peers.

Writing a unit reads every weight once, so that the most that a machine can do is its memory's bandwidth over the
model's bytes: `of memory` is the share of that, with the bandwidth measured in the same run by adding up 256 MiB.
Random weights of GPT-2's (124M) or Mamba's (130M) published shape, the same for all programs; a prompt of 16 units,
then greedy, with no end mark. CTranslate2 has int8 for GPT-2 only. Each program runs in a process of its own: threads
that one leaves spinning would take the other's cores.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _side_by_side import Apart, circumstances, ratio, table, take_turns
from safetensors.torch import save_file

import jogak
from jogak import config, models
from jogak.families import gpt2, mamba
from jogak.hub import keymap
from jogak.hub.pretrained import Pretrained

SHAPES = {"gpt-2": gpt2, "mamba-130m": mamba}
PROMPT = 16


def checkpoint(shape: str, folder: Path, seed: int) -> None:
    """A model of the shape as transformers would have saved it, with a tokenizer whose words are the ids."""
    given, family = config.read_preset(shape), SHAPES[shape]
    torch.manual_seed(seed)
    model = models.build(given)
    fields = {**family.write_config(given), "bos_token_id": 0, "eos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(fields))
    theirs = keymap.their_tensors(model, family.table(given), prefixed=True)
    save_file({n: t.detach().contiguous() for n, t in theirs.items()}, folder / "model.safetensors", {"format": "pt"})
    words = {str(i): i for i in range(given.vocab_size or 0)}
    tokenizer = {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": words, "unk_token": "0"}}
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "0", "bos_token": "0", "eos_token": "0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def jogaks(folder: Path, dtype: str, ids: torch.Tensor, units: int) -> Callable[[], object]:
    model = jogak.load(folder, dtype=dtype, device="cpu")
    assert isinstance(model, Pretrained)
    return lambda: model.generate(ids, units, end=-1)


def weights(folder: Path, dtype: str) -> int:
    """Bytes of jogak's weights."""
    module = jogak.load(folder, dtype=dtype, device="cpu").module
    return sum({t.data_ptr(): t.nbytes for t in [*module.parameters(), *module.buffers()]}.values())


def transformers(folder: Path, ids: torch.Tensor, units: int) -> Callable[[], object]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    model.generation_config.eos_token_id = None

    def run() -> None:
        with torch.inference_mode():
            found = model.generate(ids, max_new_tokens=units, do_sample=False, pad_token_id=0)
        assert found.shape[1] == ids.shape[1] + units

    return run


def ctranslate2(folder: Path, out: Path, ids: torch.Tensor, units: int) -> Callable[[], object]:
    import ctranslate2 as library

    library.converters.TransformersConverter(str(folder)).convert(str(out), quantization="int8")
    threads = torch.get_num_threads()
    model = library.Generator(str(out), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads)
    prompt = [str(i) for i in ids[0].tolist()]

    def run() -> None:
        found = model.generate_batch(
            [prompt], max_length=units, min_length=units, sampling_topk=1, include_prompt_in_result=False
        )
        assert len(found[0].sequences_ids[0]) == units

    return run


def bandwidth(seconds: float = 1.0) -> float:
    """Bytes that memory gives in a second to all threads."""
    numbers, best = torch.ones(1 << 26), float("inf")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        begin = time.perf_counter()
        numbers.sum()
        best = min(best, time.perf_counter() - begin)
    return numbers.nbytes / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="gpt-2")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "int8", "int4"])
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint(options.shape, folder, options.seed)
        ids = torch.randint(50_000, (1, PROMPT), generator=torch.Generator().manual_seed(options.seed))
        given = (ids, options.units)
        programs = {f"jogak {dtype}": Apart("wall", jogaks, folder, dtype, *given) for dtype in options.dtypes}
        sizes = {f"jogak {dtype}": weights(folder, dtype) for dtype in options.dtypes}
        programs["transformers bfloat16"] = Apart("wall", transformers, folder, *given)
        if options.shape == "gpt-2":
            programs["CTranslate2 int8"] = Apart("wall", ctranslate2, folder, folder / "ctranslate2", *given)
        try:
            taken = take_turns(programs, options.rounds)
        finally:
            for program in programs.values():
                program.close()
        memory = bandwidth()
    theirs, rows = taken["transformers bfloat16"], []
    for program, seconds in taken.items():
        each = statistics.median(seconds) / options.units
        share = f"{sizes[program] / each / memory:.0%}" if program in sizes else ""
        compared = "" if seconds is theirs else ratio(theirs, seconds)
        size = f"{sizes[program] / 2**20:,.0f}" if program in sizes else ""
        rows.append([f"{options.shape}, {program}", f"{1 / each:,.1f}", size, share, compared])
    print(table(["shape, program", "units/s", "MiB", "of memory", "times transformers bfloat16"], rows))
    print(f"\n{options.units} units after {PROMPT}, one sequence; memory {memory / 1e9:.1f} GB/s.")
    print(f"Medians of {options.rounds} turns; least and most of the pairs.")
    print(circumstances("transformers", "ctranslate2"))


if __name__ == "__main__":
    main()
