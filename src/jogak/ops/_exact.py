"""Where sums must not be rounded to a narrower type, whatever autocast says."""

from contextlib import AbstractContextManager, nullcontext

import torch


def exact(device: torch.device) -> AbstractContextManager[object]:
    """No autocast on this device; the meta device has none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
