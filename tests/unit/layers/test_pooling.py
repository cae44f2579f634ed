"""Pooling: padding never matters, and the sentence CNN's convolutions are what their equation says."""

import pytest
import torch

from jogak.errors import UserError
from jogak.layers.pooling import POOLS, Convolutions

T, D = 7, 5


def pools():
    torch.manual_seed(0)
    made = {name: pool(D) for name, pool in POOLS.items()}
    return {**made, "convolutions": Convolutions(D, (1, 3, 9), 4)}


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("name", [*POOLS, "convolutions"])
def test_padding_changes_nothing_whatever_it_holds(name, side):
    pool, x = pools()[name].double(), torch.randn(2, T, D, dtype=torch.float64)
    left, right = {"left": (3, 0), "right": (0, 3), "both": (10, 2)}[side]
    filler = torch.full((2, left + right, D), torch.nan, dtype=torch.float64)
    padded = torch.cat([filler[:, :left], x, filler[:, left:]], dim=1)
    mask = torch.zeros(2, T + left + right, dtype=torch.bool)
    mask[:, left : left + T] = True
    torch.testing.assert_close(pool(padded, mask), pool(x))


@pytest.mark.parametrize("name", [*POOLS, "convolutions"])
def test_a_row_without_positions_gives_no_nan(name):
    mask = torch.tensor([[True, True], [False, False]])
    found = pools()[name](torch.full((2, 2, D), 2.0).masked_fill(~mask.unsqueeze(-1), torch.nan), mask)
    assert found[1].eq(0).all()
    assert not found.isnan().any()


def test_pools_are_what_their_names_say():
    x = torch.tensor([[[1.0], [5.0], [3.0]]])
    mask = torch.tensor([[True, True, False]])
    told = {name: float(pool(1)(x, mask)) for name, pool in POOLS.items()}
    assert told == {"mean": 3.0, "max": 5.0, "first": 1.0, "last": 5.0}


def test_convolutions_longhand():
    pool, x = Convolutions(D, (2, 4), 3), torch.randn(1, T, D)
    expected = []
    for width, window in zip(pool.widths, pool.windows, strict=True):
        padded = torch.cat([torch.zeros(width - 1, D), x[0], torch.zeros(width - 1, D)])
        places = [window(padded[t : t + width].flatten()).relu() for t in range(T + width - 1)]
        expected.append(torch.stack(places).amax(0))
    torch.testing.assert_close(pool(x)[0], torch.cat(expected))


def test_widths_must_be_widths():
    with pytest.raises(UserError, match="at least 1"):
        Convolutions(D, (3, 0))
