"""Layers whose matrices are kept in fewer bits, and models that are made of them.

A matrix whose inputs are no multiple of 32, or that has fewer than 32 outputs, stays as it is, and so do norms,
convolutions and whatever else is no matrix of a layer.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from jogak.errors import UserError
from jogak.ops import quantised
from jogak.ops.quantised import Kind, Packed

LEAST = 32  # outputs


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
        self._flat: tuple[int, tuple[Any, Any]] | None = None

    @property
    def out_features(self) -> int:
        return self.matrix.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if quantised.fuses(rows):
            y = quantised.fused(rows, self.packed, self.kind, self._arrays())
        else:
            y = quantised.unpacked(rows, self.packed, self.kind)
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], y.shape[-1])

    def _arrays(self) -> tuple[Any, Any]:
        """Arrays over the matrix, made once as long as it stays where it is."""
        place = self.matrix.data_ptr()
        if self._flat is None or self._flat[0] != place:
            self._flat = (place, quantised.flatten(self.packed))
        return self._flat[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_flat": None}


class QuantisedEmbedding(_Packed):
    """ids [...] -> rows of a packed matrix [V D], as float32; a tied head reads the same memory."""

    @property
    def num_embeddings(self) -> int:
        return self.matrix.shape[0]

    def forward(self, ids: Tensor) -> Tensor:
        flat = ids.flatten()
        scales = self.scales if self.kind == "bfloat16" else self.scales[flat]
        return quantised.unpack(Packed(self.matrix[flat], scales), self.kind).view(*ids.shape, -1)


def quantise(model: nn.Module, kind: Kind) -> None:
    """Replace the matrices of a model by packed ones, in place; on the meta device by room for them.

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
            empty = quantised.empty(kind, *weight.shape, device="meta")
            made[id(weight)] = empty if weight.is_meta else quantised.pack(weight.detach(), kind)
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
    return next((kind for kind in ("int4", "int8", "bfloat16") if kind in kinds), None)
