"""Where sums must not be rounded to a narrower type, whatever autocast says."""

from contextlib import AbstractContextManager, nullcontext

import torch


def exact(device: torch.device) -> AbstractContextManager[object]:
    """Products are of the dtype of their factors on this device; the meta device knows no autocast anyway."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()
