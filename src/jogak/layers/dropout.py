"""Dropout as a layer: active in training, the identity otherwise."""

from torch import Tensor, nn

from jogak.ops.dropout import dropout


class Dropout(nn.Module):
    """x [...] -> x [...] with each number dropped with probability p while training (see ops.dropout)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training and self.p > 0 else x

    def extra_repr(self) -> str:
        return f"p={self.p}"
