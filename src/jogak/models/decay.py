"""Which parameters weight decay pulls towards zero: matrices, but for those whose module says that zero means nothing.

A module says so by `undecayed`, the names of such parameters of its own.
"""

from torch import nn


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that are trained: those that decay, and those that do not, each in the model's order.

    Vectors (biases, gains, logarithms of steps) never decay.
    """
    spared = set()
    for module in model.modules():
        names = getattr(module, "undecayed", ())
        spared.update(id(p) for name, p in module.named_parameters(recurse=False) if name in names)
    decayed, kept = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim >= 2 and id(parameter) not in spared else kept).append(parameter)
    return decayed, kept
