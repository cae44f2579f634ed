"""Dropout as a layer: active in training, the identity otherwise."""

from torch import Tensor, nn

from jogak.ops.dropout import dropout


class Dropout(nn.Module):
    """x [...] -> x [...] with each number dropped with probability p while training, added to `onto` where that is
    given (see ops.dropout)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        if self.training and self.p > 0:
            return dropout(x, self.p, onto)
        return x if onto is None else onto + x

    def extra_repr(self) -> str:
        return f"p={self.p}"
