"""The loss of a head over units."""

import torch.nn.functional as F
from torch import Tensor

from jogak.errors import UserError
from jogak.models import Decoder
from jogak.models.heads import TokenHead
from jogak.ops import cross_entropy


def token_loss(model: Decoder, hidden: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Sums over N targets of the label-smoothed loss and of -log p(target): hidden [N D], targets [N].

    Raises: UserError for a model whose head gives no scores of units.
    """
    head = model.head
    if not isinstance(head, TokenHead):
        raise UserError("model.head: there are no scores of units to train; set kind to units")
    if head.plain:  # the logits are never kept
        return cross_entropy.auto(hidden, head.projection.weight, targets, smoothing)
    logits = head(hidden).float()
    loss = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    return loss, F.cross_entropy(logits.detach(), targets, reduction="sum")
