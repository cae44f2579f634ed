"""Layers whose matrices are kept in fewer bits, and models that are made of them.

A matrix whose inputs are no multiple of 32, or that has fewer than 32 outputs, stays as it is, and so do norms,
convolutions and whatever else is no matrix of a layer.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from jogak.errors import UserError
from jogak.ops import quantised
from jogak.ops.quantised import Kind, Packed

LEAST = 32  # outputs
KINDS: tuple[Kind, ...] = ("int4", "int8", "bfloat16")  # the smallest first


class _Packed(nn.Module):
    """A packed matrix, which moves between devices and is never converted."""

    matrix: Tensor
    scales: Tensor

    def __init__(self, kind: Kind, packed: Packed) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.register_buffer("matrix", packed.matrix)
        self.register_buffer("scales", packed.scales)

    @property
    def packed(self) -> Packed:
        return Packed(self.matrix, self.scales)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_Packed":  # torch's
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)

    def extra_repr(self) -> str:
        return f"{self.kind}, {list(self.matrix.shape)}"


class QuantisedLinear(_Packed):
    """y = x W^T + b: [... K] -> [... N], W in fewer bits (see ops.quantised); it does not learn."""

    bias: Tensor | None

    def __init__(self, kind: Kind, packed: Packed, bias: Tensor | None) -> None:
        super().__init__(kind, packed)
        self.register_buffer("bias", bias)
        self._arrays = quantised.Arrays()

    @property
    def out_features(self) -> int:
        return self.matrix.shape[0]

    @property
    def in_features(self) -> int:
        return self.matrix.shape[1] * (2 if self.kind == "int4" else 1)

    def arrays(self) -> tuple[Any, Any, Any]:
        """What compiled products read: see ops.quantised.Arrays."""
        return self._arrays.of(Packed(self.matrix, self.scales), self.bias)

    def forward(self, x: Tensor) -> Tensor:
        packed = Packed(self.matrix, self.scales)
        if quantised.fuses(x, self.kind):
            return quantised.fused(x, packed, self.kind, self.bias, self._arrays)
        y = quantised.unpacked(x.reshape(-1, x.shape[-1]), packed, self.kind)
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], y.shape[-1])


class QuantisedEmbedding(_Packed):
    """ids [...] -> rows of a packed matrix [V D], as float32; a tied head reads the same memory."""

    @property
    def num_embeddings(self) -> int:
        return self.matrix.shape[0]

    def forward(self, ids: Tensor) -> Tensor:
        flat = ids.flatten()
        scales = self.scales if self.kind == "bfloat16" else self.scales[flat]
        return quantised.unpack(Packed(self.matrix[flat], scales), self.kind).view(*ids.shape, -1)


def quantise(model: nn.Module, kind: Kind, *, numbers: bool = True) -> None:
    """Replace the matrices of a model by packed ones, in place; without numbers, by room for them.

    Tables of units, and what is tied to them, are int8 where the kind is int4: their rows are read one at a time, and
    the head decides between units. Everything else becomes float32.

    Raises: UserError for numbers that are not finite.
    """
    if is_quantised(model) is not None:
        raise UserError(f"the model is {is_quantised(model)} already; load it as it was before")
    made: dict[int, Packed] = {}
    owners = [(owner, name, child) for owner in model.modules() for name, child in owner.named_children()]
    tables = {id(child.weight) for _, _, child in owners if isinstance(child, nn.Embedding)}

    def pack(weight: Tensor, kind: Kind) -> Packed:
        if id(weight) not in made:
            fresh = numbers and not weight.is_meta
            room = quantised.empty(kind, weight.shape[0], weight.shape[1], weight.device)
            made[id(weight)] = quantised.pack(weight.detach(), kind) if fresh else room
        return made[id(weight)]

    for owner, name, child in owners:
        if not isinstance(child, nn.Embedding | nn.Linear) or not _fits(child.weight):
            continue
        wanted: Kind = "int8" if kind == "int4" and id(child.weight) in tables else kind
        if isinstance(child, nn.Embedding):
            setattr(owner, name, QuantisedEmbedding(wanted, pack(child.weight, wanted)))
        else:
            bias = None if child.bias is None else child.bias.detach().float()
            setattr(owner, name, QuantisedLinear(wanted, pack(child.weight, wanted), bias))
    for module in model.modules():
        if not isinstance(module, _Packed):
            module._apply(lambda t: t.float() if t.is_floating_point() else t, recurse=False)
    model.requires_grad_(False)


def _fits(weight: Tensor) -> bool:
    return quantised.fits(weight.shape[1]) and weight.shape[0] >= LEAST


def is_quantised(model: nn.Module) -> Kind | None:
    """What the matrices of a model are kept in: the smallest that any has; None: as they were learned."""
    kinds = {m.kind for m in model.modules() if isinstance(m, QuantisedLinear)}
    return next((kind for kind in KINDS if kind in kinds), None)


def kind_of(metadata: Mapping[str, str], where: Path) -> Kind | None:
    """What the metadata of a file of tensors says that its matrices are kept in; `where` is what errors name.

    Raises: UserError for a kind that is not known.
    """
    told = metadata.get("dtype")
    if told is None:
        return None
    for kind in KINDS:
        if kind == told:
            return kind
    raise UserError(f"{where}: its matrices are {told}, which this jogak does not read; install a newer one")
