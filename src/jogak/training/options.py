"""Options that change how a model is computed and not what it computes."""

import os
import shutil
import sys

import torch
from torch import nn

from jogak import config
from jogak.errors import UserError
from jogak.models import Stack


def apply_options(model: nn.Module, train: config.Train, device: torch.device) -> None:
    """Switch on gradient checkpointing and torch.compile where the recipe asks for them.

    Raises: UserError where the model or the machine cannot.
    """
    if train.gradient_checkpointing:
        offering = [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]
        if not offering:
            kind = type(model).__name__
            raise UserError(f"train.gradient_checkpointing: {kind} does not offer it; set it to false")
        for module in offering:
            setattr(module, "gradient_checkpointing", True)  # noqa: B010  # a plain attribute, not a submodule
    if train.compile:
        check_compiler(device)
        # A task may call a model by other ways than its forward; its stacks, where the time goes, are always called.
        for module in [m for m in model.modules() if isinstance(m, Stack)] or [model]:
            module.compile(dynamic=True)  # batches differ in length


def check_compiler(device: torch.device) -> None:
    """torch.compile writes C++ for a CPU.

    Raises: UserError where there is no compiler.
    """
    wanted = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and shutil.which(wanted) is None:
        raise UserError(
            f"train.compile needs a C++ compiler on a CPU, and '{wanted}' was not found; install it "
            "(Debian: apt install g++), name another in CXX, or set train.compile=false"
        )


def is_compile_failure(error: Exception) -> bool:
    """Whether an error comes out of torch.compile's machinery and not out of the model."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
