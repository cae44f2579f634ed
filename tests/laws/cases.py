"""What the operations are tested on: a case is one set of inputs for every form of one operation."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor, nn

from jogak import registry


@dataclass(frozen=True)
class Case:
    """Arguments by name: `tensors` are cast to the dtype under test and differentiated, `others` are given as is.

    Modules among the others are cast too, and their parameters differentiated. sums: what is given are sums over
    many positions, which may stay float32.
    """

    name: str
    tensors: Mapping[str, Tensor]
    others: Mapping[str, object] = field(default_factory=dict)
    sums: bool = False

    def arguments(self, dtype: torch.dtype) -> tuple[dict[str, object], dict[str, Tensor]]:
        """Fresh keyword arguments, and by name what among them has a gradient."""
        tensors = {n: t.detach().to(dtype, copy=True).requires_grad_() for n, t in self.tensors.items()}
        others, leaves = {}, dict(tensors)
        for name, value in self.others.items():
            others[name] = value
            if isinstance(value, nn.Module):
                others[name] = cast = deepcopy(value).to(dtype)
                leaves |= {f"{name}.{n}": p for n, p in cast.named_parameters()}
        return {**tensors, **others}, leaves


def operations() -> dict[str, ModuleType]:
    """The modules of jogak.ops that offer several forms of one function: FORMS, the reference first."""
    modules = {name: import_module(f"jogak.ops.{name}") for name in registry.names("ops")}
    return {name: module for name, module in modules.items() if hasattr(module, "FORMS")}
