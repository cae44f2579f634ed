"""What a model would cost, found by running it on the meta device, where tensors have shapes and no numbers.

Legend: B batch, T length, D model width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from jogak import config
from jogak.errors import UserError
from jogak.layers.inputs import Input
from jogak.models import Decoder, EncoderDecoder, build, parameter_count
from jogak.models._light import without_compiler

OPTIMISER_BYTES = 16  # float32 weight, gradient, and AdamW's two moments, for each parameter
FLOAT = 4  # bytes


def _fused(q: torch.Size, k: torch.Size, v: torch.Size, *_: object, **__: object) -> int:
    return sdpa_flop_count(q, (*q[:2], *k[2:]), (*q[:2], *v[2:]))


def _fused_backward(dy: torch.Size, q: torch.Size, k: torch.Size, v: torch.Size, *_: object, **__: object) -> int:
    return sdpa_backward_flop_count(dy, q, (*q[:2], *k[2:]), (*q[:2], *v[2:]))


# Kernels that torch does not count by itself; grouped heads count like as many as there are queries.
COUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _fused_backward,
}
Side = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Cost:
    """Costs of one example of `length` units on each side.

    parameters: learned numbers, tied ones once. embeddings: those of them in embedding tables. forward_flops and
    training_flops: multiplications and additions counted separately, training = forward and backward.
    decoding_flops: of one more unit after `length`. activation_bytes: what the backward pass needs kept, in float32;
    checkpoint_bytes: the same with gradient checkpointing, what every block reads and all of one period of blocks.
    state_bytes: what decoding carries after `length` units, in float32.
    """

    length: int
    parameters: int
    embeddings: int
    forward_flops: int
    training_flops: int
    decoding_flops: int
    activation_bytes: int
    checkpoint_bytes: int
    state_bytes: int

    @property
    def training_bytes(self) -> int:
        """Weights, gradients and optimiser in float32, without activations."""
        return OPTIMISER_BYTES * self.parameters

    @property
    def int4_bytes(self) -> int:
        """Weights whose matrices are int4, five bits each with scales and offsets, and whose tables are int8."""
        return self.embeddings + (self.parameters - self.embeddings) * 5 // 8


def cost(given: config.Model, length: int, vocab_size: int | None = None) -> Cost:
    """The cost of one example; nothing of the model's size is allocated.

    Blocks that repeat are run twice and counted as often as they are there, for a cost is a sum over blocks.

    Raises: UserError for a length that the model's table of positions does not have.
    """
    if given.towers is not None:
        first, second = (cost(tower, min(length, tower.max_length)) for tower in given.towers)
        return _both(first, second, length)
    if given.position == "learned" and length > given.max_length:
        raise UserError(f"{length} units are more than the {given.max_length} positions that the model has learned")
    with without_compiler():
        return _counted(given, length, vocab_size)


def _counted(given: config.Model, length: int, vocab_size: int | None) -> Cost:
    repeats: dict[Side, tuple[int, int]] = {side: _repeats(given, side) for side in _sides(given)}
    once: dict[Side, int] = dict.fromkeys(repeats, 1)
    found = _measure(_shortened(given, once), length, vocab_size)
    total = found
    for side, (period, count) in repeats.items():
        if count > 1:
            twice: dict[Side, int] = {**once, side: 2}
            more = _measure(_shortened(given, twice), length, vocab_size)
            total = _plus(total, more, found, count - 1)
            inputs = (count - 1) * period * length * given.width * FLOAT
            total = _replace_checkpoints(total, total.checkpoint_bytes + inputs)
    return _replace_checkpoints(total, min(total.checkpoint_bytes, total.activation_bytes))


def _both(first: Cost, second: Cost, length: int) -> Cost:
    """Of two towers, and the number that their comparison is scaled by."""
    names = [f.name for f in fields(Cost) if f.name != "length"]
    sums = {n: getattr(first, n) + getattr(second, n) for n in names}
    return Cost(length=length, **sums | {"parameters": sums["parameters"] + 1})


def _sides(given: config.Model) -> tuple[Side, ...]:
    return tuple(side for side in ("encoder", "decoder") if side in given.topology.split("-"))


def _repeats(given: config.Model, side: Side) -> tuple[int, int]:
    """After how many blocks a stack's pattern begins again, and how often it is there in full."""
    stack = given.stack(side)
    period = math.lcm(len(stack.pattern), len(stack.feedforwards or (None,)))
    if given.handover != "memory":  # both sides must stay equally deep
        return max(1, stack.depth), 1
    return period, stack.depth // period


def _shortened(given: config.Model, wanted: Mapping[Side, int]) -> config.Model:
    """The model with its pattern so many times in full in each stack, and what is left over of it as it was."""
    changes: dict[str, config.Stack] = {}
    for side, times in wanted.items():
        stack, (period, count) = given.stack(side), _repeats(given, side)
        depth = stack.depth - max(0, count - times) * period
        changes[side] = (getattr(given, side) or config.Stack()).model_copy(update={"depth": depth})
    return given.model_copy(update=changes)


def _plus(total: Cost, more: Cost, less: Cost, times: int) -> Cost:
    """total + times (more - less), but for the length and what checkpoints keep."""
    kept = ("length", "checkpoint_bytes")
    names = [f.name for f in fields(Cost) if f.name not in kept]
    sums = {n: getattr(total, n) + times * (getattr(more, n) - getattr(less, n)) for n in names}
    return Cost(length=total.length, checkpoint_bytes=total.checkpoint_bytes, **sums)


def _replace_checkpoints(given: Cost, size: int) -> Cost:
    return Cost(**{f.name: getattr(given, f.name) for f in fields(Cost)} | {"checkpoint_bytes": size})


def _measure(given: config.Model, length: int, vocab_size: int | None) -> Cost:
    """The cost of a model, every block of it run."""
    model = build(given, vocab_size, device="meta")
    ids = torch.zeros(1, length, dtype=torch.int64, device="meta")
    source = _source(given, model, ids)
    inputs = (source, ids) if isinstance(model, EncoderDecoder) else (source,)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
        held.append(tensor)
        return tensor

    held: list[Tensor] = []  # so that no storage's id is used twice
    weights = {id(p.untyped_storage()) for p in model.parameters()}
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as forward, saved_tensors_hooks(keep, lambda t: t):
        logits = model(*inputs)
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as backward:
        logits.backward(torch.empty_like(logits))
    activations = sum(size for storage, size in kept.items() if storage not in weights)
    decoding, state = _decoding(model, ids, source)
    return Cost(
        length=length,
        parameters=parameter_count(model),
        embeddings=sum(m.weight.numel() for m in _tables(model)),
        forward_flops=forward.get_total_flops(),
        training_flops=forward.get_total_flops() + backward.get_total_flops(),
        decoding_flops=decoding,
        activation_bytes=activations,
        checkpoint_bytes=activations,
        state_bytes=state,
    )


def _source(given: config.Model, model: torch.nn.Module, ids: Tensor) -> Tensor:
    """What the first stack reads: ids, or one of the raw inputs that it is made for (a picture, a sound)."""
    if given.input is None:
        return ids
    made = next(m for name, m in model.named_modules() if name.rpartition(".")[2] == "input")
    assert isinstance(made, Input)
    return made.example(1).to("meta")


def _tables(model: torch.nn.Module) -> list[torch.nn.Embedding]:
    """Embedding tables, each once however many places use it."""
    found = {id(m.weight): m for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    return list(found.values())


@torch.no_grad()
def _decoding(model: torch.nn.Module, ids: Tensor, source: Tensor) -> tuple[int, int]:
    """FLOPs of one more unit behind ids, and the bytes of the state before it; zeros where nothing is decoded."""
    if not isinstance(model, Decoder):
        return 0, 0
    context = (model.read(source),) if isinstance(model, EncoderDecoder) else ()
    _, state = model.decode(ids, None, *context)
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        model.decode(ids[:, :1], state, *context)
    return counter.get_total_flops(), state.nbytes
