"""What a model would cost, found by running it on the meta device, where tensors have shapes and no numbers.

Legend: B batch, T length, D model width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from jogak import config
from jogak.models import Decoder, EncoderDecoder, build, parameter_count

OPTIMISER_BYTES = 16  # float32 weight, gradient, and AdamW's two moments, for each parameter


@dataclass(frozen=True)
class Cost:
    """Costs of one example of `length` units on each side.

    parameters: learned numbers, tied ones once. embeddings: those of them in embedding tables. forward_flops and
    training_flops: multiplications and additions counted separately, training = forward and backward.
    activation_bytes: what the backward pass needs kept, in float32. state_bytes: what decoding carries after
    `length` units, in float32.
    """

    length: int
    parameters: int
    embeddings: int
    forward_flops: int
    training_flops: int
    activation_bytes: int
    state_bytes: int

    @property
    def training_bytes(self) -> int:
        """Weights, gradients and optimiser in float32, without activations."""
        return OPTIMISER_BYTES * self.parameters


def cost(given: config.Model, length: int, vocab_size: int | None = None) -> Cost:
    """The cost of one example; nothing of the model's size is allocated."""
    model = build(given, vocab_size, device="meta")
    ids = torch.zeros(1, length, dtype=torch.int64, device="meta")
    inputs = (ids, ids) if isinstance(model, EncoderDecoder) else (ids,)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
        held.append(tensor)
        return tensor

    held: list[Tensor] = []  # so that no storage's id is used twice
    weights = {id(p.untyped_storage()) for p in model.parameters()}
    with FlopCounterMode(display=False) as forward, saved_tensors_hooks(keep, lambda t: t):
        logits = model(*inputs)
    with FlopCounterMode(display=False) as backward:
        logits.backward(torch.empty_like(logits))
    return Cost(
        length=length,
        parameters=parameter_count(model),
        embeddings=sum(m.weight.numel() for m in _tables(model)),
        forward_flops=forward.get_total_flops(),
        training_flops=forward.get_total_flops() + backward.get_total_flops(),
        activation_bytes=sum(size for storage, size in kept.items() if storage not in weights),
        state_bytes=_state_bytes(model, ids),
    )


def _tables(model: torch.nn.Module) -> list[torch.nn.Embedding]:
    """Embedding tables, each once however many places use it."""
    found = {id(m.weight): m for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    return list(found.values())


def _state_bytes(model: torch.nn.Module, ids: Tensor) -> int:
    if not isinstance(model, Decoder):
        return 0
    with torch.no_grad():
        if isinstance(model, EncoderDecoder):
            return model.decode(ids, None, model.read(ids))[1].nbytes
        return model.decode(ids)[1].nbytes
