"""Two encoders whose vectors are compared: pictures and what they are called, say.

Legend: B rows of the first tower, N of the second, E numbers of a vector.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jogak import config
from jogak.errors import UserError
from jogak.models.topologies import Encoder


class Towers(nn.Module):
    """exp(s) u / |u| . v / |v| for every u of the first tower and v of the second: -> logits [B N]; s is learned.

    Raises: UserError for towers whose vectors have different sizes, or one of units whose vocabulary is not known.
    Source: Radford et al. 2021 (2103.00020) section 2.3.
    """

    def __init__(self, given: config.Model) -> None:
        super().__init__()
        assert given.towers is not None
        sizes = [tower.head.size or tower.width for tower in given.towers]
        if sizes[0] != sizes[1]:
            raise UserError(f"model.towers: vectors of {sizes[0]} and {sizes[1]} numbers; give both one head.size")
        self.config = given
        self.first, self.second = (_tower(tower) for tower in given.towers)
        self.scale = nn.Parameter(torch.full((), math.log(1 / 0.07)))

    def forward(
        self, first: Tensor, second: Tensor, first_mask: Tensor | None = None, second_mask: Tensor | None = None
    ) -> Tensor:
        """What each tower reads, and which places of it are real."""
        u = F.normalize(self.first(first, first_mask), dim=-1)
        v = F.normalize(self.second(second, second_mask), dim=-1)
        return self.scale.exp() * u @ v.T


def _tower(given: config.Model) -> Encoder:
    if given.input is None and given.vocab_size is None:
        raise UserError("model.towers: vocab_size of the tower that reads units is not set; set it")
    return Encoder(given, given.vocab_size or 1)
