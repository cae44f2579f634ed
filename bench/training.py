"""Training speed of the 2017 Transformer: jogak, `transformers`' MarianMT and `torch.nn.Transformer`, taking turns.

All three: the same sizes, post-norm, tied embeddings, sinusoids, dropout 0.1 on embeddings and sublayers, label
smoothing 0.1, gradients clipped to norm 1, fused AdamW, the same batches. Lengths are drawn at random (units that
no model can learn cost as much as others): all of one length, or log-normal as in short interface strings, in
batches of like lengths. Each runs in a process of its own, as it would be used: jogak's training keeps the memory that
a step frees; `memory kept` is MarianMT with that done for it. `share` is the share of this machine's measured
matrix-product limit, counting 6 FLOPs for each weight that a real position meets, and attention's products; padding
counts for nothing.
"""

import argparse
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import _marian
import torch
import torch.nn.functional as F
from _side_by_side import CLOCKS, PRECISIONS, Apart, circumstances, gemm_peak, ratio, table, take_turns
from torch import Tensor, nn

from jogak import config, models
from jogak.data import batch as data
from jogak.layers.position import Sinusoidal
from jogak.models import EncoderDecoder
from jogak.tasks.translate import pair_loss
from jogak.training import optimiser
from jogak.training.machine import keep_freed_memory

SMOOTHING, DROPOUT, IGNORE = 0.1, 0.1, -100


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and of its batches: `positions` padded places of source and target, `length` units a side."""

    width: int
    depth: int
    inner: int
    heads: int
    vocab: int
    positions: int
    length: int


SHAPES = {
    "demo": Shape(width=256, depth=3, inner=1024, heads=4, vocab=4000, positions=1000, length=9),
    "base": Shape(width=512, depth=6, inner=2048, heads=8, vocab=8000, positions=2000, length=24),
    "tiny": Shape(width=32, depth=1, inner=64, heads=2, vocab=50, positions=60, length=5),
}


@dataclass(frozen=True)
class Batch:
    """source [B S], ids and targets [B T]; masks are None where nothing is padded. Targets lie behind ids by one."""

    source: Tensor
    source_mask: Tensor | None
    ids: Tensor
    mask: Tensor | None
    targets: Tensor

    @property
    def real(self) -> tuple[Tensor, Tensor]:
        """Real positions of each row's source and target, [B]."""
        sides = ((self.source, self.source_mask), (self.ids, self.mask))
        lengths = [torch.full((len(i),), i.shape[1]) if m is None else m.sum(1) for i, m in sides]
        return lengths[0], lengths[1]


def build(shape: Shape) -> EncoderDecoder:
    """The 2017 Transformer of this shape."""
    attention = {"name": "attention", "heads": shape.heads}
    stack = {"depth": shape.depth, "pattern": [attention], "feedforward": {"width": shape.inner}}
    sides = {"encoder": stack, "decoder": {**stack, "cross": attention}}
    given = config.validate(config.Model, {"width": shape.width, "dropout": DROPOUT, **sides}, "bench", {})
    model = models.build(given, shape.vocab)
    assert isinstance(model, EncoderDecoder)
    return model


class Plain(nn.Module):
    """The same model of torch's own modules, used with care: boolean masks only where something is padded."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.table = nn.Embedding(shape.vocab, shape.width)
        nn.init.normal_(self.table.weight, std=shape.width**-0.5)
        self.body = nn.Transformer(
            shape.width, shape.heads, shape.depth, shape.depth, shape.inner, DROPOUT, batch_first=True
        )
        # torch adds norms after the stacks, which a post-norm Transformer lacks, and drops attention weights and
        # the feedforward's inside, which the other two do not.
        self.body.encoder.norm = self.body.decoder.norm = None
        for module in self.body.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
            if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
                module.dropout = nn.Identity()
        self.dropout = nn.Dropout(DROPOUT)
        self.register_buffer("sinusoids", Sinusoidal(shape.width)(torch.arange(512).unsqueeze(0)), persistent=False)

    def embed(self, ids: Tensor) -> Tensor:
        scaled = self.table(ids) * math.sqrt(self.table.embedding_dim)
        return self.dropout(scaled + self.sinusoids[:, : ids.shape[1]])

    def forward(self, batch: Batch) -> Tensor:
        hidden = None if batch.source_mask is None else ~batch.source_mask
        length = batch.ids.shape[1]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        y = self.body(
            self.embed(batch.source),
            self.embed(batch.ids),
            tgt_mask=later,
            src_key_padding_mask=hidden,
            memory_key_padding_mask=hidden,
            tgt_is_causal=True,
        )
        return F.linear(y, self.table.weight)


def our_batch(batch: Batch) -> data.Batch:
    source, ids = data.Units(batch.source, batch.source_mask), data.Units(batch.ids, batch.mask)
    return data.Batch(ids, batch.targets, source)


def our_loss(model: EncoderDecoder, batch: data.Batch) -> Tensor:
    return pair_loss(model, batch, SMOOTHING)[0] / batch.real_targets


def smoothed(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, label_smoothing=SMOOTHING)


def marian_loss(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(
        input_ids=batch.source, attention_mask=batch.source_mask, decoder_input_ids=batch.ids, use_cache=False
    ).logits
    return smoothed(logits, batch.targets)


def trainer(
    model: nn.Module,
    loss: Callable[[Any], Tensor],
    batches: Sequence[Batch | data.Batch],
    precision: str,
    clip: Callable[[torch.optim.AdamW, float], object],
) -> Callable[[], None]:
    """One pass over the batches, an update each."""
    given = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(given, lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)

    def run() -> None:
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                value = loss(batch)
            value.backward()
            clip(adam, 1.0)
            adam.step()
            adam.zero_grad(set_to_none=True)

    return run


def torch_clip(optimiser: torch.optim.AdamW, limit: float) -> None:
    """As torch's documentation has it."""
    nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], limit)


def lengths(shape: Shape, mixed: bool, seed: int) -> list[tuple[int, int]]:
    """Lengths of many pairs: all the same, or log-normal, the target's near the source's."""
    if not mixed:
        return [(shape.length, shape.length)] * 4000
    draw = random.Random(seed)
    found = []
    for _ in range(4000):
        source = min(max(round(draw.lognormvariate(math.log(shape.length * 0.8), 0.65)), 2), 8 * shape.length)
        found.append((source, max(2, round(source * draw.uniform(0.7, 1.4)))))
    return sorted(found, key=lambda pair: (max(pair), sum(pair)))


def batches(shape: Shape, mixed: bool, count: int, seed: int) -> list[Batch]:
    """Some batches of like lengths with at most `positions` padded places, drawn from all over an epoch."""
    groups: list[list[tuple[int, int]]] = [[]]
    for pair in lengths(shape, mixed, seed):
        widest = [max(p[side] for p in (*groups[-1], pair)) for side in (0, 1)]
        if groups[-1] and sum(widest) * (len(groups[-1]) + 1) > shape.positions:
            groups.append([])
        groups[-1].append(pair)
    chosen = random.Random(seed).sample(groups[:-1], count)
    random_ids = torch.Generator().manual_seed(seed)
    return [_batch(shape, group, random_ids) for group in chosen]


def _batch(shape: Shape, pairs: list[tuple[int, int]], generator: torch.Generator) -> Batch:
    source, target = ([p[side] for p in pairs] for side in (0, 1))
    (source_ids, source_mask), (ids, mask) = (_ids(shape, side, generator) for side in (source, target))
    targets = _ids(shape, target, generator)[0]
    targets = targets if mask is None else targets.masked_fill(~mask, IGNORE)
    return Batch(source_ids, source_mask, ids, mask, targets)


def _ids(shape: Shape, sizes: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    mask = torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1)
    ids = torch.randint(3, shape.vocab, mask.shape, generator=generator)
    return (ids, None) if bool(mask.all()) else (ids.masked_fill(~mask, _marian.PAD), mask)


def flops(model: EncoderDecoder, shape: Shape, given: list[Batch]) -> float:
    """FLOPs of training on the batches' real positions: backward is twice forward."""
    cross = sum(p.numel() for n, p in model.named_parameters() if ".cross.kv." in n)
    encoder = sum(p.numel() for p in model.encoder.stack.parameters()) + cross
    decoder = sum(p.numel() for p in model.decoder.stack.parameters()) - cross
    total = 0.0
    for batch in given:
        s, t = (length.double() for length in batch.real)
        weights = encoder * s.sum() + (decoder + shape.vocab * shape.width) * t.sum()
        # scores and their sum over values, 2 D each a pair: source with itself, target with half of itself, and both
        pairs = 2 * shape.width * shape.depth * (s * s + t * (t + 1) / 2 + s * t).sum()
        total += 6.0 * float(weights) + 6.0 * float(pairs)
    return total


def _jogak(shape: Shape, given: list[Batch], precision: str, seed: int) -> Callable[[], None]:
    keep_freed_memory()  # as jogak.training does before its first step
    torch.manual_seed(seed)
    model = build(shape)
    ours = [our_batch(batch) for batch in given]
    return trainer(model, lambda b: our_loss(model, b), ours, precision, optimiser.clip)


def _marian_mt(shape: Shape, given: list[Batch], precision: str, seed: int, keeps: bool) -> Callable[[], None]:
    if keeps:
        keep_freed_memory()
    torch.manual_seed(seed)
    model = _marian.like(build(shape)).train()
    return trainer(model, lambda b: marian_loss(model, b), given, precision, torch_clip)


def _plain(shape: Shape, given: list[Batch], precision: str, seed: int) -> Callable[[], None]:
    torch.manual_seed(seed)
    model = Plain(shape)
    return trainer(model, lambda b: smoothed(model(b), b.targets), given, precision, torch_clip)


def compare(shape: Shape, mixed: bool, options: argparse.Namespace) -> list[list[str]]:
    """The table's rows for one kind of batches, in all precisions."""
    rows = []
    given = batches(shape, mixed, options.batches, options.seed)
    real = sum(int(length.sum()) for b in given for length in b.real)
    for precision in options.precisions:
        common = (shape, given, precision, options.seed)
        programs = {
            "jogak": Apart(options.clock, _jogak, *common),
            "MarianMT": Apart(options.clock, _marian_mt, *common, False),
            "MarianMT, memory kept": Apart(options.clock, _marian_mt, *common, True),
            "nn.Transformer": Apart(options.clock, _plain, *common),
        }
        try:
            taken = take_turns(programs, options.rounds, options.clock)
        finally:
            for program in programs.values():
                program.close()
        peak = gemm_peak(PRECISIONS[precision], options.clock)
        work = flops(build(shape), shape, given)
        for name, seconds in taken.items():
            rate = real / statistics.median(seconds)
            share = work / statistics.median(seconds) / peak
            compared = "" if name == "jogak" else ratio(seconds, taken["jogak"])
            kind = "log-normal" if mixed else "all equal"
            rows.append([f"{options.shape}, {kind}, {precision}", name, f"{rate:,.0f}", f"{share:.0%}", compared])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="demo")
    parser.add_argument("--vocab", type=int, help="units of the vocabulary, where not the shape's own")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--batches", type=int, default=6, help="updates in one turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, where others run besides")
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    shape = shape if options.vocab is None else replace(shape, vocab=options.vocab)
    rows = [row for mixed in (False, True) for row in compare(shape, mixed, options)]
    head = ["shape, lengths, precision", "program", "real tokens/s", "share of GEMM limit", "jogak is faster by"]
    print(table(head, rows))
    print(f"\n{shape}. Medians of {options.rounds} turns of {options.batches} updates; least and most of the pairs.")
    print(circumstances("transformers"))


if __name__ == "__main__":
    main()
