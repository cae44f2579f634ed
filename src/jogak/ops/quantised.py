"""Matrices kept in fewer bits than they are computed with: y = x W^T with W of bfloat16, int8 or int4.

int8: W_nk = s_n q_nk with whole q in [-127, 127]. int4: W_nk = s_ng q_nk + z_ng with q in [0, 15], s and z in
bfloat16 for each group g of 32 columns; byte i of a group holds its number i in the low half and i + 16 in the high.

`reference` computes in float64 with the numbers that W stands for; `unpacked` makes W in float32 and multiplies;
`fused` makes it in registers, for a few rows on a CPU; `auto` is the faster one. Nothing here gives a gradient to W.

Sources: Dettmers et al. 2022 (2208.07339) section 2 for rows; Frantar et al. 2023 (2210.17323) section 4 for groups.
Legend: M rows of x, N outputs, K inputs, G = K / 32 groups.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from jogak.errors import UserError
from jogak.ops._compiled import AVAILABLE

Kind = Literal["bfloat16", "int8", "int4"]
Form = Literal["float32", "bfloat16", "int8", "int4"]
GROUP = 32  # K must be a multiple of it
# Rows of x up to which `fused` is the faster form; of plain matrices, faster than torch's products.
FEW: dict[Form, int] = {"float32": 8, "bfloat16": 3, "int8": 16, "int4": 16}
SHRUNK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)  # of a group's range, of which the one with least error is taken
ROWS = 4096  # of a matrix that are packed at once


class Packed(NamedTuple):
    """matrix: bfloat16 [N K], int8 [N K] or uint8 [N K/2]; scales: float32 [N], bfloat16 [N G 2] (s, z), or empty."""

    matrix: Tensor
    scales: Tensor


def fits(columns: int) -> bool:
    """Whether a matrix of so many inputs can be packed."""
    return columns % GROUP == 0 and columns > 0


def empty(kind: Kind, rows: int, columns: int, device: torch.device | str = "cpu") -> Packed:
    """Room for a packed matrix [N K]."""
    if kind == "bfloat16":
        return Packed(torch.empty(rows, columns, dtype=torch.bfloat16, device=device), torch.empty(0, device=device))
    if kind == "int8":
        return Packed(torch.empty(rows, columns, dtype=torch.int8, device=device), torch.empty(rows, device=device))
    scales = torch.empty(rows, columns // GROUP, 2, dtype=torch.bfloat16, device=device)
    return Packed(torch.empty(rows, columns // 2, dtype=torch.uint8, device=device), scales)


def pack(weight: Tensor, kind: Kind) -> Packed:
    """The nearest numbers to a matrix [N K] that the kind can hold.

    Raises: UserError for a number of columns that does not fit, or numbers that are not finite.
    """
    if not fits(weight.shape[1]):
        raise UserError(f"a matrix of {weight.shape[1]} columns cannot be {kind}: a multiple of {GROUP} is needed")
    if not bool(weight.isfinite().all()):
        raise UserError(f"a matrix with numbers that are not finite cannot be {kind}")
    if kind == "bfloat16":
        return Packed(weight.bfloat16().contiguous(), weight.new_empty(0, dtype=torch.float32))
    parts = [(_rows if kind == "int8" else _groups)(part.float()) for part in weight.split(ROWS)]
    return Packed(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _rows(weight: Tensor) -> Packed:
    scales = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return Packed((weight / scales.unsqueeze(1)).round().clamp(-127, 127).to(torch.int8), scales)


def _groups(weight: Tensor) -> Packed:
    w = weight.unflatten(1, (-1, GROUP))  # [N G 32]
    low, high = w.amin(2, keepdim=True), w.amax(2, keepdim=True)
    best = torch.full_like(low, torch.inf)
    found = torch.zeros(*w.shape[:2], 2, dtype=torch.bfloat16, device=w.device)
    numbers = torch.zeros_like(w, dtype=torch.uint8)
    for part in SHRUNK:
        q = _nearest(w, (high - low) * part / 15, low * part)
        scale, offset = _fitted(w, q)
        q = _nearest(w, scale, offset)
        error = (w - scale * q - offset).square().sum(2, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        numbers = torch.where(better, q.to(torch.uint8), numbers)
        found = torch.where(better, torch.cat((scale, offset), 2).bfloat16(), found)
    halves = numbers.unflatten(2, (2, GROUP // 2))
    return Packed((halves[:, :, 0] | (halves[:, :, 1] << 4)).flatten(1), found)


def _nearest(w: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """The q whose s q + z is nearest; where s is 0, any."""
    return ((w - offset) / torch.where(scale == 0, 1, scale)).round().clamp(0, 15)


def _fitted(w: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """The s and z of least squares for given q, as bfloat16 has them."""
    mean_q, mean_w = q.mean(2, keepdim=True), w.mean(2, keepdim=True)
    spread = (q - mean_q).square().sum(2, keepdim=True)
    scale = ((q - mean_q) * (w - mean_w)).sum(2, keepdim=True) / torch.where(spread == 0, 1, spread)
    scale = scale.bfloat16().float()
    return scale, (mean_w - scale * mean_q).bfloat16().float()


def unpack(packed: Packed, kind: Kind, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix [N K] that is meant."""
    matrix, scales = packed
    if kind == "bfloat16":
        return matrix.to(dtype)
    if kind == "int8":
        return matrix.to(dtype) * scales.to(dtype).unsqueeze(1)
    byte = matrix.unflatten(1, (-1, GROUP // 2))
    numbers = torch.stack((byte & 15, byte >> 4), 2).to(dtype)  # [N G 2 16]
    scale, offset = scales.to(dtype).unsqueeze(3).unbind(2)  # [N G 1]
    return torch.addcmul(offset.unsqueeze(3), scale.unsqueeze(3), numbers).flatten(1)


def reference(x: Tensor, packed: Packed, kind: Kind) -> Tensor:
    """x [M K] -> [M N] in x's dtype, computed in float64."""
    return (x.double() @ unpack(packed, kind, torch.float64).T).to(x.dtype)


def unpacked(x: Tensor, packed: Packed, kind: Kind) -> Tensor:
    """The same in x's dtype, float32 at least, by one product; with bfloat16 in that."""
    if kind == "bfloat16":
        return (x.bfloat16() @ packed.matrix.T).to(x.dtype)
    wide = torch.promote_types(x.dtype, torch.float32)
    if kind == "int8":  # the scale last: one pass over the matrix less
        return ((x.to(wide) @ packed.matrix.to(wide).T) * packed.scales).to(x.dtype)
    return (x.to(wide) @ unpack(packed, kind, wide).T).to(x.dtype)


def fused(x: Tensor, packed: Packed, kind: Form, bias: Tensor | None = None, arrays: "Arrays | None" = None) -> Tensor:
    """The same in float32 without the matrix in memory, plus a bias [N]: x [.. K] -> [.. N].

    arrays: what reads matrix and bias, if there is something already.
    """
    from jogak.ops._numba_quantised import product

    read = (Arrays() if arrays is None else arrays).of(packed, bias)
    if x.dtype == torch.float32:
        return product(kind, x, read, len(packed.matrix))
    return product(kind, x.float(), read, len(packed.matrix)).to(x.dtype)


class Arrays:
    """NumPy's arrays over a packed matrix and a bias, made once as long as they stay where they are; never copied."""

    def __init__(self) -> None:
        self._place: tuple[int, int] = (0, 0)
        self._made: tuple[Any, Any, Any] = (None, None, None)

    def of(self, packed: Packed, bias: Tensor | None) -> tuple[Any, Any, Any]:
        place = (packed.matrix.data_ptr(), 0 if bias is None else bias.data_ptr())
        if self._place != place:
            from jogak.ops._numba_quantised import flat

            none = torch.empty(0)
            self._place = place
            self._made = (flat(packed.matrix), flat(packed.scales), flat(none if bias is None else bias.float()))
        return self._made

    def __deepcopy__(self, memo: dict[int, Any]) -> "Arrays":
        return Arrays()

    def __reduce__(self) -> tuple[type["Arrays"], tuple[()]]:
        return Arrays, ()


def fuses(x: Tensor, kind: Form) -> bool:
    """Whether x [.. K] is of few rows, and `fused` can be used."""
    return x.numel() <= FEW[kind] * x.shape[-1] and free(x)


def free(x: Tensor) -> bool:
    """Whether x is on a CPU, with nothing to learn and nobody writing down what is done with it."""
    here = x.device.type == "cpu" and x.dtype != torch.float64 and type(x) is Tensor
    written = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return AVAILABLE and here and not torch.is_grad_enabled() and not written and x.numel() > 0


def auto(x: Tensor, packed: Packed, kind: Kind) -> Tensor:
    """x [M K] -> [M N]."""
    return (fused if fuses(x, kind) else unpacked)(x, packed, kind)
