"""W x + b, with a product of its own for the few rows of a step of decoding."""

from typing import Any

import torch
from torch import Tensor, nn

from jogak.ops import linear, quantised
from jogak.ops.quantised import Form, Packed

FORMS: dict[torch.dtype, Form] = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
LEAST = 1 << 19  # numbers of a matrix: with smaller ones nobody writes so much that numba's import is worth it


class Linear(nn.Linear):
    """y = x W^T + b: [... K] -> [... N].

    Of a few rows on a CPU, where nothing is learned, torch's products read W at half of the speed that memory has.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:  # torch's
        super().__init__(in_features, out_features, bias)
        self._arrays = quantised.Arrays()

    @property
    def kind(self) -> Form | None:
        """What the matrix is read as by compiled products; None: by none."""
        whole = self.weight.is_contiguous() and quantised.fits(self.weight.shape[1])
        return FORMS.get(self.weight.dtype) if whole else None

    def arrays(self) -> tuple[Any, Any, Any]:
        """What they read: see ops.quantised.Arrays."""
        return self._arrays.of(Packed(self.weight, self.weight), self.bias)

    def forward(self, input: Tensor) -> Tensor:  # torch's name for it
        weight, x = self.weight, input
        many = x.numel() > quantised.FEW["float32"] * x.shape[-1]
        if many or weight.numel() < LEAST or not quantised.fits(x.shape[-1]):
            return linear.auto(x, weight, self.bias)
        form = FORMS.get(weight.dtype) if x.dtype == weight.dtype else None
        if form is None or not quantised.fuses(x, form) or torch.is_autocast_enabled("cpu"):
            return linear.auto(x, weight, self.bias)
        if not weight.is_contiguous():  # some checkpoints have it transposed; from now on it is read at every step
            with torch.inference_mode(False), torch.no_grad():
                weight.data = weight.detach().contiguous()
        return quantised.fused(x, Packed(weight, weight), form, self.bias, self._arrays)
