"""AdamW as the recipe configures it, its state as named tensors, and clipping."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim import AdamW

from jogak import config
from jogak.errors import UserError
from jogak.models import decay
from jogak.ops.total_norm import total_norm

_STATE = ("exp_avg", "exp_avg_sq", "step")


def build(model: nn.Module, train: config.Train) -> AdamW:
    """Fused AdamW (1711.05101); decay is decoupled and acts on matrices only, not on all of them: `models.decay`."""
    decayed, kept = decay.split(model)
    if not decayed and not kept:
        raise UserError("the model has no parameter to train; unfreeze some")
    groups = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return AdamW([g for g in groups if g["params"]], lr=train.rate, betas=train.betas, eps=train.eps, fused=True)


def set_rate(optimiser: AdamW, rate: float) -> None:
    """Make `rate` the learning rate of the next update."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def tensors(optimiser: AdamW, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as `exp_avg/NAME`, `exp_avg_sq/NAME`, `step/NAME`; empty before the first update."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        state = optimiser.state.get(parameter, {})
        found.update({f"{kind}/{name}": state[kind] for kind in _STATE if kind in state})
    return found


def load(optimiser: AdamW, model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Put back what `tensors` gave.

    Raises: UserError if the state is of another model.
    """
    if not saved:
        return
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    wanted = {f"{kind}/{name}" for name in trained for kind in _STATE}
    if strange := sorted(wanted ^ set(saved)):
        raise UserError(f"the optimiser's state is of another model: '{strange[0]}' is on one side only")
    for name, parameter in trained.items():
        device = parameter.device
        optimiser.state[parameter] = {kind: saved[f"{kind}/{name}"].to(device).clone() for kind in _STATE}


def clip(optimiser: AdamW, limit: float | None) -> Tensor:
    """Have the next update divide the gradients so that their joint norm is at most `limit`; returns the norm before.

    The division costs no pass of its own: AdamW does it with what it reads. The norm stays on the device.
    """
    given = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    norm = total_norm(given)
    scale = None if limit is None else ((norm + 1e-6) / limit).clamp_(min=1).float()
    # On a CPU looking at the norm costs nothing, and spares the division where they are small already.
    small = scale is None or (scale.device.type == "cpu" and scale.item() == 1)
    optimiser.grad_scale = None if small else scale  # pyright: ignore[reportAttributeAccessIssue]  # as GradScaler does
    return norm
