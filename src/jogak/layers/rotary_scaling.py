"""Stretching rotary angles so that a model reads longer texts than it was trained on.

kind 'linear': every angle divided by `factor` (Chen et al. 2023, 2306.15595). 'llama3': slow angles divided by
`factor`, fast ones kept, between them a mixture by wavelength (Llama Team 2024, 2407.21783, its published code).
'yarn': the same with a ramp over turns within the trained length, and attention sharpened (Peng et al. 2023,
2309.00071, sections 3.2 to 3.4).

Legend: R numbers of a head that are turned.
"""

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from jogak.errors import UserError, nearest

Options = Mapping[str, str | float | bool]
KNOWN = {
    "linear": {"factor"},
    "llama3": {"factor", "low", "high", "trained_length"},
    "yarn": {"factor", "trained_length", "fast", "slow", "amplitude", "truncate"},
}


def check(options: Options) -> None:
    """Refuse what is not known, or not above zero.

    Raises: UserError.
    """
    kind = str(options.get("kind"))
    if kind not in KNOWN:
        raise UserError(f"rotary_scaling: there is no kind '{kind}'{nearest(kind, KNOWN)}")
    for name, value in options.items():
        if name == "kind":
            continue
        if name not in KNOWN[kind]:
            raise UserError(f"rotary_scaling: '{kind}' has no option '{name}'{nearest(name, KNOWN[kind])}")
        if name != "truncate" and (isinstance(value, str) or not value > 0):
            raise UserError(f"rotary_scaling: '{name}' must be a number above 0, got {value!r}")
    needed = KNOWN[kind] - {"fast", "slow", "amplitude", "truncate"}
    if lacking := sorted(needed - options.keys()):
        raise UserError(f"rotary_scaling: '{kind}' needs '{lacking[0]}'")


def amplitude(options: Options | None) -> float:
    """What sines and cosines are multiplied by: 1 but for yarn, whose 0.1 ln(factor) + 1 sharpens the attention."""
    if options is None:
        return 1.0
    check(options)
    if options["kind"] != "yarn":
        return 1.0
    given = options.get("amplitude")
    return float(given) if given is not None else 0.1 * math.log(max(1.0, float(options["factor"]))) + 1.0


def stretch(speed: Tensor, base: float, turned: int, options: Options) -> Tensor:
    """Angles for each position, stretched: [R/2] -> [R/2]."""
    factor = float(options["factor"])
    if options["kind"] == "linear":
        return speed / factor
    if options["kind"] == "llama3":
        low, high, trained = (float(options[name]) for name in ("low", "high", "trained_length"))
        turns = trained * speed / (2 * math.pi)  # within the trained length
        kept = ((turns - low) / (high - low)).clamp(0, 1)
    else:
        kept = 1 - _ramp(base, turned, options).to(speed.device)
    return speed / factor * (1 - kept) + speed * kept


def _ramp(base: float, turned: int, options: Options) -> Tensor:
    """0 for pairs that turn `fast` times or more within the trained length, 1 for `slow` times or fewer: [R/2]."""

    def place(turns: float) -> float:
        return turned * math.log(float(options["trained_length"]) / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = place(cast(float, options.get("fast", 32.0))), place(cast(float, options.get("slow", 1.0)))
    if options.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, turned - 1)
    return ((torch.arange(turned // 2, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0, 1)
